package resp

import (
	"fulcrum"
	"fulcrum/consistency"
)

// fulcrumCommands are those that Redis does not have.
func fulcrumCommands() []command {
	cmd := func(name string, arity int, summary string, run func(*conn, [][]byte)) command {
		return command{name: name, arity: arity, flags: "fast", group: "fulcrum", since: redisVersion, summary: summary, run: run}
	}
	return []command{
		cmd("keyspace", -1, "Selects a keyspace by name, or shows which one is selected.", runKeyspace),
		cmd("consistency", -1, "Sets or shows this connection's levels: CONSISTENCY [READ level] [WRITE level].", runConsistency),
		cmd("receipt", 1, "Returns the receipt of the last command on keys, or, if that failed, an error that says why.", runReceipt),
		cmd("session", -1, "Carries a session token: SESSION [ON | TOKEN token | OFF].", runSession),
	}
}

func runKeyspace(c *conn, args [][]byte) {
	switch len(args) {
	case 1:
		ks, err := c.keyspace()
		if err != nil {
			c.fail(err)
			return
		}
		c.out.text(ks.Name)
	case 2:
		ks, err := c.s.backend.Keyspace(string(args[1]))
		if err != nil {
			c.out.fail(errorText(err) + "; " + c.s.databases())
			return
		}
		c.db.Store(ks.ID)
		c.out.ok()
	default:
		c.out.fail("ERR wrong number of arguments for 'keyspace' command")
	}
}

// runConsistency sets both levels or none; it refuses those that the mode of the
// selected keyspace does not offer. Should the mode change, or another keyspace be
// selected, each request is checked again by the backend.
func runConsistency(c *conn, args [][]byte) {
	read, write := c.readLevel, c.writeLevel
	if len(args)%2 == 0 {
		c.fail(errSyntax)
		return
	}
	ks, err := c.keyspace()
	if err != nil {
		c.fail(err)
		return
	}
	for i := 1; i < len(args); i += 2 {
		into, access := &read, consistency.Read
		switch {
		case word(args[i], "READ"):
		case word(args[i], "WRITE"):
			into, access = &write, consistency.Write
		default:
			c.fail(errSyntax)
			return
		}
		l, err := consistency.ParseLevel(string(args[i+1][:min(len(args[i+1]), 64)]))
		if err != nil {
			c.out.fail("LEVEL " + err.Error())
			return
		}
		if mode, err := consistency.ParseMode(ks.Mode); err == nil {
			if _, err := consistency.Lookup(mode, access, l); err != nil {
				c.fail(err)
				return
			}
		}
		*into = l
	}
	if len(args) > 1 {
		c.readLevel, c.writeLevel = read, write
		c.out.ok()
		return
	}
	pairs := [][2]string{{"keyspace", ks.Name}, {"mode", ks.Mode}, {"read", orDefault(read, ks.ReadLevel)}, {"write", orDefault(write, ks.WriteLevel)}}
	c.out.mapping(len(pairs))
	for _, p := range pairs {
		c.out.text(p[0])
		c.out.text(p[1])
	}
}

func orDefault(l consistency.Level, def string) string {
	if l == (consistency.Level{}) {
		return def
	}
	return l.String()
}

func runReceipt(c *conn, _ [][]byte) {
	switch {
	case c.refused != "":
		c.out.fail("ERR no receipt: the last command on keys failed: " + c.refused)
		return
	case !c.hasReceipt:
		c.out.fail("ERR no receipt: no command has read or written keys here")
		return
	}
	r, w := &c.receipt, &c.out
	text := func(name, value string) { w.text(name); w.text(value) }
	number := func(name string, value int64) { w.text(name); w.integer(value) }
	w.mapping(21)
	text("keyspace", r.Keyspace)
	text("mode", r.Mode.String())
	number("shard", int64(r.Shard))
	number("epoch", int64(r.Epoch))
	text("level", r.Level.String())
	text("given", r.Given.String())
	text("node", string(r.Node))
	text("leader", string(r.Leader))
	number("acks", int64(r.Acks))
	number("needed", int64(r.Needed))
	number("replicas", int64(r.Replicas))
	version := ""
	if r.Version != (fulcrum.Version{}) {
		version = r.Version.String()
	}
	text("version", version)
	w.text("found")
	w.boolean(r.Found)
	text("durable", r.Durable)
	w.text("staleness_ms")
	if r.Staleness < 0 {
		w.null()
	} else {
		w.double(float64(r.Staleness.Microseconds()) / 1000)
	}
	w.text("clock_bound_ms")
	w.double(float64(r.ClockBound.Microseconds()) / 1000)
	number("hinted", int64(r.Hinted))
	number("repaired", int64(r.Repaired))
	number("siblings", int64(r.Siblings))
	number("latency_us", r.Latency.Microseconds())
	if r.Session == "" && r.Unsealed != nil {
		r.Session = r.Unsealed.Token()
	}
	text("session", string(r.Session))
}

// runSession turns the session token on or off, sets it, or shows it. Once on, each
// receipt renews it. What is no token of this cluster is refused. Where reads are at level
// session (conn.call), OFF begins a new session.
func runSession(c *conn, args [][]byte) {
	switch {
	case len(args) == 1 && !c.sessionOn:
		c.out.null()
	case len(args) == 1:
		c.out.text(string(c.session))
	case len(args) == 2 && word(args[1], "ON"):
		c.sessionOn = true
		c.out.ok()
	case len(args) == 2 && word(args[1], "OFF"):
		c.sessionOn, c.session = false, ""
		c.out.ok()
	case len(args) == 3 && word(args[1], "TOKEN"):
		token := consistency.Token(args[2])
		if err := c.s.backend.CheckSession(token); err != nil { // the one that the connection has stays
			c.fail(err)
			return
		}
		c.sessionOn, c.session = true, token
		c.out.ok()
	default:
		c.fail(errSyntax)
	}
}
