package resp

import (
	"errors"
	"math"
	"strconv"

	"fulcrum"
)

// stringCommands are the commands on values.
func stringCommands() []command {
	return []command{
		{name: "get", arity: 2, flags: "readonly fast", first: 1, last: 1, step: 1, group: "string", since: "1.0.0", summary: "Returns the value of a key.", read: readGet},
		{name: "set", arity: -3, flags: "write denyoom", first: 1, last: 1, step: 1, group: "string", since: "1.0.0", summary: "Sets the value of a key, under a condition and with an expiry if asked.", write: writeSet, run: runSwap, inside: insideSet},
		{name: "setnx", arity: 3, flags: "write denyoom fast", first: 1, last: 1, step: 1, group: "string", since: "1.0.0", summary: "Sets the value of a key only when the key does not exist.", write: writeSetNX},
		{name: "setex", arity: 4, flags: "write denyoom", first: 1, last: 1, step: 1, group: "string", since: "2.0.0", summary: "Sets the value of a key and its expiry in seconds.", write: writeSetEX(1000, "setex")},
		{name: "psetex", arity: 4, flags: "write denyoom", first: 1, last: 1, step: 1, group: "string", since: "2.6.0", summary: "Sets the value of a key and its expiry in milliseconds.", write: writeSetEX(1, "psetex")},
		{name: "getset", arity: 3, flags: "write denyoom fast", first: 1, last: 1, step: 1, group: "string", since: "1.0.0", summary: "Sets the value of a key and returns the previous one.", run: runSwap, inside: insideGetSet},
		{name: "getdel", arity: 2, flags: "write fast", first: 1, last: 1, step: 1, group: "string", since: "6.2.0", summary: "Returns the value of a key and deletes the key.", write: writeGetDel},
		{name: "getex", arity: -2, flags: "write fast", first: 1, last: 1, step: 1, group: "string", since: "6.2.0", summary: "Returns the value of a key and sets or removes its expiry.", write: writeGetEx, run: runGetEx, inside: insideGetEx},
		{name: "mget", arity: -2, flags: "readonly fast", first: 1, last: -1, step: 1, group: "string", since: "1.0.0", summary: "Returns the values of several keys.", run: runMGet, inside: insideMGet},
		{name: "mset", arity: -3, flags: "write denyoom", first: 1, last: -1, step: 2, group: "string", since: "1.0.1", summary: "Sets the values of several keys, each for itself: not atomic as a whole.", run: runMSet, inside: insideMSet},
		{name: "msetnx", arity: -3, flags: "write denyoom", first: 1, last: -1, step: 2, group: "string", since: "1.0.1", summary: "Sets the values of several keys of one shard when none of them exists.", run: runMSetNX, inside: insideMSetNX},
		{name: "append", arity: 3, flags: "write denyoom fast", first: 1, last: 1, step: 1, group: "string", since: "2.0.0", summary: "Appends to the value of a key.", write: writeAppend},
		{name: "strlen", arity: 2, flags: "readonly fast", first: 1, last: 1, step: 1, group: "string", since: "2.2.0", summary: "Returns the length of a value in bytes.", read: readStrlen, inside: insideStrlen},
		{name: "incr", arity: 2, flags: "write denyoom fast", first: 1, last: 1, step: 1, group: "string", since: "1.0.0", summary: "Adds one to the integer at a key.", write: writeIncr(1)},
		{name: "decr", arity: 2, flags: "write denyoom fast", first: 1, last: 1, step: 1, group: "string", since: "1.0.0", summary: "Subtracts one from the integer at a key.", write: writeIncr(-1)},
		{name: "incrby", arity: 3, flags: "write denyoom fast", first: 1, last: 1, step: 1, group: "string", since: "1.0.0", summary: "Adds to the integer at a key.", write: writeIncrBy},
		{name: "decrby", arity: 3, flags: "write denyoom fast", first: 1, last: 1, step: 1, group: "string", since: "1.0.0", summary: "Subtracts from the integer at a key.", write: writeDecrBy},
		{name: "incrbyfloat", arity: 3, flags: "write denyoom fast", first: 1, last: 1, step: 1, group: "string", since: "2.6.0", summary: "Adds to the number at a key.", write: writeIncrByFloat},
		{name: "getrange", arity: 4, flags: "readonly", first: 1, last: 1, step: 1, group: "string", since: "2.4.0", summary: "Returns a part of a value.", read: readRange},
		{name: "substr", arity: 4, flags: "readonly", first: 1, last: 1, step: 1, group: "string", since: "1.0.0", summary: "Returns a part of a value.", read: readRange},
		{name: "setrange", arity: 4, flags: "write denyoom", first: 1, last: 1, step: 1, group: "string", since: "2.2.0", summary: "Overwrites a part of a value.", write: writeSetRange, run: runSetRange, inside: insideSetRange},
	}
}

// Replies to writes.

// Writes say which values their replies need: others would travel for nothing.

// bare is for replies that need no value.
func bare(w *fulcrum.Write) { w.NoValue, w.NoOld = true, true }

func replyOK(c *conn, _ *fulcrum.Result, _ int64) { c.out.ok() }

func replyIfApplied(c *conn, res *fulcrum.Result, _ int64) {
	if res.Applied {
		c.out.ok()
	} else {
		c.out.null()
	}
}

func replyApplied(c *conn, res *fulcrum.Result, _ int64) { c.out.flag(res.Applied) }

// replyOld answers with what stood there before. It is for writes with a condition
// only: a mode that takes writes without one blindly does not know their past.
func replyOld(c *conn, res *fulcrum.Result, _ int64) {
	if res.Old.Version.IsZero() {
		c.out.null()
	} else {
		c.out.bulk(res.Old.Value)
	}
}

func replyValue(c *conn, res *fulcrum.Result, _ int64) {
	if res.Applied {
		c.out.bulk(res.Entry.Value)
	} else {
		c.out.null()
	}
}

func replyInteger(c *conn, res *fulcrum.Result, _ int64) {
	n, err := strconv.ParseInt(string(res.Entry.Value), 10, 64)
	if err != nil {
		c.fail(fulcrum.Errorf(fulcrum.CodeInternal, "the sum is %q", res.Entry.Value))
		return
	}
	c.out.integer(n)
}

func replyLength(c *conn, res *fulcrum.Result, _ int64) { c.out.integer(int64(res.Length)) }

// Replies to reads.

func replyGet(c *conn, e *fulcrum.Entry, live bool, _, _ int64) {
	if live {
		c.out.bulk(e.Value)
	} else {
		c.out.null()
	}
}

func replyStrlen(c *conn, e *fulcrum.Entry, live bool, _, _ int64) {
	n := 0
	if live {
		n = len(e.Value)
	}
	c.out.integer(int64(n))
}

func replyRange(c *conn, e *fulcrum.Entry, live bool, start, end int64) {
	n := int64(len(e.Value))
	if !live || n == 0 || (start < 0 && end < 0 && start > end) {
		c.out.text("")
		return
	}
	if start < 0 {
		start = max(0, n+start)
	}
	if end < 0 {
		end = max(0, n+end)
	}
	end = min(end, n-1)
	if start > end {
		c.out.text("")
		return
	}
	c.out.bulk(e.Value[start : end+1])
}

func readGet([][]byte) (readReply, int64, int64, error)    { return replyGet, 0, 0, nil }
func readStrlen([][]byte) (readReply, int64, int64, error) { return replyStrlen, 0, 0, nil }

func readRange(args [][]byte) (readReply, int64, int64, error) {
	start, ok1 := parseInt(args[2])
	end, ok2 := parseInt(args[3])
	if !ok1 || !ok2 {
		return nil, 0, 0, errNotInteger
	}
	return replyRange, start, end, nil
}

func writeSet(c *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	w.Op, w.Key, w.Value = fulcrum.OpPut, args[1], args[2]
	var get, timed bool
	for i := 3; i < len(args); i++ {
		switch {
		case word(args[i], "NX") && w.If == fulcrum.IfAlways:
			w.If = fulcrum.IfAbsent
		case word(args[i], "XX") && w.If == fulcrum.IfAlways:
			w.If = fulcrum.IfPresent
		case word(args[i], "NX") && w.If == fulcrum.IfAbsent, word(args[i], "XX") && w.If == fulcrum.IfPresent:
		case word(args[i], "GET"):
			get = true
		case word(args[i], "KEEPTTL") && !timed:
			w.KeepTTL = true
		default:
			unit, ok := parseUnit(args[i])
			if !ok || timed || w.KeepTTL || i+1 == len(args) {
				return nil, 0, errSyntax
			}
			if err := c.expiry(w, args[i+1], unit, "set"); err != nil {
				return nil, 0, err
			}
			timed = true
			i++
		}
	}
	if w.ExpireAt != 0 && c.past(w.ExpireAt) { // set and gone at once: only the condition and the past count
		w.Op, w.Value, w.ExpireAt = fulcrum.OpDelete, nil, 0
		if get && w.If == fulcrum.IfAlways {
			w.If = fulcrum.IfPresent
		}
	}
	switch {
	case get && w.If == fulcrum.IfAlways && !w.KeepTTL:
		w.NoValue = true
		return nil, 0, errAlone
	case get:
		w.NoValue = true
		return replyOld, 0, nil
	case w.If != fulcrum.IfAlways:
		bare(w)
		return replyIfApplied, 0, nil
	}
	w.Quiet = true
	return replyOK, 0, nil
}

func writeSetNX(_ *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	w.Op, w.If, w.Key, w.Value = fulcrum.OpPut, fulcrum.IfAbsent, args[1], args[2]
	bare(w)
	return replyApplied, 0, nil
}

func writeSetEX(unit int64, name string) func(*conn, [][]byte, *fulcrum.Write) (writeReply, int64, error) {
	return func(c *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
		w.Op, w.Key, w.Value, w.Quiet = fulcrum.OpPut, args[1], args[3], true
		return replyOK, 0, c.expiry(w, args[2], timeUnit{scale: unit}, name)
	}
}

// runSwap is GETSET, and SET with GET and no other condition. As an OpPut without a
// condition it would be blind, and a mode without atomic read-modify-write would take
// it and not know the value before. So it is put where a value stands, or else where
// none does; whichever holds is one atomic step, and the other changes nothing.
func runSwap(c *conn, args [][]byte) {
	var w fulcrum.Write
	if word(args[0], "GETSET") {
		w = fulcrum.Write{Op: fulcrum.OpPut, Key: args[1], Value: args[2], NoValue: true}
	} else if _, _, err := writeSet(c, args, &w); err != nil && !errors.Is(err, errAlone) {
		c.fail(err)
		return
	}
	if err := w.Check(c.s.opt.MaxValue); err != nil {
		c.fail(err)
		return
	}
	const attempts = 16
	for range attempts {
		for _, w.If = range []fulcrum.If{fulcrum.IfPresent, fulcrum.IfAbsent} {
			res, err := c.one(w)
			if err != nil {
				c.fail(err)
				return
			}
			if res.Applied {
				replyOld(c, res, 0)
				return
			}
		}
	}
	c.fail(contended(attempts))
}

// writeGetDel deletes under IfPresent, so that a mode which cannot return the value
// atomically refuses it.
func writeGetDel(_ *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	w.Op, w.If, w.Key, w.NoValue = fulcrum.OpDelete, fulcrum.IfPresent, args[1], true
	return replyOld, 0, nil
}

func writeGetEx(c *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	w.Op, w.Key, w.NoValue = fulcrum.OpExpire, args[1], true // what stands there now may be over, and nothing
	switch {
	case len(args) == 2, len(args) == 3 && word(args[2], "PERSIST"):
		return nil, 0, errAlone
	}
	unit, ok := parseUnit(args[2])
	if !ok || len(args) != 4 {
		return nil, 0, errSyntax
	}
	if err := c.expiry(w, args[3], unit, "getex"); err != nil {
		return nil, 0, err
	}
	if w.ExpireAt != 0 && c.past(w.ExpireAt) {
		w.Op, w.If, w.ExpireAt = fulcrum.OpDelete, fulcrum.IfPresent, 0
	}
	return replyOld, 0, nil
}

// runGetEx is GETEX without options, a plain read, and with PERSIST.
func runGetEx(c *conn, args [][]byte) {
	var e fulcrum.Entry
	var live bool
	var err error
	if len(args) == 2 {
		e, live, err = c.get(args[1], c.readLevel)
	} else {
		e, _, err = c.persist(args[1])
		live = !e.Version.IsZero()
	}
	if err != nil {
		c.fail(err)
		return
	}
	replyGet(c, &e, live, 0, 0)
}

func writeAppend(_ *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	w.Op, w.Key, w.Value = fulcrum.OpAppend, args[1], args[2]
	bare(w)
	return replyLength, 0, nil
}

func writeIncr(by int64) func(*conn, [][]byte, *fulcrum.Write) (writeReply, int64, error) {
	text := strconv.AppendInt(nil, by, 10)
	return func(_ *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
		w.Op, w.Key, w.Value, w.NoOld = fulcrum.OpAdd, args[1], text, true
		return replyInteger, 0, nil
	}
}

func writeIncrBy(_ *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	if _, ok := parseInt(args[2]); !ok {
		return nil, 0, errNotInteger
	}
	w.Op, w.Key, w.Value, w.NoOld = fulcrum.OpAdd, args[1], args[2], true
	return replyInteger, 0, nil
}

func writeDecrBy(_ *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	n, ok := parseInt(args[2])
	switch {
	case !ok:
		return nil, 0, errNotInteger
	case n == math.MinInt64:
		return nil, 0, refusal("ERR decrement would overflow")
	}
	w.Op, w.Key, w.Value, w.NoOld = fulcrum.OpAdd, args[1], strconv.AppendInt(nil, -n, 10), true
	return replyInteger, 0, nil
}

// writeIncrByFloat takes what a float64 can hold. Smaller numbers than any that
// could show in 17 decimals count as zero.
func writeIncrByFloat(_ *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	if len(args[2]) > 256 {
		return nil, 0, errNotFloat
	}
	f, err := strconv.ParseFloat(string(args[2]), 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return nil, 0, errNotFloat
	}
	w.Op, w.Key, w.Value, w.NoOld = fulcrum.OpAddFloat, args[1], args[2], true
	if math.Abs(f) < 1e-300 {
		w.Value = []byte("0")
	}
	return func(c *conn, res *fulcrum.Result, _ int64) { c.out.bulk(res.Entry.Value) }, 0, nil
}

func writeSetRange(_ *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	offset, ok := parseInt(args[2])
	switch {
	case !ok:
		return nil, 0, errNotInteger
	case offset < 0:
		return nil, 0, errOffset
	case len(args[3]) == 0:
		return nil, 0, errAlone
	}
	w.Op, w.Key, w.Value, w.Offset = fulcrum.OpSetRange, args[1], args[3], offset
	bare(w)
	return replyLength, 0, nil
}

// runSetRange is SETRANGE of nothing: it changes nothing, as in Redis.
func runSetRange(c *conn, args [][]byte) {
	e, live, err := c.get(args[1], c.readLevel)
	if err != nil {
		c.fail(err)
		return
	}
	replyStrlen(c, &e, live, 0, 0)
}
