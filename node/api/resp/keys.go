package resp

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"fulcrum"
	"fulcrum/node/api"
)

// Bounds of the commands that walk a keyspace.
const (
	scanPage   = 1000    // keys of one call to the backend
	maxScan    = 10_000  // COUNT of SCAN
	maxKeys    = 100_000 // keys in one answer of KEYS
	maxKeyScan = 1e6     // keys that one KEYS looks at
	maxWait    = time.Minute
)

// keyCommands are the commands on keys and on whole keyspaces.
func keyCommands() []command {
	key := func(name string, arity int, flags, since, summary string) command {
		return command{name: name, arity: arity, flags: flags, first: 1, last: 1, step: 1, group: "generic", since: since, summary: summary}
	}
	list := []command{
		{name: "del", arity: -2, flags: "write", first: 1, last: -1, step: 1, group: "generic", since: "1.0.0", summary: "Deletes keys.", write: writeDel, run: runDel, inside: insideKeys(fulcrum.OpDelete)},
		{name: "unlink", arity: -2, flags: "write fast", first: 1, last: -1, step: 1, group: "generic", since: "4.0.0", summary: "Deletes keys.", write: writeDel, run: runDel, inside: insideKeys(fulcrum.OpDelete)},
		{name: "exists", arity: -2, flags: "readonly fast", first: 1, last: -1, step: 1, group: "generic", since: "1.0.0", summary: "Counts the keys that exist.", read: readExists, run: runExists, inside: insideKeys(fulcrum.OpGet)},
		{name: "touch", arity: -2, flags: "readonly fast", first: 1, last: -1, step: 1, group: "generic", since: "3.2.1", summary: "Counts the keys that exist.", read: readExists, run: runExists, inside: insideKeys(fulcrum.OpGet)},
		{name: "scan", arity: -2, flags: "readonly", group: "generic", since: "2.8.0", summary: "Iterates over the keys of the keyspace.", run: runScan},
		{name: "keys", arity: 2, flags: "readonly", group: "generic", since: "1.0.0", summary: "Returns the keys that match a pattern, up to 100,000.", run: runKeys},
		{name: "dbsize", arity: 1, flags: "readonly fast", group: "server", since: "1.0.0", summary: "Returns about how many keys the keyspace holds.", run: runDBSize},
		{name: "randomkey", arity: 1, flags: "readonly", group: "generic", since: "1.0.0", summary: "Returns some key; not evenly distributed in a large keyspace.", run: runRandomKey},
		{name: "flushdb", arity: -1, flags: "write", group: "server", since: "1.0.0", summary: "Deletes the keys of the keyspace, one by one.", run: runFlushDB},
		{name: "flushall", arity: -1, flags: "write", group: "server", since: "1.0.0", summary: "Refused: flush one keyspace at a time.", run: runFlushAll},
		{name: "wait", arity: 3, flags: "blocking", group: "generic", since: "3.0.0", summary: "Waits until replicas hold what was acknowledged.", run: runWait},
	}
	typ := key("type", 2, "readonly fast", "1.0.0", "Returns string or none.")
	typ.read, typ.bare = readType, true
	persist := key("persist", 2, "write fast", "2.2.0", "Removes the expiry of a key.")
	persist.run, persist.inside = runPersist, insidePersist
	list = append(list, typ, persist)
	for _, e := range []struct {
		name, since string
		unit        timeUnit
	}{
		{"expire", "1.0.0", timeUnit{1000, false}}, {"pexpire", "2.6.0", timeUnit{1, false}},
		{"expireat", "1.2.0", timeUnit{1000, true}}, {"pexpireat", "2.6.0", timeUnit{1, true}},
	} {
		cmd := key(e.name, -3, "write fast", e.since, "Sets the expiry of a key.")
		cmd.write, cmd.run = expireWrite(e.unit, e.name), expireRun(e.unit, e.name)
		list = append(list, cmd)
	}
	for _, e := range []struct {
		name, since string
		scale       int64
		absolute    bool
	}{
		{"ttl", "1.0.0", 1000, false}, {"pttl", "2.6.0", 1, false},
		{"expiretime", "7.0.0", 1000, true}, {"pexpiretime", "7.0.0", 1, true},
	} {
		cmd := key(e.name, 2, "readonly fast", e.since, "Returns the expiry of a key.")
		cmd.read, cmd.bare = readTTL(e.scale, e.absolute), true
		list = append(list, cmd)
	}
	return list
}

// page is one call to Backend.Scan.
func (c *conn) page(ks fulcrum.KeyspaceInfo, req api.Scan) (api.Page, error) {
	ctx := c.deadline()
	defer ctx.cancel()
	req.KeysOnly = true
	p, receipt, err := c.s.backend.Scan(ctx, c.call(ks, c.readLevel), req)
	c.note(receipt)
	return p, err
}

// walk calls each page of a keyspace until it is at the end or each says stop.
func (c *conn) walk(prefix []byte, each func(fulcrum.KeyspaceInfo, []fulcrum.Entry) (more bool, err error)) error {
	ks, err := c.keyspace()
	if err != nil {
		return err
	}
	req := api.Scan{Prefix: prefix, Limit: scanPage}
	for {
		p, err := c.page(ks, req)
		if err != nil {
			return err
		}
		more, err := each(ks, p.Entries)
		if err != nil || !more || p.Next == nil {
			return err
		}
		if c.draining.Load() {
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "the walk stopped on the way: %w", errDraining)
		}
		req.After = p.Next
	}
}

type scanOptions struct {
	match   []byte
	count   int
	nothing bool // TYPE of what there is none of
}

func parseScan(args [][]byte) (o scanOptions, err error) {
	o.count = 10
	for i := 0; i < len(args); i += 2 {
		if i+1 == len(args) {
			return o, errSyntax
		}
		value := args[i+1]
		switch {
		case word(args[i], "MATCH"):
			o.match = value
		case word(args[i], "COUNT"):
			n, ok := parseInt(value)
			if !ok {
				return o, errNotInteger
			}
			if n < 1 {
				return o, errSyntax
			}
			o.count = int(min(n, maxScan))
		case word(args[i], "TYPE"):
			o.nothing = !word(value, "STRING")
		default:
			return o, errSyntax
		}
	}
	return o, nil
}

// runScan answers one step. The cursor is a number of this node's table, so a scan
// must go on at the node where it began.
func runScan(c *conn, args [][]byte) {
	id, err := strconv.ParseUint(string(args[1]), 10, 64)
	if err != nil {
		c.out.fail("ERR invalid cursor")
		return
	}
	o, err := parseScan(args[2:])
	if err != nil {
		c.fail(err)
		return
	}
	ks, err := c.keyspace()
	if err != nil {
		c.fail(err)
		return
	}
	req := api.Scan{Prefix: globPrefix(o.match), Limit: o.count}
	if id != 0 {
		after, ok := c.s.cursors.get(id, ks.ID)
		if !ok {
			c.out.fail("ERR invalid cursor: it is of another node or keyspace, or no longer known (" +
				strconv.Itoa(c.s.opt.MaxCursors) + " are kept); begin again with 0")
			return
		}
		req.After = after
	}
	p := api.Page{}
	if !o.nothing {
		if p, err = c.page(ks, req); err != nil {
			c.fail(err)
			return
		}
	}
	next := uint64(0)
	if p.Next != nil {
		next = c.s.cursors.put(id, ks.ID, bytes.Clone(p.Next))
	}
	hits := p.Entries[:0:0]
	for _, e := range p.Entries {
		if o.match == nil || globMatch(o.match, e.Key) {
			hits = append(hits, e)
		}
	}
	c.out.array(2)
	c.out.text(strconv.FormatUint(next, 10))
	c.writeKeys(hits)
}

func (c *conn) writeKeys(entries []fulcrum.Entry) {
	c.out.array(len(entries))
	for i := range entries {
		c.out.bulk(entries[i].Key)
	}
}

func runKeys(c *conn, args [][]byte) {
	pattern := bytes.Clone(args[1])
	var hits []fulcrum.Entry
	seen, size := 0, 0
	err := c.walk(globPrefix(pattern), func(_ fulcrum.KeyspaceInfo, entries []fulcrum.Entry) (bool, error) {
		seen += len(entries)
		for _, e := range entries {
			if globMatch(pattern, e.Key) {
				hits = append(hits, e)
				size += len(e.Key)
			}
		}
		if len(hits) > maxKeys || seen > maxKeyScan || size > c.s.opt.MaxReplyBytes {
			return false, fulcrum.Errorf(fulcrum.CodeTooLarge, "KEYS answers with at most %d keys and looks at no more than %d", maxKeys, int(maxKeyScan)).WithHint("use SCAN")
		}
		return true, nil
	})
	if err != nil {
		c.fail(err)
		return
	}
	c.writeKeys(hits)
}

func runDBSize(c *conn, _ [][]byte) {
	ks, err := c.keyspace()
	if err != nil {
		c.fail(err)
		return
	}
	ctx := c.deadline()
	defer ctx.cancel()
	n, err := c.s.backend.Count(ctx, ks.Name)
	if err != nil {
		c.fail(err)
		return
	}
	c.out.integer(n)
}

// runRandomKey picks evenly among the first keys, some thousands at the most.
func runRandomKey(c *conn, _ [][]byte) {
	pages, seen := 1+rand.IntN(8), 0
	var pick []byte
	err := c.walk(nil, func(_ fulcrum.KeyspaceInfo, entries []fulcrum.Entry) (bool, error) {
		for _, e := range entries {
			if seen++; rand.IntN(seen) == 0 {
				pick = e.Key
			}
		}
		pages--
		return pages > 0, nil
	})
	switch {
	case err != nil:
		c.fail(err)
	case pick == nil:
		c.out.null()
	default:
		c.out.bulk(pick)
	}
}

// runFlushDB deletes key by key, so what is written meanwhile may stay.
func runFlushDB(c *conn, args [][]byte) {
	if len(args) > 2 || (len(args) == 2 && !word(args[1], "ASYNC") && !word(args[1], "SYNC")) {
		c.fail(errSyntax)
		return
	}
	done := 0
	err := c.walk(nil, func(ks fulcrum.KeyspaceInfo, entries []fulcrum.Entry) (bool, error) {
		ws := make([]fulcrum.Write, len(entries))
		for i, e := range entries {
			ws[i] = fulcrum.Write{Op: fulcrum.OpDelete, Key: e.Key, NoValue: true, NoOld: true}
		}
		n, err := c.writeAll(ks, ws, func(*fulcrum.Result) {})
		done += n
		return true, err
	})
	if err != nil {
		c.fail(partly(done, err))
		return
	}
	c.out.ok()
}

func runFlushAll(c *conn, _ [][]byte) {
	c.out.fail("ERR FLUSHALL is refused, for it would empty every keyspace: SELECT a database and use FLUSHDB, or drop a keyspace with 'fulcrum keyspace drop'")
}

// runWait waits a minute at the most; with timeout 0 as long as one request may last.
func runWait(c *conn, args [][]byte) {
	want, ok1 := parseInt(args[1])
	ms, ok2 := parseInt(args[2])
	switch {
	case !ok1 || !ok2 || want > 1<<20:
		c.fail(errNotInteger)
		return
	case ms < 0:
		c.out.fail("ERR timeout is negative")
		return
	}
	timeout := c.s.opt.RequestTimeout
	if ms > 0 {
		timeout = time.Duration(min(ms, maxWait.Milliseconds())) * time.Millisecond
	}
	ks, err := c.keyspace()
	if err != nil {
		c.fail(err)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, timeout)
	defer cancel()
	n, err := c.s.backend.Synced(ctx, ks.Name, int(want))
	if err != nil {
		c.fail(err)
		return
	}
	c.out.integer(int64(n))
}
