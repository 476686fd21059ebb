package resp

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// conn is one client. Its goroutine, in serve, owns every field but those below mu
// and the atomic ones, which CLIENT LIST of other connections reads.
type conn struct {
	s        *Server
	nc       net.Conn
	ctx      context.Context // ends when the server cuts connections off; each call to the backend has a deadline below it
	draining *atomic.Bool
	id       int64
	born     time.Time

	in   reader
	out  writer
	pend pending
	tx   transaction

	readLevel, writeLevel consistency.Level
	receipt               consistency.Receipt
	hasReceipt            bool
	refused               string // why the last command on keys has no receipt
	session               consistency.Token
	sessionOn             bool
	closing               bool
	silent                bool // CLIENT REPLY OFF
	skipNext              bool // CLIENT REPLY SKIP
	skipping              bool // it was the last command: this one's reply is dropped

	db      atomic.Uint32
	proto   atomic.Int32
	queued  atomic.Int32 // commands in tx, and one; 0: no transaction
	lastCmd atomic.Pointer[command]
	active  atomic.Int64 // when bytes last came, in nanoseconds since born

	mu               sync.Mutex
	name             string
	libName, libVers string
}

func newConn(ctx context.Context, s *Server, nc net.Conn, draining *atomic.Bool) *conn {
	c := &conn{s: s, nc: nc, ctx: ctx, draining: draining, id: s.lastID.Add(1), born: time.Now()}
	c.in = reader{
		maxBulk:    s.opt.MaxValue + maxLineBytes, // slack: a value a little too large gets the store's own error
		maxCommand: s.opt.MaxPipelineBytes,
		maxArgs:    s.opt.MaxArgs,
		budget:     &s.budget,
	}
	c.setProto(2)
	c.pend.readCap = maxReads
	return c
}

func (c *conn) setProto(v int) {
	c.out.proto = v
	c.proto.Store(int32(v))
}

// serve runs the connection until the client leaves or the server drains. Replies
// are sent when no complete command is buffered any more.
func (c *conn) serve() {
	defer c.nc.Close()
	defer c.in.release()
	defer c.leave()
	for !c.closing && !c.draining.Load() {
		args, st, err := c.in.next()
		switch {
		case err != nil:
			c.runPending()
			c.abandon(err)
			return
		case st == ready:
			c.dispatch(args)
			if len(c.out.buf) > maxIdleReply {
				c.flush()
			}
		case st == oversize:
			c.runPending()
			c.abort()
			c.out.fail("TOOLARGE " + tooLargeText(c.in.over, c.s.opt))
		default:
			c.runPending()
			c.flush()
			if c.closing || !c.await() {
				return
			}
		}
	}
	c.runPending()
	c.flush()
}

// await waits for more bytes; false ends the connection.
func (c *conn) await() bool {
	if t := c.s.opt.IdleTimeout; t > 0 {
		c.nc.SetReadDeadline(time.Now().Add(t))
	}
	if c.draining.Load() { // after setting the deadline, so that drain's is never lost
		return false
	}
	if c.s.oneProcessor {
		// A client on another core may have its next command here already, again and again:
		// then the others would wait until the runtime takes the processor away, which is
		// after 10 ms. And where it has not, it may have after the others' turns, which
		// saves a read in vain and a wait.
		runtime.Gosched()
	}
	err := c.in.fill(c.nc)
	c.active.Store(int64(time.Since(c.born)))
	if errors.As(err, new(errNoMemory)) {
		c.abandon(err)
	}
	return err == nil
}

// abandon tells the client why its connection ends.
func (c *conn) abandon(err error) {
	prefix := "ERR "
	if errors.As(err, new(errNoMemory)) {
		prefix = "OVERLOADED "
	} else {
		c.s.metrics.malformed.Inc()
	}
	c.s.quiet.Info("a Redis client is disconnected", "client", c.nc.RemoteAddr(), "reason", err)
	c.out.fail(prefix + err.Error())
	c.flush()
	c.linger()
}

// linger takes in what the client has still sent, for a moment and a bound: closing
// a TCP socket with unread bytes resets it, and the client might never see why.
func (c *conn) linger() {
	tcp, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || tcp.CloseWrite() != nil {
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	var sink [4 << 10]byte
	for range 64 {
		if _, err := c.nc.Read(sink[:]); err != nil {
			return
		}
	}
}

func (c *conn) flush() {
	if len(c.out.buf) == 0 {
		return
	}
	c.nc.SetWriteDeadline(time.Now().Add(c.s.opt.WriteTimeout))
	if err := c.out.flush(c.nc); err != nil {
		c.closing = true
	}
}

// dispatch runs one command, or puts it to the batch that is being collected.
func (c *conn) dispatch(args [][]byte) {
	c.s.served.Add(1)
	cmd := c.s.lookup(args[0])
	if cmd == nil {
		c.alone(func() { c.unknown(args); c.abort() })
		return
	}
	c.lastCmd.Store(cmd)
	if !cmd.fits(len(args)) {
		c.alone(func() { c.misfit(cmd) })
		return
	}
	if c.tx.open {
		c.alone(func() { c.inside(cmd, args) })
		return
	}
	if c.silent || c.skipNext || !c.collect(cmd, args) {
		c.alone(func() { c.runAlone(cmd, args) })
	}
}

// alone runs do after everything that is pending, and drops its reply if the client
// asked for that.
func (c *conn) alone(do func()) {
	c.runPending()
	mark := len(c.out.buf)
	c.skipping, c.skipNext = c.skipNext, false
	do()
	if c.skipping || c.silent { // CLIENT REPLY ON ends both, and is answered
		c.out.buf = c.out.buf[:min(mark, len(c.out.buf))]
	}
}

// runAlone runs a command by itself: as a batch of one if it has that form.
func (c *conn) runAlone(cmd *command, args [][]byte) {
	if c.collect(cmd, args) {
		c.runPending()
		return
	}
	c.run(cmd, args)
}

// run runs a command, and notes why RECEIPT has nothing to tell of it if it failed.
func (c *conn) run(cmd *command, args [][]byte) {
	at := len(c.out.buf)
	cmd.run(c, args)
	if cmd.receipt() && at < len(c.out.buf) && c.out.buf[at] == '-' {
		c.refused, _, _ = strings.Cut(string(c.out.buf[at+1:]), "\r\n")
	}
}

func (c *conn) misfit(cmd *command) {
	text := "wrong number of arguments for '" + cmd.name + "' command"
	if cmd.receipt() {
		c.refused = "ERR " + text
	}
	if c.tx.open && cmd.name == "exec" { // as in Redis: whatever EXEC answers, the transaction is over
		c.leave()
		c.out.fail("EXECABORT Transaction discarded because of: " + text)
		return
	}
	c.out.fail("ERR " + text)
	c.abort()
}

func (c *conn) unknown(args [][]byte) {
	name := strings.ToLower(string(args[0][:min(len(args[0]), 128)]))
	if name == "post" || name == "host:" { // a browser was made to talk to us: Redis hangs up too
		c.s.quiet.Warn("possible cross-protocol attack on the Redis port: POST or Host: received", "client", c.nc.RemoteAddr())
		c.closing = true
		return
	}
	var b strings.Builder
	for _, a := range args[1:] {
		if room := 128 - b.Len(); room > 0 {
			b.WriteString("'" + string(a[:min(len(a), room)]) + "' ")
		}
	}
	c.out.fail("ERR unknown command '" + string(args[0][:min(len(args[0]), 128)]) + "', with args beginning with: " + b.String())
}

// keyspace is the one that the connection has selected.
func (c *conn) keyspace() (fulcrum.KeyspaceInfo, error) {
	ks, err := c.s.backend.KeyspaceByID(c.db.Load())
	if err != nil {
		return ks, c.s.noKeyspace(c.db.Load(), err)
	}
	return ks, nil
}

// call begins one. A connection that reads at level session is a session, whether or not it
// has asked for one by name: the level promises that it sees what it wrote, and that takes a
// token from its writes on.
func (c *conn) call(ks fulcrum.KeyspaceInfo, l consistency.Level) api.Call {
	if orDefault(c.readLevel, ks.ReadLevel) == sessionLevel {
		c.sessionOn = true
	}
	call := api.Call{Keyspace: ks.Name, Level: l, Untracked: !c.sessionOn}
	if c.sessionOn {
		call.Session = c.session
	}
	return call
}

// sessionLevel is how that level is written, as in fulcrum.KeyspaceInfo.ReadLevel.
const sessionLevel = "session"

// note keeps the receipt of the last call, and what it says of the session.
func (c *conn) note(r consistency.Receipt) {
	c.receipt, c.hasReceipt, c.refused = r, r.Keyspace != "", ""
	if c.sessionOn && r.Session != "" {
		c.session = r.Session
	}
}

// deadline is the context of one call to the backend. It must be canceled.
func (c *conn) deadline() *deadline {
	return &deadline{Context: c.ctx, at: time.Now().Add(c.s.opt.RequestTimeout)}
}
