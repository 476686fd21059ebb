package resp

import (
	"errors"
	"fmt"

	"fulcrum"
	"fulcrum/consistency"
)

// keysOf copies the key arguments (every step-th one) and checks them.
func keysOf(args [][]byte, step int) ([][]byte, error) {
	keys := make([][]byte, 0, (len(args)+step-1)/step)
	for i := 0; i < len(args); i += step {
		if err := checkKey(args[i]); err != nil {
			return nil, err
		}
		key, _ := own(args[i], nil)
		keys = append(keys, key)
	}
	return keys, nil
}

// readAll reads many keys, in several calls when there are very many or the values
// are large, and refuses an answer larger than MaxReplyBytes.
func (c *conn) readAll(keys [][]byte, level consistency.Level) ([]fulcrum.Entry, error) {
	ks, err := c.keyspace()
	if err != nil {
		return nil, err
	}
	all, bytes := make([]fulcrum.Entry, 0, len(keys)), 0
	for len(keys) > 0 {
		n := min(len(keys), maxReads, max(1, c.pend.readCap))
		entries, err := c.first(c.call(ks, level), keys[:n])
		if err != nil {
			return nil, err
		}
		for i := range entries {
			bytes += len(entries[i].Value)
		}
		if bytes > c.s.opt.MaxReplyBytes {
			return nil, fulcrum.Errorf(fulcrum.CodeTooLarge, "the reply would be larger than %d bytes", c.s.opt.MaxReplyBytes).WithHint("ask for fewer keys")
		}
		all, keys = append(all, entries...), keys[len(entries):]
	}
	return all, nil
}

// writeAll applies many writes in calls of at most maxWrites writes and
// maxBatchBytes, and returns how many were done before the first error.
func (c *conn) writeAll(ks fulcrum.KeyspaceInfo, ws []fulcrum.Write, each func(*fulcrum.Result)) (done int, err error) {
	for len(ws) > 0 {
		n, bytes := 0, 0
		for n < len(ws) && n < maxWrites && bytes < maxBatchBytes {
			bytes += len(ws[n].Key) + len(ws[n].Value)
			n++
		}
		results, err := c.apply(c.call(ks, c.writeLevel), ws[:n])
		if err != nil {
			return done, err
		}
		var first error
		for i := range results {
			if results[i].Err != nil {
				first = worse(first, results[i].Err)
				continue
			}
			done++
			each(&results[i])
		}
		if first != nil {
			return done, first
		}
		ws = ws[n:]
	}
	return done, nil
}

// worse is the error that says less about what happened: an unknown outcome must
// not hide behind a definite one.
func worse(a, b error) error {
	if a != nil && !fulcrum.AsError(b).Maybe {
		return a
	}
	return b
}

// partly says that err stopped a command after done of its keys were done.
func partly(done int, err error) error {
	if done == 0 {
		return err
	}
	e := *fulcrum.AsError(err)
	if e.Hint != "" {
		e.Hint += "; "
	}
	e.Hint += fmt.Sprintf("%d keys of the command are done", done)
	return &e
}

func runMGet(c *conn, args [][]byte) {
	keys, err := keysOf(args[1:], 1)
	if err != nil {
		c.fail(err)
		return
	}
	entries, err := c.readAll(keys, c.readLevel)
	if err != nil {
		c.fail(err)
		return
	}
	now := c.s.backend.Now()
	c.out.array(len(entries))
	for i := range entries {
		replyGet(c, &entries[i], entries[i].Live(now), 0, 0)
	}
}

// runMSet sets each key for itself: keys may live in different shards. What fails
// is reported with how many keys were set.
func runMSet(c *conn, args [][]byte) {
	ws, err := c.putsOf(args, "mset")
	if err != nil {
		c.fail(err)
		return
	}
	ks, err := c.keyspace()
	if err != nil {
		c.fail(err)
		return
	}
	for i := range ws {
		ws[i].Quiet = true
	}
	done, err := c.writeAll(ks, ws, func(*fulcrum.Result) {})
	if err != nil {
		c.fail(partly(done, err))
		return
	}
	c.out.ok()
}

// runMSetNX needs atomicity, so all keys must live in one shard.
func runMSetNX(c *conn, args [][]byte) {
	ws, err := c.putsOf(args, "msetnx")
	if err != nil {
		c.fail(err)
		return
	}
	last := map[string]int{} // the last value given to a key counts
	kept := ws[:0]
	for _, w := range ws {
		w.If = fulcrum.IfAbsent
		bare(&w)
		if i, ok := last[string(w.Key)]; ok {
			kept[i] = w
			continue
		}
		last[string(w.Key)] = len(kept)
		kept = append(kept, w)
	}
	if len(kept) > fulcrum.MaxOpsPerBatch {
		c.fail(fulcrum.Errorf(fulcrum.CodeTooLarge, "%d keys: at most %d can be set atomically", len(kept), fulcrum.MaxOpsPerBatch))
		return
	}
	ks, err := c.keyspace()
	if err != nil {
		c.fail(err)
		return
	}
	call := c.call(ks, c.writeLevel)
	call.Atomic = true
	results, err := c.apply(call, kept)
	if err != nil {
		c.fail(err)
		return
	}
	all := int64(1)
	for i := range results {
		if results[i].Err != nil {
			c.fail(results[i].Err)
			return
		}
		if !results[i].Applied {
			all = 0
		}
	}
	c.out.integer(all)
}

func (c *conn) putsOf(args [][]byte, name string) ([]fulcrum.Write, error) {
	if len(args)%2 == 0 {
		return nil, refusal("ERR wrong number of arguments for '" + name + "' command")
	}
	ws := make([]fulcrum.Write, 0, len(args)/2)
	for i := 1; i < len(args); i += 2 {
		w := fulcrum.Write{Op: fulcrum.OpPut}
		w.Key, w.Value = own(args[i], args[i+1])
		if err := w.Check(c.s.opt.MaxValue); err != nil {
			return nil, err
		}
		ws = append(ws, w)
	}
	return ws, nil
}

// writeDel is DEL of one key where the mode knows what stood there.
func writeDel(c *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error) {
	if len(args) != 2 || c.pend.ks.Mode == quorumMode {
		return nil, 0, errAlone
	}
	w.Op, w.Key = fulcrum.OpDelete, args[1]
	bare(w)
	return replyDeleted, 0, nil
}

// replyDeleted counts a key that stood there. A keyspace that was switched to
// quorum mode since writeDel looked does not know: then the delete counts.
func replyDeleted(c *conn, res *fulcrum.Result, _ int64) {
	n := int64(0)
	if deleted(c.receipt.Mode, res) {
		n = 1
	}
	c.out.integer(n)
}

func deleted(mode consistency.Mode, res *fulcrum.Result) bool {
	return res.Applied && (mode == consistency.Quorum || !res.Old.Version.IsZero())
}

// runDel deletes blindly, each key for itself. In quorum mode nobody knows what
// stood at a key, so it reads first, at the connection's read level, to count; a
// write in between makes the count wrong, never the deletion.
func runDel(c *conn, args [][]byte) {
	keys, err := keysOf(args[1:], 1)
	if err != nil {
		c.fail(err)
		return
	}
	ks, err := c.keyspace()
	if err != nil {
		c.fail(err)
		return
	}
	count, counted := int64(0), ks.Mode == quorumMode
	if counted {
		if count, err = c.countLive(keys, true); err != nil {
			c.fail(err)
			return
		}
	}
	ws := make([]fulcrum.Write, len(keys))
	for i, key := range keys {
		ws[i] = fulcrum.Write{Op: fulcrum.OpDelete, Key: key, NoValue: true, NoOld: true}
	}
	done, err := c.writeAll(ks, ws, func(res *fulcrum.Result) {
		if !counted && deleted(c.receipt.Mode, res) {
			count++
		}
	})
	if err != nil {
		c.fail(partly(done, err))
		return
	}
	c.out.integer(count)
}

// countLive counts the keys that hold a value: each mention, or each key once.
func (c *conn) countLive(keys [][]byte, once bool) (int64, error) {
	entries, err := c.readAll(keys, c.readLevel)
	if err != nil {
		return 0, err
	}
	var seen map[string]bool
	if once {
		seen = make(map[string]bool, len(keys))
	}
	now, n := c.s.backend.Now(), int64(0)
	for i := range entries {
		if !entries[i].Live(now) || seen[string(keys[i])] {
			continue
		}
		if once {
			seen[string(keys[i])] = true
		}
		n++
	}
	return n, nil
}

func replyExists(c *conn, _ *fulcrum.Entry, live bool, _, _ int64) {
	if live {
		c.out.integer(1)
	} else {
		c.out.integer(0)
	}
}

func readExists(args [][]byte) (readReply, int64, int64, error) {
	if len(args) != 2 {
		return nil, 0, 0, errAlone
	}
	return replyExists, 0, 0, nil
}

func runExists(c *conn, args [][]byte) {
	keys, err := keysOf(args[1:], 1)
	if err != nil {
		c.fail(err)
		return
	}
	n, err := c.countLive(keys, false)
	if err != nil {
		c.fail(err)
		return
	}
	c.out.integer(n)
}

func readType([][]byte) (readReply, int64, int64, error) {
	return func(c *conn, _ *fulcrum.Entry, live bool, _, _ int64) {
		if live {
			c.out.simple("string")
		} else {
			c.out.simple("none")
		}
	}, 0, 0, nil
}

var errDraining = errors.New("the node is shutting down")
