package resp

import (
	"errors"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// Bounds of one call to the backend.
const (
	maxReads      = 1024
	maxWrites     = fulcrum.MaxOpsPerBatch
	maxBatchBytes = 4 << 20
)

// errAlone says that this form of the command cannot share a call with others: it
// is for command.run.
var errAlone = errors.New("not for a batch")

// writeReply turns what became of a write into its reply; a is the command's own.
type writeReply func(c *conn, res *fulcrum.Result, a int64)

// readReply turns an entry into its reply; live says whether it holds a value.
type readReply func(c *conn, e *fulcrum.Entry, live bool, a, b int64)

type waitingWrite struct {
	reply writeReply
	a     int64
}

type waitingRead struct {
	reply readReply
	a, b  int64
}

// pending is the run of one-key commands that were parsed and not yet sent to the
// backend: all writes or all reads, of one keyspace and one level, in their order.
// A batch of writes is evaluated in order within each shard, and reads and writes
// never share a call, so each key sees the pipeline's commands in their order.
type pending struct {
	ks      fulcrum.KeyspaceInfo
	writes  []fulcrum.Write
	onWrite []waitingWrite
	keys    [][]byte
	onRead  []waitingRead
	spare   []byte // in which keys of reads lie, and more will
	bytes   int
	blind   bool // what the writes of a quorum keyspace are: one that is not would have all refused
	readCap int  // reads a batch; less after large replies
}

func (p *pending) empty() bool { return len(p.writes) == 0 && len(p.keys) == 0 }

func (p *pending) clear() {
	clear(p.writes)
	clear(p.keys)
	p.writes, p.onWrite, p.keys, p.onRead, p.bytes, p.spare = p.writes[:0], p.onWrite[:0], p.keys[:0], p.onRead[:0], 0, nil
}

// collect puts a one-key command to the pending batch, after running what cannot
// share it. It reports false for commands that are not one read or one write of one key.
func (c *conn) collect(cmd *command, args [][]byte) bool {
	switch {
	case cmd.write != nil:
		return c.collectWrite(cmd, args)
	case cmd.read != nil:
		return c.collectRead(cmd, args)
	}
	return false
}

// join makes sure that the batch has a keyspace; false: it has none, and the client knows.
func (c *conn) join() bool {
	if !c.pend.empty() {
		return true
	}
	ks, err := c.keyspace()
	if err != nil {
		c.refuse(err)
		return false
	}
	c.pend.ks = ks
	return true
}

func (c *conn) collectWrite(cmd *command, args [][]byte) bool {
	p := &c.pend
	if len(p.keys) > 0 || len(p.writes) >= maxWrites || p.bytes >= maxBatchBytes {
		c.runPending()
	}
	if !c.join() {
		return true
	}
	var w fulcrum.Write
	reply, a, err := cmd.write(c, args, &w)
	if err == nil {
		err = w.Check(c.s.opt.MaxValue)
	}
	if err != nil {
		if errors.Is(err, errAlone) {
			return false
		}
		c.runPending()
		c.refuse(err)
		return true
	}
	if blind := w.Blind(); len(p.writes) > 0 && blind != p.blind && p.ks.Mode == quorumMode {
		ks := p.ks
		c.runPending()
		p.ks = ks
	}
	p.blind = w.Blind()
	w.Key, w.Value = own(w.Key, w.Value)
	p.writes = append(p.writes, w)
	p.onWrite = append(p.onWrite, waitingWrite{reply, a})
	p.bytes += len(w.Key) + len(w.Value)
	return true
}

func (c *conn) collectRead(cmd *command, args [][]byte) bool {
	p := &c.pend
	if len(p.writes) > 0 || len(p.keys) >= p.readCap {
		c.runPending()
	}
	if !c.join() {
		return true
	}
	reply, a, b, err := cmd.read(args)
	if err == nil {
		err = checkKey(args[1])
	}
	if err != nil {
		if errors.Is(err, errAlone) {
			return false
		}
		c.runPending()
		c.refuse(err)
		return true
	}
	p.keys = append(p.keys, p.ownKey(args[1]))
	p.onRead = append(p.onRead, waitingRead{reply, a, b})
	return true
}

// ownKey copies a key out of the input buffer as own does, from the second of a batch on
// into a piece of memory with others.
func (p *pending) ownKey(key []byte) []byte {
	n := len(key)
	if n > cap(p.spare)-len(p.spare) {
		size := n
		if len(p.keys) > 0 {
			size = max(n, 1024)
		}
		p.spare = make([]byte, 0, size)
	}
	at := len(p.spare)
	p.spare = append(p.spare, key...)
	return p.spare[at : at+n : at+n]
}

// own copies key and value out of the input buffer, in one allocation: a protocol
// may keep them longer than the call, and the buffer is used again.
func own(key, value []byte) ([]byte, []byte) {
	b := make([]byte, len(key)+len(value))
	k := copy(b, key)
	copy(b[k:], value)
	return b[:k:k], b[k:]
}

// runPending sends the batch to the backend and writes its replies.
func (c *conn) runPending() {
	p := &c.pend
	switch {
	case len(p.writes) > 0:
		c.runWrites(p.ks, p.writes, p.onWrite)
	case len(p.keys) > 0:
		c.runReads()
	default:
		return
	}
	p.clear()
}

func (c *conn) runWrites(ks fulcrum.KeyspaceInfo, ws []fulcrum.Write, on []waitingWrite) {
	results, err := c.apply(c.call(ks, c.writeLevel), ws)
	for i := range ws {
		failed := err
		if failed == nil {
			failed = results[i].Err
		}
		switch {
		case len(ws) > 1 && errors.Is(failed, fulcrum.ErrMode):
			// A mode that refuses some writes refused all that were in the same shard:
			// definitely not done, so each may try for itself, in the same order.
			c.runWrites(ks, ws[i:i+1], on[i:i+1])
		case failed != nil:
			c.refuse(failed)
		default:
			c.refused = ""
			on[i].reply(c, &results[i], on[i].a)
		}
	}
}

func (c *conn) runReads() {
	p := &c.pend
	before, sent := len(c.out.buf), 0
	for done := 0; done < len(p.keys); {
		entries, err := c.first(c.call(p.ks, c.readLevel), p.keys[done:])
		if err != nil {
			for range p.keys[done:] {
				c.refuse(err)
			}
			return
		}
		now := c.s.backend.Now()
		for i := range entries {
			on := &p.onRead[done+i]
			on.reply(c, &entries[i], entries[i].Live(now), on.a, on.b)
			if len(c.out.buf) > maxIdleReply {
				sent += len(c.out.buf) - before
				before = 0
				c.flush()
			}
		}
		done += len(entries)
	}
	p.resize(sent + len(c.out.buf) - before)
}

// resize keeps the next batch of reads near maxBatchBytes of replies.
func (p *pending) resize(bytes int) {
	switch {
	case bytes > maxBatchBytes:
		p.readCap = max(1, len(p.keys)*maxBatchBytes/bytes)
	case p.readCap < maxReads && len(p.keys) >= p.readCap:
		p.readCap = min(maxReads, 2*p.readCap)
	}
}

// apply is Backend.Write with the deadline and the receipt of this connection.
func (c *conn) apply(call api.Call, ws []fulcrum.Write) ([]fulcrum.Result, error) {
	ctx := c.deadline()
	defer ctx.cancel()
	results, receipt, err := c.s.backend.Write(ctx, call, ws)
	c.note(receipt)
	if err == nil && len(results) != len(ws) {
		err = fulcrum.Errorf(fulcrum.CodeInternal, "%d results for %d writes", len(results), len(ws))
	}
	return results, err
}

// fetch is Backend.Read in the same way.
func (c *conn) fetch(call api.Call, keys [][]byte) ([]fulcrum.Entry, error) {
	ctx := c.deadline()
	defer ctx.cancel()
	entries, receipt, err := c.s.backend.Read(ctx, call, keys)
	c.note(receipt)
	if err == nil && len(entries) != len(keys) {
		err = fulcrum.Errorf(fulcrum.CodeInternal, "%d entries for %d keys", len(entries), len(keys))
	}
	return entries, err
}

// first is fetch, but perhaps of the first keys only: of one at least, and of fewer than
// all where the values are large.
func (c *conn) first(call api.Call, keys [][]byte) ([]fulcrum.Entry, error) {
	ctx := c.deadline()
	defer ctx.cancel()
	call.First = true
	entries, receipt, err := c.s.backend.Read(ctx, call, keys)
	c.note(receipt)
	if err == nil && (len(entries) == 0 || len(entries) > len(keys)) {
		err = fulcrum.Errorf(fulcrum.CodeInternal, "%d entries for %d keys", len(entries), len(keys))
	}
	return entries, err
}

// one applies a single write outside any batch.
func (c *conn) one(w fulcrum.Write) (*fulcrum.Result, error) {
	ks, err := c.keyspace()
	if err != nil {
		return nil, err
	}
	w.Key, w.Value = own(w.Key, w.Value)
	results, err := c.apply(c.call(ks, c.writeLevel), []fulcrum.Write{w})
	if err != nil {
		return nil, err
	}
	return &results[0], results[0].Err
}

// get reads a single key outside any batch; live says whether it holds a value.
func (c *conn) get(key []byte, level consistency.Level) (e fulcrum.Entry, live bool, err error) {
	if err := checkKey(key); err != nil {
		return e, false, err
	}
	ks, err := c.keyspace()
	if err != nil {
		return e, false, err
	}
	key, _ = own(key, nil)
	entries, err := c.fetch(c.call(ks, level), [][]byte{key})
	if err != nil {
		return e, false, err
	}
	return entries[0], entries[0].Live(c.s.backend.Now()), nil
}
