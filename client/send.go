package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// maxBody bounds an answer; the largest is a page of a scan. Only tests change it.
var maxBody = 256 << 20

// request is one exchange, before it is known which node gets it.
type request struct {
	op       string
	method   string
	path     []string // elements, not escaped
	query    url.Values
	header   http.Header
	body     []byte
	keyspace string // empty: not about keys
	read     bool   // it changes nothing
	cas      bool   // applying it twice is impossible
	change   bool   // of the cluster: the node that refuses it has tried for a while itself
	id       string // the nodes know it again: sent twice, it is applied once
	attempts int
}

// repeatable reports whether rq may be sent again, though an attempt since began may
// have been done.
func (rq request) repeatable(began time.Time) bool {
	return rq.read || rq.cas || rq.id != "" && time.Since(began) < idsTrusted
}

// decided reports whether a, which is an error, settles what became of every attempt: a
// condition that did not hold is the answer to the request's id, whichever attempt it
// was that was evaluated, and all others get the same.
func (rq request) decided(a answer, e *fulcrum.Error) bool {
	return rq.id != "" && a.status == http.StatusPreconditionFailed && e.Code == fulcrum.CodeConflict
}

// answer is what came back with a 2xx status.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	receipt consistency.Receipt
	base    string
}

// do sends rq to the first of targets, and on a definite error to the next, with a
// pause that grows, until one answers, ctx ends or rq.attempts are used up.
//
// Invariant: once an attempt may have taken effect, the call ends with success or
// with an unknown outcome, never with "not done": maybe remembers it. Only reads
// and compare-and-sets by version go on after such an attempt. For the latter a
// success is whole: either attempt, not both, replaced that version. A conflict
// then means that somebody did, perhaps we: unknown.
func (c *Client) do(ctx context.Context, rq request, targets []string) (answer, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var maybe *fulcrum.Error
	pause, began := 20*time.Millisecond, time.Now()
	targets = c.soundFirst(targets)
	for attempt := 1; ; attempt++ {
		target := targets[(attempt-1)%len(targets)]
		a, e := c.attempt(ctx, rq, target, rq.attempts-attempt, len(targets) > 1)
		if rq.keyspace != "" {
			c.observe(rq.keyspace, a.receipt)
		}
		if e == nil {
			c.prefer(target)
			return a, nil
		}
		if rq.decided(a, e) {
			return a, e
		}
		if e.Maybe && !rq.read {
			maybe = e
		}
		again := e.Maybe && rq.repeatable(began) || retryable(e) && (maybe == nil || rq.repeatable(began))
		if rq.change && attempt >= len(targets) && e.Code == fulcrum.CodeUnavailable && !unreached(e) {
			again = false // nobody else is left to ask
		}
		if !again || attempt >= rq.attempts || ctx.Err() != nil {
			return a, verdict(e, maybe)
		}
		if e.Code == fulcrum.CodeNotLeader || e.Code == fulcrum.CodeEpoch {
			c.forget(rq.keyspace)
		}
		targets = c.hinted(e, targets, attempt)
		if (unreached(e) || errors.Is(e, errNoSign)) && attempt < len(targets) {
			continue // the next node, at once
		}
		if !sleep(ctx, pause/2+rand.N(pause/2)) {
			return a, verdict(e, maybe)
		}
		pause = min(2*pause, time.Second)
	}
}

// attempt sends rq once. What may be sent again, with more attempts to come, gets
// half of the time that is left, so that one node does not eat all of it; and it waits for no
// node that gives no sign of life, if there are others.
func (c *Client) attempt(ctx context.Context, rq request, target string, more int, others bool) (answer, *fulcrum.Error) {
	again := more > 0 && (rq.read || rq.cas || rq.id != "")
	if deadline, ok := ctx.Deadline(); ok && again {
		half, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
		ctx = half
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	stop := c.lookAfter(ctx, target, func() {
		c.avoid(target, rq.keyspace)
		if again && others {
			giveUp(errNoSign)
		}
	})
	began := time.Now()
	a, e := c.send(ctx, rq, target)
	alive := stop()
	switch {
	case e == nil || a.status != 0:
		c.answers(target)
	case !alive && time.Since(began) > askAfter: // no answer, and too little time for the second question
		c.avoid(target, rq.keyspace)
	}
	return a, e
}

// verdict is how a call ends that ends with e, when maybe is an attempt that may
// have taken effect.
func verdict(e, maybe *fulcrum.Error) error {
	if maybe == nil || e.Maybe {
		return e
	}
	return &fulcrum.Error{Code: fulcrum.CodeUnknown, Maybe: true, Op: maybe.Op, Node: maybe.Node, Err: e,
		Detail: "an earlier attempt got no answer (" + maybe.Detail + "), and the last one failed"}
}

// hinted puts the node that a not-leader error names next.
func (c *Client) hinted(e *fulcrum.Error, targets []string, next int) []string {
	if e.Code != fulcrum.CodeNotLeader || e.Hint == "" {
		return targets
	}
	c.mu.Lock()
	at, ok := c.nodes[fulcrum.NodeID(e.Hint)]
	c.mu.Unlock()
	if !ok || len(targets) < 2 {
		return targets // one target only: the caller chose it
	}
	return slices.Insert(slices.Clone(targets), next%len(targets), at)
}

func retryable(e *fulcrum.Error) bool {
	if e.Maybe {
		return false
	}
	switch e.Code {
	case fulcrum.CodeUnavailable, fulcrum.CodeNotLeader, fulcrum.CodeEpoch, fulcrum.CodeOverloaded:
		return true
	}
	return false
}

// errUnreached is the cause of an error of a node that no byte was sent to.
var errUnreached = errors.New("not reached")

func unreached(e *fulcrum.Error) bool { return errors.Is(e, errUnreached) }

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// send makes one attempt.
func (c *Client) send(ctx context.Context, rq request, base string) (answer, *fulcrum.Error) {
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	hr, err := newRequest(ctx, rq, base)
	if err != nil {
		return answer{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
	}
	resp, err := c.http.Do(hr)
	if err != nil {
		unsent := !connected.Load() && (c.own != nil || dialing(err))
		return answer{}, sendError(rq, base, because(ctx, err), unsent)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header, base: base}
	a.receipt = receiptOf(resp.Header)
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, int64(maxBody)+1))
	switch {
	case err != nil && (rq.read || resp.StatusCode >= 300):
		return a, sendError(rq, base, err, false)
	case len(a.body) > maxBody && !rq.read: // it was carried out, perhaps
		return a, fulcrum.Errorf(fulcrum.CodeUnknown, "answer over %d bytes to a change", maxBody)
	case len(a.body) > maxBody:
		return a, fulcrum.Errorf(fulcrum.CodeTooLarge, "answer over %d bytes", maxBody)
	case resp.StatusCode < 300:
		return a, nil
	}
	return a, problemError(rq, a)
}

func newRequest(ctx context.Context, rq request, base string) (*http.Request, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	var plain, escaped strings.Builder
	for _, e := range rq.path {
		plain.WriteString("/" + e)
		x := url.PathEscape(e)
		if e == "." || e == ".." { // what stands between us and the node must not resolve it
			x = strings.ReplaceAll(e, ".", "%2E")
		}
		escaped.WriteString("/" + x)
	}
	u.Path, u.RawPath, u.RawQuery = plain.String(), escaped.String(), rq.query.Encode()
	var body io.Reader
	if rq.body != nil {
		body = bytes.NewReader(rq.body)
	}
	hr, err := http.NewRequestWithContext(ctx, rq.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	for k, v := range rq.header {
		hr.Header[k] = v
	}
	return hr, nil
}

func dialing(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// sendError is an exchange that failed below HTTP. What had no connection
// (unsent) was not done, nor was what only reads; anything else may have been. That the
// last thing that failed was a dial says nothing: net/http sends what has an
// Idempotency-Key again by itself, over another connection, when one is lost.
func sendError(rq request, base string, err error, unsent bool) *fulcrum.Error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the address, which is said once
	}
	e := &fulcrum.Error{Op: rq.op, Detail: "no answer from " + strings.TrimPrefix(base, "http://"), Err: err}
	switch {
	case unsent:
		e.Code, e.Detail, e.Err = fulcrum.CodeUnavailable, "cannot reach "+strings.TrimPrefix(base, "http://"), fmt.Errorf("%w: %w", errUnreached, err)
	case rq.read:
		e.Code = fulcrum.CodeUnavailable
	default:
		e.Code, e.Maybe = fulcrum.CodeUnknown, true
	}
	return e
}

// problemError turns an answer of 3xx to 5xx into an error. One that is no problem
// of ours (a proxy's) leaves the outcome of a write open, unless it is 4xx.
func problemError(rq request, a answer) *fulcrum.Error {
	var p struct {
		Detail, Outcome, Hint, Op string
		Code                      fulcrum.Code
		Node                      fulcrum.NodeID
	}
	if err := json.Unmarshal(a.body, &p); err != nil || p.Code == "" {
		line, _, _ := strings.Cut(strings.TrimSpace(string(a.body[:min(len(a.body), 200)])), "\n")
		e := &fulcrum.Error{Code: fulcrum.CodeInvalid, Op: rq.op, Detail: fmt.Sprintf("HTTP status %d from %s: %s", a.status, a.base, line)}
		switch {
		case a.status < 500:
		case rq.read:
			e.Code = fulcrum.CodeUnavailable
		default:
			e.Code, e.Maybe = fulcrum.CodeUnknown, true
		}
		return e
	}
	op := p.Op
	if op == "" {
		op = rq.op
	}
	return &fulcrum.Error{Code: p.Code, Op: op, Node: p.Node, Detail: p.Detail, Hint: p.Hint, Maybe: p.Outcome == "unknown"}
}

// receiptOf reads the reply's receipt; the zero Receipt when there is none.
func receiptOf(h http.Header) consistency.Receipt {
	text := h.Get("Fulcrum-Receipt")
	if text == "" {
		return consistency.Receipt{}
	}
	rc, err := consistency.ReceiptOf(text)
	if err != nil {
		return consistency.Receipt{}
	}
	rc.Session = consistency.Token(h.Get("Fulcrum-Session"))
	return rc
}
