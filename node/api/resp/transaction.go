package resp

import (
	"bytes"
	"errors"
	"fmt"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// Bounds of one transaction. maxBatchBytes bounds the bytes of its commands.
const (
	maxTxnOps     = fulcrum.MaxOpsPerBatch
	maxTxnWatched = fulcrum.MaxOpsPerBatch
	queuedCost    = 96 // what a queued command, and each of its arguments, takes beside its bytes
)

// Errors of transactions. Those that Redis has are in its words.
const (
	errNested        = refusal("ERR MULTI calls can not be nested")
	errWatchInside   = refusal("ERR WATCH inside MULTI is not allowed")
	errExecAlone     = refusal("ERR EXEC without MULTI")
	errDiscardAlone  = refusal("ERR DISCARD without MULTI")
	errTxnFull       = refusal("TOOLARGE a transaction takes at most 128 operations; nothing of it will be done")
	errTxnTooLarge   = refusal("TOOLARGE a transaction takes at most 4 MiB of commands; nothing of it will be done")
	errTxnNoMemory   = refusal("OVERLOADED too much is queued by all clients together; nothing of this transaction will be done")
	errTooManyWatch  = refusal("TOOLARGE at most 128 keys can be watched; these are not")
	errTxnConditions = refusal("ERR EXPIRE with NX, XX, GT or LT cannot run inside a transaction: WATCH the key and decide before MULTI")
	errTxnMode       = refusal("ERR mode quorum has no transactions: use a keyspace in mode raft or leader-follower")
	execAborted      = "EXECABORT Transaction discarded because of previous errors."
)

// transaction is what a connection has of MULTI and WATCH.
//
// Queued commands are kept as they came and turned into operations when EXEC runs
// them, as in Redis: SET k v EX 10 counts from EXEC. They have been turned into
// operations once before, when they were queued, so that what makes no sense is
// refused at once.
type transaction struct {
	open    bool // between MULTI and EXEC or DISCARD
	aborted bool // a command was refused: EXEC will do nothing
	queue   []queued
	ops     int // operations that the queue makes
	bytes   int // taken from the server's budget for the queue

	watched []fulcrum.Compare
	space   fulcrum.KeyspaceInfo // of the watched keys
}

type queued struct {
	cmd  *command
	args [][]byte
}

// txnStep is a command inside a transaction: its operations, and how their results,
// one each, become its reply.
type txnStep struct {
	ops   []fulcrum.Write
	reply func(c *conn, res []fulcrum.Result)
}

func transactionCommands() []command {
	cmd := func(name string, arity int, since, summary string, run func(*conn, [][]byte)) command {
		return command{name: name, arity: arity, flags: "noscript loading stale fast", group: "transactions", since: since, summary: summary, run: run}
	}
	watch := cmd("watch", -2, "2.2.0", "Makes the next EXEC do nothing if one of these keys changes before it.", runWatch)
	watch.first, watch.last, watch.step = 1, -1, 1
	unwatch := cmd("unwatch", 1, "2.2.0", "Forgets the watched keys.", func(c *conn, _ [][]byte) { c.unwatch(); c.out.ok() })
	unwatch.inside = func(*conn, [][]byte) (txnStep, error) { // EXEC forgets them anyway
		return txnStep{reply: func(c *conn, _ []fulcrum.Result) { c.out.ok() }}, nil
	}
	return []command{
		cmd("multi", 1, "1.2.0", "Begins a transaction: commands are queued until EXEC. Its keys must be in one shard.", runMulti),
		cmd("exec", 1, "1.2.0", "Runs the queued commands as one step.", runExec),
		cmd("discard", 1, "2.0.0", "Drops the queued commands and forgets the watched keys.", runDiscard),
		watch, unwatch,
	}
}

func runMulti(c *conn, _ [][]byte) {
	if c.tx.open {
		c.fail(errNested)
		return
	}
	c.tx.open = true
	c.queued.Store(1)
	c.out.ok()
}

func runDiscard(c *conn, _ [][]byte) {
	if !c.tx.open {
		c.fail(errDiscardAlone)
		return
	}
	c.leave()
	c.out.ok()
}

// leave ends the transaction, if there is one, and forgets the watched keys.
func (c *conn) leave() {
	c.dropQueue()
	c.tx = transaction{}
	c.queued.Store(0)
}

func (c *conn) dropQueue() {
	c.s.budget.take(-c.tx.bytes)
	c.tx.queue, c.tx.ops, c.tx.bytes = nil, 0, 0
}

func (c *conn) unwatch() { c.tx.watched, c.tx.space = nil, fulcrum.KeyspaceInfo{} }

// abort makes EXEC refuse; what was queued is not needed any more.
func (c *conn) abort() {
	if c.tx.open {
		c.tx.aborted = true
		c.dropQueue()
	}
}

// runWatch keeps the versions that the keys have now, for EXEC to compare: zero where
// there is no live value. Only a linearizable read will do, whatever level the
// connection reads at: EXEC is to notice every change after this command, and a stale
// read would also make it notice those before it.
//
// A key that comes and goes between WATCH and EXEC is as it was, and EXEC runs; Redis
// would not. A key that changes and gets its old value again has another version.
func runWatch(c *conn, args [][]byte) {
	if c.tx.open {
		c.fail(errWatchInside)
		return
	}
	ks, err := c.keyspace()
	if err == nil {
		err = c.watchable(ks)
	}
	var keys [][]byte
	if err == nil {
		keys, err = keysOf(args[1:], 1)
	}
	if err == nil && len(keys) > maxReads {
		err = errTooManyWatch
	}
	var entries []fulcrum.Entry
	if err == nil {
		entries, err = c.fetch(c.call(ks, consistency.L(consistency.Linearizable)), keys)
	}
	if err == nil {
		err = c.watch(ks, keys, entries)
	}
	if err != nil {
		c.fail(err)
		return
	}
	c.out.ok()
}

func (c *conn) watchable(ks fulcrum.KeyspaceInfo) error {
	switch {
	case ks.Mode == quorumMode:
		return errTxnMode
	case len(c.tx.watched) > 0 && c.tx.space.ID != ks.ID:
		return refusal("ERR the keys watched so far are in keyspace " + c.tx.space.Name + ": UNWATCH them first")
	}
	return nil
}

// watch adds keys to those watched; one that is watched already keeps the version
// that it had first.
func (c *conn) watch(ks fulcrum.KeyspaceInfo, keys [][]byte, entries []fulcrum.Entry) error {
	now, watched := c.s.backend.Now(), c.tx.watched
	for i, key := range keys {
		cmp := fulcrum.Compare{Key: key, Target: fulcrum.CompareVersion, Op: fulcrum.Equal}
		if entries[i].Live(now) {
			cmp.Version = entries[i].Version
		}
		if !isWatched(watched, key) {
			watched = append(watched, cmp)
		}
	}
	if len(watched) > maxTxnWatched {
		return errTooManyWatch
	}
	c.tx.watched, c.tx.space = watched, ks
	return nil
}

func isWatched(watched []fulcrum.Compare, key []byte) bool {
	for i := range watched {
		if bytes.Equal(watched[i].Key, key) {
			return true
		}
	}
	return false
}

// inside handles a command between MULTI and EXEC: those that end a transaction, or
// have no place in one, run; all others are queued.
func (c *conn) inside(cmd *command, args [][]byte) {
	switch cmd.name {
	case "exec", "discard", "multi", "watch", "quit", "reset":
		c.run(cmd, args)
		return
	}
	if err := c.enqueue(cmd, args); err != nil {
		c.refuse(err)
		c.abort()
		return
	}
	c.out.simple("QUEUED")
}

func (c *conn) enqueue(cmd *command, args [][]byte) error {
	ks, err := c.keyspace()
	if err != nil {
		return err
	}
	if ks.Mode == quorumMode {
		return errTxnMode
	}
	st, err := c.plan(cmd, args)
	if err != nil || c.tx.aborted {
		return err
	}
	cost := queuedCost
	for _, a := range args {
		cost += queuedCost + len(a)
	}
	tx := &c.tx
	switch {
	case tx.ops+len(st.ops) > maxTxnOps:
		return errTxnFull
	case len(tx.queue) > 0 && tx.bytes+cost > maxBatchBytes:
		return errTxnTooLarge
	case !c.s.budget.take(cost):
		return errTxnNoMemory
	}
	tx.queue = append(tx.queue, queued{cmd: cmd, args: ownAll(args)})
	tx.ops += len(st.ops)
	tx.bytes += cost
	c.queued.Store(int32(len(tx.queue) + 1))
	return nil
}

func ownAll(args [][]byte) [][]byte {
	n := 0
	for _, a := range args {
		n += len(a)
	}
	all, out := make([]byte, 0, n), make([][]byte, len(args))
	for i, a := range args {
		all = append(all, a...)
		out[i] = all[len(all)-len(a) : len(all) : len(all)]
	}
	return out
}

// plan turns a command into operations. Their slices point into args.
func (c *conn) plan(cmd *command, args [][]byte) (txnStep, error) {
	var st txnStep
	var err error
	switch {
	case cmd.inside != nil:
		st, err = cmd.inside(c, args)
	case cmd.write != nil:
		st, err = c.planWrite(cmd, args)
	case cmd.read != nil:
		st, err = planRead(cmd, args)
	default:
		return st, refusal("ERR '" + cmd.name + "' cannot run inside a transaction, which takes commands on keys of one shard (GET SET INCR DEL EXPIRE ...), PING and ECHO")
	}
	for i := 0; err == nil && i < len(st.ops); i++ {
		err = st.ops[i].Check(c.s.opt.MaxValue)
	}
	return st, err
}

func (c *conn) planWrite(cmd *command, args [][]byte) (txnStep, error) {
	var w fulcrum.Write
	reply, a, err := cmd.write(c, args, &w)
	if errors.Is(err, errAlone) { // only EXPIRE: the others have a form of their own
		err = errTxnConditions
	}
	return single(w, func(c *conn, res *fulcrum.Result) { reply(c, res, a) }), err
}

func planRead(cmd *command, args [][]byte) (txnStep, error) {
	reply, a, b, err := cmd.read(args)
	get := getOf(args[1])
	get.NoOld = cmd.bare
	return single(get, func(c *conn, res *fulcrum.Result) { reply(c, &res.Old, found(res), a, b) }), err
}

// getOf reads key inside a transaction: what stands there is in Old.
func getOf(key []byte) fulcrum.Write {
	return fulcrum.Write{Op: fulcrum.OpGet, Key: key, NoValue: true}
}

// lengthOf is STRLEN inside a transaction.
func lengthOf(key []byte) txnStep {
	w := getOf(key)
	w.NoOld = true
	return single(w, func(c *conn, res *fulcrum.Result) { c.out.integer(int64(res.OldLength)) })
}

func insideStrlen(_ *conn, args [][]byte) (txnStep, error) { return lengthOf(args[1]), nil }

// found reports whether a value stood there, as the shard saw it: not by this node's
// clock.
func found(res *fulcrum.Result) bool { return !res.Old.Version.IsZero() }

func single(w fulcrum.Write, reply func(*conn, *fulcrum.Result)) txnStep {
	return txnStep{ops: []fulcrum.Write{w}, reply: func(c *conn, res []fulcrum.Result) { reply(c, &res[0]) }}
}

// runExec runs the queue as one Backend.Txn. Each command stands or fails alone, as in
// Redis: one that fails undoes nothing.
func runExec(c *conn, _ [][]byte) {
	switch {
	case !c.tx.open:
		c.fail(errExecAlone)
		return
	case c.tx.aborted:
		c.leave()
		c.out.fail(execAborted)
		return
	}
	defer c.leave()
	steps, txn, ks, err := c.assemble()
	if err != nil {
		c.fail(err)
		return
	}
	rep := api.TxnReply{Succeeded: true}
	if len(txn.Then) > 0 {
		if rep, err = c.transact(ks, txn); err != nil {
			c.fail(err)
			return
		}
	}
	if !rep.Succeeded {
		c.out.nullArray()
		return
	}
	c.out.array(len(steps))
	rest := rep.Results
	for _, st := range steps {
		res := rest[:len(st.ops)]
		rest = rest[len(st.ops):]
		if err := firstError(res); err != nil {
			c.fail(err)
			continue
		}
		st.reply(c, res)
	}
}

// assemble makes one transaction of the queue. A command that has come to make no
// sense since it was queued (a time that now is out of range) answers its error in its
// place, as in Redis.
func (c *conn) assemble() ([]txnStep, api.Txn, fulcrum.KeyspaceInfo, error) {
	txn := api.Txn{If: c.tx.watched, Then: make([]fulcrum.Write, 0, c.tx.ops)}
	ks, err := c.keyspace()
	if err != nil {
		return nil, txn, ks, err
	}
	if len(c.tx.watched) > 0 && c.tx.space.ID != ks.ID {
		return nil, txn, ks, refusal("ERR the watched keys are in keyspace " + c.tx.space.Name + ", the commands in " + ks.Name + ": a transaction has one keyspace")
	}
	steps := make([]txnStep, len(c.tx.queue))
	for i, q := range c.tx.queue {
		st, err := c.plan(q.cmd, q.args)
		if err != nil {
			st = txnStep{reply: func(c *conn, _ []fulcrum.Result) { c.fail(err) }}
		}
		steps[i] = st
		txn.Then = append(txn.Then, st.ops...)
	}
	if len(txn.Then) == 0 && len(txn.If) > 0 { // PING alone, but what it depends on must still be asked
		only := getOf(txn.If[0].Key)
		bare(&only)
		txn.Then = append(txn.Then, only)
	}
	return steps, txn, ks, nil
}

// transact is Backend.Txn with the deadline and the receipt of this connection.
func (c *conn) transact(ks fulcrum.KeyspaceInfo, txn api.Txn) (api.TxnReply, error) {
	ctx := c.deadline()
	defer ctx.cancel()
	rep, receipt, err := c.s.backend.Txn(ctx, c.call(ks, c.writeLevel), txn)
	c.note(receipt)
	if err == nil && rep.Succeeded && len(rep.Results) != len(txn.Then) {
		e := fulcrum.Errorf(fulcrum.CodeInternal, "%d results for %d operations", len(rep.Results), len(txn.Then))
		e.Maybe = true
		err = e
	}
	return rep, err
}

func firstError(res []fulcrum.Result) error {
	for i := range res {
		if res[i].Err != nil {
			return res[i].Err
		}
	}
	return nil
}

// Commands whose form inside a transaction differs from the one outside, where some
// are several calls, or take care of mode quorum, which has no transactions.

func insideSet(c *conn, args [][]byte) (txnStep, error) {
	var w fulcrum.Write
	reply, a, err := writeSet(c, args, &w)
	if errors.Is(err, errAlone) { // GET without a condition: one step tells what stood there
		reply, err = replyOld, nil
	}
	return single(w, func(c *conn, res *fulcrum.Result) { reply(c, res, a) }), err
}

func insideGetSet(_ *conn, args [][]byte) (txnStep, error) {
	w := fulcrum.Write{Op: fulcrum.OpPut, Key: args[1], Value: args[2], NoValue: true}
	return single(w, func(c *conn, res *fulcrum.Result) { replyOld(c, res, 0) }), nil
}

func insideGetEx(c *conn, args [][]byte) (txnStep, error) {
	if len(args) == 2 {
		return single(getOf(args[1]), func(c *conn, res *fulcrum.Result) { replyOld(c, res, 0) }), nil
	}
	if len(args) == 3 && word(args[2], "PERSIST") {
		w := fulcrum.Write{Op: fulcrum.OpExpire, Key: args[1], NoOld: true}
		return single(w, func(c *conn, res *fulcrum.Result) { replyValue(c, res, 0) }), nil
	}
	var w fulcrum.Write
	reply, a, err := writeGetEx(c, args, &w)
	return single(w, func(c *conn, res *fulcrum.Result) { reply(c, res, a) }), err
}

func insideSetRange(c *conn, args [][]byte) (txnStep, error) {
	var w fulcrum.Write
	reply, a, err := writeSetRange(c, args, &w)
	if errors.Is(err, errAlone) { // of nothing: changes nothing
		return lengthOf(args[1]), nil
	}
	return single(w, func(c *conn, res *fulcrum.Result) { reply(c, res, a) }), err
}

// insideKeys makes one operation a key, and counts those that held a value.
func insideKeys(op fulcrum.Op) func(*conn, [][]byte) (txnStep, error) {
	return func(_ *conn, args [][]byte) (txnStep, error) {
		ops := opsOf(op, args[1:])
		for i := range ops {
			bare(&ops[i])
		}
		return txnStep{ops: ops, reply: func(c *conn, res []fulcrum.Result) {
			n := int64(0)
			for i := range res {
				if found(&res[i]) {
					n++
				}
			}
			c.out.integer(n)
		}}, nil
	}
}

func opsOf(op fulcrum.Op, keys [][]byte) []fulcrum.Write {
	ops := make([]fulcrum.Write, len(keys))
	for i, key := range keys {
		ops[i] = fulcrum.Write{Op: op, Key: key, NoValue: true}
	}
	return ops
}

func insideMGet(_ *conn, args [][]byte) (txnStep, error) {
	return txnStep{ops: opsOf(fulcrum.OpGet, args[1:]), reply: func(c *conn, res []fulcrum.Result) {
		c.out.array(len(res))
		for i := range res {
			replyOld(c, &res[i], 0)
		}
	}}, nil
}

func insideMSet(_ *conn, args [][]byte) (txnStep, error) {
	if len(args)%2 == 0 {
		return txnStep{}, refusal("ERR wrong number of arguments for 'mset' command")
	}
	var ops []fulcrum.Write
	for i := 1; i < len(args); i += 2 {
		ops = append(ops, fulcrum.Write{Op: fulcrum.OpPut, Key: args[i], Value: args[i+1], NoValue: true, NoOld: true})
	}
	return txnStep{ops: ops, reply: func(c *conn, _ []fulcrum.Result) { c.out.ok() }}, nil
}

func insideMSetNX(*conn, [][]byte) (txnStep, error) {
	return txnStep{}, refusal("ERR MSETNX cannot run inside a transaction: its keys are one condition; WATCH them and use MSET")
}

func insideEcho(_ *conn, args [][]byte) (txnStep, error) {
	if len(args) > 2 {
		return txnStep{}, refusal(fmt.Sprintf("ERR wrong number of arguments for '%s' command", bytes.ToLower(args[0])))
	}
	return txnStep{reply: func(c *conn, _ []fulcrum.Result) {
		if len(args) == 1 {
			c.out.simple("PONG")
			return
		}
		c.out.bulk(args[1])
	}}, nil
}
