package resp

import (
	"math"

	"fulcrum"
	"fulcrum/consistency"
)

// timeUnit says how to read an expiry: as milliseconds or seconds, from now or
// absolute.
type timeUnit struct {
	scale    int64 // milliseconds
	absolute bool
}

func parseUnit(arg []byte) (timeUnit, bool) {
	switch {
	case word(arg, "EX"):
		return timeUnit{scale: 1000}, true
	case word(arg, "PX"):
		return timeUnit{scale: 1}, true
	case word(arg, "EXAT"):
		return timeUnit{scale: 1000, absolute: true}, true
	case word(arg, "PXAT"):
		return timeUnit{scale: 1, absolute: true}, true
	}
	return timeUnit{}, false
}

// expiry reads the expiry of SET and GETEX, which must be positive, into w. A
// relative one stays relative: it counts from when the write takes effect, by the
// clock of whoever orders it.
func (c *conn) expiry(w *fulcrum.Write, arg []byte, u timeUnit, name string) error {
	n, ok := parseInt(arg)
	if !ok {
		return errNotInteger
	}
	at, ok := u.from(n, c.s.backend.Now())
	if n <= 0 || !ok {
		return invalidExpire(name)
	}
	u.set(w, n, at)
	return nil
}

// set makes w expire at n, which is at in Unix milliseconds and in the future.
func (u timeUnit) set(w *fulcrum.Write, n, at int64) {
	if u.absolute {
		w.ExpireAt = at
		return
	}
	w.TTL = n * u.scale
}

func invalidExpire(name string) error {
	return refusal("ERR invalid expire time in '" + name + "' command")
}

// from converts n to Unix milliseconds; false: it does not fit.
func (u timeUnit) from(n, now int64) (int64, bool) {
	if n > math.MaxInt64/u.scale || n < math.MinInt64/u.scale {
		return 0, false
	}
	n *= u.scale
	if u.absolute {
		return n, true
	}
	if n > math.MaxInt64-now {
		return 0, false
	}
	return now + n, true
}

// over reports whether a time of EXPIRE is over, whoever's clock it is read by.
func (c *conn) over(u timeUnit, n, at int64) bool {
	if !u.absolute {
		return n <= 0
	}
	return at <= 0 || c.past(at)
}

// past reports whether at, in Unix milliseconds, is over. Mode raft goes by the shard's leader's
// clock: where this node's clock is ahead, what it takes for over may be far away, and what is over
// for the leader, too, goes there.
func (c *conn) past(at int64) bool {
	if at > c.s.backend.Now() {
		return false
	}
	ks, err := c.keyspace()
	return err != nil || ks.Mode != raftMode
}

// Conditions of EXPIRE on the expiry that the key has.
const (
	ttlAbsent  = 1 << iota // NX: it has none
	ttlPresent             // XX: it has one
	ttlLater               // GT: the new one is later
	ttlEarlier             // LT: the new one is earlier
)

func expireWrite(u timeUnit, name string) func(*conn, [][]byte, *fulcrum.Write) (writeReply, int64, error) {
	return func(c *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
		if len(args) > 3 {
			return nil, 0, errAlone
		}
		n, at, err := c.expireAt(args[2], u, name)
		if err != nil {
			return nil, 0, err
		}
		c.expireTo(w, args[1], u, n, at)
		return replyApplied, 0, nil
	}
}

// expireAt reads the time of EXPIRE, which may lie in the past: as it is, and in Unix
// milliseconds.
func (c *conn) expireAt(arg []byte, u timeUnit, name string) (n, at int64, err error) {
	n, ok := parseInt(arg)
	if !ok {
		return 0, 0, errNotInteger
	}
	at, ok = u.from(n, c.s.backend.Now())
	if !ok {
		return 0, 0, invalidExpire(name)
	}
	return n, at, nil
}

// expireTo makes w set the expiry of a live key to n, which is at in Unix
// milliseconds; one that is over deletes it.
func (c *conn) expireTo(w *fulcrum.Write, key []byte, u timeUnit, n, at int64) {
	w.Key = key
	bare(w)
	if c.over(u, n, at) {
		w.Op, w.If = fulcrum.OpDelete, fulcrum.IfPresent
		return
	}
	w.Op = fulcrum.OpExpire
	u.set(w, n, at)
}

// expireRun is EXPIRE with NX, XX, GT or LT.
func expireRun(u timeUnit, name string) func(*conn, [][]byte) {
	return func(c *conn, args [][]byte) {
		n, at, err := c.expireAt(args[2], u, name)
		if err != nil {
			c.fail(err)
			return
		}
		when, err := parseTTLConditions(args[3:])
		if err != nil {
			c.fail(err)
			return
		}
		var w fulcrum.Write
		c.expireTo(&w, args[1], u, n, at)
		_, done, err := c.expireWhere(w, func(old int64) bool { return ttlHolds(when, old, at) })
		if err != nil {
			c.fail(err)
			return
		}
		c.out.flag(done)
	}
}

// expireWhere does w, which is about the expiry of its key alone, where a live value stands
// whose expiry (0: none) holds; e is what was read, with its value. No fulcrum.Write can
// test an expiry, so it reads, decides, and writes only where the version that it has read
// still stands: nothing can come between. The read is linearizable whatever the
// connection's level, as that of WATCH: at a weaker one a value of long ago would decide.
func (c *conn) expireWhere(w fulcrum.Write, holds func(old int64) bool) (e fulcrum.Entry, done bool, err error) {
	ks, err := c.keyspace()
	if err != nil {
		return e, false, err
	}
	if ks.Mode == quorumMode { // it has no such step, and says so
		_, err = c.one(w)
		return e, false, err
	}
	const attempts = 16
	for range attempts {
		e, live, err := c.get(w.Key, consistency.L(consistency.Linearizable))
		switch {
		case err != nil:
			return e, false, err
		case !live:
			return fulcrum.Entry{}, false, nil
		case !holds(e.ExpireAt):
			return e, false, nil
		}
		w.If, w.At = fulcrum.IfVersion, e.Version
		if res, err := c.one(w); err != nil || res.Applied {
			return e, err == nil, err
		}
	}
	return e, false, contended(attempts)
}

// contended is for commands that give up because others were always faster.
func contended(attempts int) error {
	return fulcrum.Errorf(fulcrum.CodeConflict, "the key changed %d times meanwhile; nothing was done", attempts).WithHint("try again")
}

func parseTTLConditions(words [][]byte) (int, error) {
	when := 0
	for _, a := range words {
		switch {
		case word(a, "NX"):
			when |= ttlAbsent
		case word(a, "XX"):
			when |= ttlPresent
		case word(a, "GT"):
			when |= ttlLater
		case word(a, "LT"):
			when |= ttlEarlier
		default:
			return 0, refusal("ERR Unsupported option " + string(a[:min(len(a), 64)]))
		}
	}
	if when&ttlAbsent != 0 && when&^ttlAbsent != 0 {
		return 0, refusal("ERR NX and XX, GT or LT options at the same time are not compatible")
	}
	if when&ttlLater != 0 && when&ttlEarlier != 0 {
		return 0, refusal("ERR GT and LT options at the same time are not compatible")
	}
	return when, nil
}

// ttlHolds says whether the conditions allow to replace old (0: none, which counts
// as infinitely late) by at.
func ttlHolds(when int, old, at int64) bool {
	switch {
	case when&ttlAbsent != 0 && old != 0:
		return false
	case when&ttlPresent != 0 && old == 0:
		return false
	case when&ttlLater != 0 && (old == 0 || at <= old):
		return false
	case when&ttlEarlier != 0 && old != 0 && at >= old:
		return false
	}
	return true
}

// persist removes the expiry of a key. Where there is none it writes nothing: the key keeps
// its version, so nobody who watches it is told of a change.
func (c *conn) persist(key []byte) (e fulcrum.Entry, done bool, err error) {
	w := fulcrum.Write{Op: fulcrum.OpExpire, Key: key}
	bare(&w)
	return c.expireWhere(w, func(old int64) bool { return old != 0 })
}

func runPersist(c *conn, args [][]byte) {
	_, done, err := c.persist(args[1])
	if err != nil {
		c.fail(err)
		return
	}
	c.out.flag(done)
}

// insidePersist is PERSIST inside a transaction, where nothing can be read first: it writes
// in any case.
func insidePersist(_ *conn, args [][]byte) (txnStep, error) {
	w := fulcrum.Write{Op: fulcrum.OpExpire, Key: args[1]}
	bare(&w)
	return single(w, func(c *conn, res *fulcrum.Result) { c.out.flag(res.Applied && res.Old.ExpireAt != 0) }), nil
}

// readTTL answers with the time to live, or with the time of expiry, in units of
// scale milliseconds, rounded to the nearest as Redis does.
func readTTL(scale int64, absolute bool) func([][]byte) (readReply, int64, int64, error) {
	reply := func(c *conn, e *fulcrum.Entry, live bool, scale, absolute int64) {
		switch {
		case !live:
			c.out.integer(-2)
		case e.ExpireAt == 0:
			c.out.integer(-1)
		default:
			ms := e.ExpireAt
			if absolute == 0 {
				ms = max(0, ms-c.s.backend.Now())
			}
			c.out.integer(ms/scale + (ms%scale*2)/scale)
		}
	}
	flag := int64(0)
	if absolute {
		flag = 1
	}
	return func([][]byte) (readReply, int64, int64, error) { return reply, scale, flag, nil }
}
