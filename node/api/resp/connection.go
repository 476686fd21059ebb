package resp

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// redisVersion is what clients are told: the version of the command set that is
// followed, for clients that switch features by it.
const redisVersion = "7.4.0"

// connectionCommands are the commands about the connection itself.
func connectionCommands() []command {
	cmd := func(name string, arity int, since, summary string, run func(*conn, [][]byte)) command {
		return command{name: name, arity: arity, flags: "noscript loading stale fast", group: "connection", since: since, summary: summary, run: run}
	}
	ping := cmd("ping", -1, "1.0.0", "Answers PONG, or its argument.", runPing)
	echo := cmd("echo", 2, "1.0.0", "Answers its argument.", func(c *conn, args [][]byte) { c.out.bulk(args[1]) })
	ping.inside, echo.inside = insideEcho, insideEcho
	return []command{
		ping, echo,
		cmd("hello", -1, "6.0.0", "Shakes hands and chooses the protocol version.", runHello),
		cmd("auth", -2, "1.0.0", "There are no passwords.", runAuth),
		cmd("select", 2, "1.0.0", "Selects a keyspace by its number.", runSelect),
		cmd("client", -2, "2.4.0", "Is a container of commands about connections.", runClient),
		cmd("quit", -1, "1.0.0", "Closes the connection.", func(c *conn, _ [][]byte) { c.out.ok(); c.closing = true }),
		cmd("reset", 1, "6.2.0", "Puts the connection back to its beginning.", runReset),
		cmd("readonly", 1, "3.0.0", "Does nothing: use CONSISTENCY READ.", func(c *conn, _ [][]byte) { c.out.ok() }),
		cmd("readwrite", 1, "3.0.0", "Does nothing: use CONSISTENCY READ.", func(c *conn, _ [][]byte) { c.out.ok() }),
	}
}

func runPing(c *conn, args [][]byte) {
	switch len(args) {
	case 1:
		c.out.simple("PONG")
	case 2:
		c.out.bulk(args[1])
	default:
		c.out.fail("ERR wrong number of arguments for 'ping' command")
	}
}

// runHello is HELLO [version [AUTH user password] [SETNAME name]].
func runHello(c *conn, args [][]byte) {
	proto := c.out.proto
	name, named := "", false
	if len(args) > 1 {
		v, ok := parseInt(args[1])
		switch {
		case !ok:
			c.out.fail("ERR Protocol version is not an integer or out of range")
			return
		case v != 2 && v != 3:
			c.out.fail("NOPROTO unsupported protocol version")
			return
		}
		proto = int(v)
	}
	for i := 2; i < len(args); i++ {
		switch {
		case word(args[i], "AUTH") && i+2 < len(args):
			if string(args[i+1]) != "default" {
				c.out.fail(wrongPass)
				return
			}
			i += 2
		case word(args[i], "SETNAME") && i+1 < len(args):
			name, named = string(args[i+1]), true
			if !validName(name) {
				c.out.fail(badName("Client names"))
				return
			}
			i++
		default:
			c.out.fail("ERR Syntax error in HELLO option '" + string(args[i][:min(len(args[i]), 64)]) + "'")
			return
		}
	}
	c.setProto(proto)
	if named {
		c.mu.Lock()
		c.name = name
		c.mu.Unlock()
	}
	w := &c.out
	w.mapping(7)
	w.text("server")
	w.text("redis")
	w.text("version")
	w.text(redisVersion)
	w.text("proto")
	w.integer(int64(proto))
	w.text("id")
	w.integer(c.id)
	w.text("mode")
	w.text("standalone")
	w.text("role")
	w.text("master")
	w.text("modules")
	w.array(0)
}

const wrongPass = "WRONGPASS invalid username-password pair or user is disabled."

// runAuth answers as a Redis without passwords does.
func runAuth(c *conn, args [][]byte) {
	switch {
	case len(args) > 3:
		c.fail(errSyntax)
	case len(args) == 2:
		c.out.fail("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
	case string(args[1]) != "default":
		c.out.fail(wrongPass)
	default:
		c.out.ok()
	}
}

func runSelect(c *conn, args [][]byte) {
	id, ok := parseInt(args[1])
	if !ok {
		c.fail(errNotInteger)
		return
	}
	if id >= 0 && id <= 1<<32-1 {
		_, err := c.s.backend.KeyspaceByID(uint32(id))
		if err == nil {
			c.db.Store(uint32(id))
			c.out.ok()
			return
		}
		if !errors.Is(err, fulcrum.ErrNotFound) {
			c.fail(err)
			return
		}
	}
	c.out.fail("ERR DB index is out of range: " + c.s.databases())
}

func runReset(c *conn, _ [][]byte) {
	c.leave()
	c.setProto(2)
	c.db.Store(0)
	c.mu.Lock()
	c.name = ""
	c.mu.Unlock()
	c.silent = false
	c.readLevel, c.writeLevel = consistency.Level{}, consistency.Level{}
	c.receipt, c.hasReceipt, c.refused = consistency.Receipt{}, false, ""
	c.session, c.sessionOn = "", false
	c.out.simple("RESET")
}

// runClient is CLIENT and its subcommands.
func runClient(c *conn, args [][]byte) {
	sub := strings.ToLower(string(args[1][:min(len(args[1]), 64)]))
	arity := map[string]int{"setname": 3, "getname": 2, "setinfo": 4, "id": 2, "info": 2, "list": -2, "kill": -3,
		"reply": 3, "no-evict": 3, "no-touch": 3, "getredir": 2, "trackinginfo": 2, "unpause": 2, "help": 2}
	n, known := arity[sub]
	switch {
	case !known:
		c.out.fail("ERR unknown subcommand '" + string(args[1][:min(len(args[1]), 64)]) + "'. Try CLIENT HELP.")
		return
	case len(args) != n && (n > 0 || len(args) < -n):
		c.out.fail("ERR wrong number of arguments for 'client|" + sub + "' command")
		return
	}
	switch sub {
	case "setname":
		clientSet(c, &c.name, args[2], "Client names")
	case "setinfo":
		switch {
		case word(args[2], "LIB-NAME"):
			clientSet(c, &c.libName, args[3], "lib-name")
		case word(args[2], "LIB-VER"):
			clientSet(c, &c.libVers, args[3], "lib-ver")
		default:
			c.out.fail("ERR Unrecognized option '" + string(args[2][:min(len(args[2]), 64)]) + "'")
		}
	case "getname":
		c.mu.Lock()
		name := c.name
		c.mu.Unlock()
		if name == "" {
			c.out.null()
			return
		}
		c.out.text(name)
	case "id":
		c.out.integer(c.id)
	case "info":
		c.out.verbatim(c.describe() + "\n")
	case "list":
		clientList(c, args[2:])
	case "kill":
		clientKill(c, args[2:])
	case "reply":
		clientReply(c, args[2])
	case "no-evict", "no-touch":
		if !word(args[2], "ON") && !word(args[2], "OFF") {
			c.fail(errSyntax)
			return
		}
		c.out.ok()
	case "getredir":
		c.out.integer(-1)
	case "trackinginfo":
		c.out.mapping(3)
		c.out.text("flags")
		c.out.set(1)
		c.out.text("off")
		c.out.text("redirect")
		c.out.integer(-1)
		c.out.text("prefixes")
		c.out.array(0)
	case "unpause":
		c.out.ok()
	case "help":
		c.out.array(1)
		c.out.text("CLIENT SETNAME|GETNAME|SETINFO|ID|INFO|LIST|KILL|REPLY|NO-EVICT|NO-TOUCH|GETREDIR|TRACKINGINFO")
	}
}

func validName(s string) bool {
	return len(s) <= 256 && !strings.ContainsFunc(s, func(r rune) bool { return r < '!' || r > '~' })
}

func badName(what string) string {
	return "ERR " + what + " cannot contain spaces, newlines or special characters, nor be longer than 256 bytes."
}

func clientSet(c *conn, field *string, value []byte, what string) {
	if !validName(string(value)) {
		c.out.fail(badName(what))
		return
	}
	c.mu.Lock()
	*field = string(value)
	c.mu.Unlock()
	c.out.ok()
}

func clientReply(c *conn, how []byte) {
	switch {
	case word(how, "ON"):
		c.silent, c.skipping = false, false
		c.out.ok()
	case word(how, "OFF"):
		c.silent = true
	case word(how, "SKIP"):
		c.skipNext = !c.silent
	default:
		c.fail(errSyntax)
	}
}

// describe is one line of CLIENT LIST. Fields that have no meaning here are left out.
func (c *conn) describe() string {
	c.mu.Lock()
	name, lib, vers := c.name, c.libName, c.libVers
	c.mu.Unlock()
	last := "NULL"
	if cmd := c.lastCmd.Load(); cmd != nil {
		last = cmd.name
	}
	age := time.Since(c.born)
	idle := age - time.Duration(c.active.Load())
	return fmt.Sprintf("id=%d addr=%s laddr=%s name=%s age=%d idle=%d flags=N db=%d sub=0 psub=0 ssub=0 multi=%d events=r cmd=%s user=default redir=-1 resp=%d lib-name=%s lib-ver=%s",
		c.id, address(c.nc.RemoteAddr()), address(c.nc.LocalAddr()), name, int(age.Seconds()), int(idle.Seconds()),
		c.db.Load(), c.queued.Load()-1, last, c.proto.Load(), lib, vers)
}

func address(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// clientList is CLIENT LIST [TYPE type] [ID id ...].
func clientList(c *conn, args [][]byte) {
	var only []int64
	switch {
	case len(args) == 0:
	case len(args) == 2 && word(args[0], "TYPE"):
		if !word(args[1], "NORMAL") {
			c.out.verbatim("")
			return
		}
	case len(args) >= 2 && word(args[0], "ID"):
		for _, a := range args[1:] {
			id, ok := parseInt(a)
			if !ok {
				c.out.fail("ERR Invalid client ID")
				return
			}
			only = append(only, id)
		}
	default:
		c.fail(errSyntax)
		return
	}
	all := c.s.connections()
	slices.SortFunc(all, func(a, b *conn) int { return int(a.id - b.id) })
	var b strings.Builder
	for _, other := range all {
		if only == nil || slices.Contains(only, other.id) {
			b.WriteString(other.describe())
			b.WriteByte('\n')
		}
	}
	c.out.verbatim(b.String())
}

// clientKill is CLIENT KILL address, or ID id, or ADDR address.
func clientKill(c *conn, args [][]byte) {
	var match func(*conn) bool
	switch {
	case len(args) == 1 || (len(args) == 2 && word(args[0], "ADDR")):
		want := string(args[len(args)-1])
		match = func(o *conn) bool { return address(o.nc.RemoteAddr()) == want }
	case len(args) == 2 && word(args[0], "ID"):
		id, ok := parseInt(args[1])
		if !ok {
			c.out.fail("ERR client-id should be greater than 0")
			return
		}
		match = func(o *conn) bool { return o.id == id }
	default:
		c.fail(errSyntax)
		return
	}
	killed := 0
	for _, other := range c.s.connections() {
		if !match(other) {
			continue
		}
		killed++
		if other == c {
			c.closing = true // after the reply
		} else {
			other.nc.Close()
		}
	}
	switch {
	case len(args) == 2:
		c.out.integer(int64(killed))
	case killed == 0:
		c.out.fail("ERR No such client")
	default:
		c.out.ok()
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
