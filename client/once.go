package client

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"fulcrum"
)

// idsTrusted is for how long after its first attempt a request with an id is sent again
// when an attempt may have been done. Nodes remember an id for 10 minutes at least; the
// rest is for clocks that run differently and for attempts that are still under way.
const idsTrusted = 5 * time.Minute

// WithExactlyOnce makes ExactlyOnce the default of every call.
func WithExactlyOnce() Option { return WithDefaults(ExactlyOnce()) }

// ExactlyOnce gives the call an id of its own, which the nodes remember with what became
// of it. So it is tried again even when an attempt may have been done, and still takes
// effect once: far fewer calls end with an unknown outcome. It needs mode raft; others
// answer fulcrum.ErrMode. A keyspace that leaves mode raft and comes back while a call is
// tried again has forgotten its id. Reads ignore it.
func ExactlyOnce() CallOption { return func(c *call) { c.once = true } }

// RequestID is ExactlyOnce under an id that the caller chooses: a program that has been
// started again and sends the same call under the same id, within 10 minutes, gets the
// first one's answer. The same id for another call is fulcrum.ErrConflict. An id is 1 to
// 119 printable ASCII characters.
func RequestID(id string) CallOption { return func(c *call) { c.once, c.id = true, &id } }

// maxID is the longest id that nodes take in an Idempotency-Key, to which they add a little.
const maxID = fulcrum.MaxRequestID - 9

// name puts the call's id, if it is to have one, into a request that changes something.
func (c *Client) name(rq *request, o call) error {
	if !o.once || rq.read {
		return nil
	}
	id := c.nextID
	if o.id != nil {
		id = func() string { return *o.id }
	}
	rq.id = id()
	if rq.id == "" || len(rq.id) > maxID || strings.ContainsFunc(rq.id, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "request id %.120q", rq.id).WithHint("want 1 to %d printable ASCII characters, such as a UUID", maxID)
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(rq.id)
	rq.header.Set("Idempotency-Key", `"`+quoted+`"`)
	return nil
}

// newID is 16 random bytes, so that no two clients ever have the same.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func (c *Client) nextID() string { return c.self + "-" + strconv.FormatUint(c.lastID.Add(1), 10) }
