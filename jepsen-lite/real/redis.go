package real

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// Bounds of a reply: RECEIPT, the largest that is asked for, has 20 fields.
const (
	maxLine     = 64 << 10
	maxElements = 256
	maxBulk     = 1 << 20
	maxDepth    = 4
	redisTime   = 10 * time.Second // for a request whose context has no deadline
)

// redisConn is one connection in RESP2. One goroutine at a time may use it.
//
// Invariant: unless broken, no byte of an earlier reply is still to come.
type redisConn struct {
	c      net.Conn
	in     *bufio.Reader
	broken bool // it must be closed

	keyspace string // selected; empty: none yet
	level    consistency.Level
	token    consistency.Token
}

func dialRedis(ctx context.Context, addr string) (*redisConn, error) {
	c, err := (&net.Dialer{Timeout: askTime}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "cannot reach %s: %w", addr, err)
	}
	return &redisConn{c: c, in: bufio.NewReaderSize(c, maxLine)}, nil
}

func (r *redisConn) close() { _ = r.c.Close() }

// alive looks, without waiting, whether the other end has closed or sent what nobody
// asked for.
func (r *redisConn) alive() bool {
	raw, err := r.c.(syscall.Conn).SyscallConn()
	if err != nil || r.in.Buffered() > 0 {
		return false
	}
	alive := false
	var b [1]byte
	if raw.Read(func(fd uintptr) bool {
		_, err := syscall.Read(int(fd), b[:])
		alive = err == syscall.EAGAIN
		return true
	}) != nil {
		return false
	}
	return alive
}

// mutate sends one command that writes, and RECEIPT after it. Until the command has
// left whole, errors are definite; after that only a reply makes them so.
func (r *redisConn) mutate(ctx context.Context, keyspace string, level consistency.Level, token consistency.Token, args []string) (consistency.Receipt, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(redisTime)
	}
	_ = r.c.SetDeadline(deadline)
	cut := context.AfterFunc(ctx, func() { _ = r.c.SetDeadline(time.Unix(1, 0)) })
	defer func() { r.broken = r.broken || !cut() }() // too late: it may hit the next request
	if err := r.prepare(keyspace, level, token); err != nil {
		return consistency.Receipt{}, err
	}
	command := encode(nil, args...)
	if n, err := r.c.Write(encode(command, "RECEIPT")); err != nil {
		r.broken = true
		if n < len(command) { // nobody acts on a part of a command
			return consistency.Receipt{}, fulcrum.Errorf(fulcrum.CodeUnavailable, "%s was not sent: %w", args[0], err)
		}
		return consistency.Receipt{}, fulcrum.Errorf(fulcrum.CodeUnknown, "%s: the connection broke: %w", args[0], err)
	}
	v, err := r.reply(0)
	if err != nil {
		r.broken = true
		return consistency.Receipt{}, fulcrum.Errorf(fulcrum.CodeUnknown, "%s: no answer from %s: %w", args[0], r.c.RemoteAddr(), err)
	}
	receipt := r.receipt()
	switch v := v.(type) {
	case redisError:
		r.keyspace = "" // it may be another one of that name by now
		return receipt, v.classify()
	case int64:
		return receipt, nil
	}
	r.broken = true
	return receipt, fulcrum.Errorf(fulcrum.CodeUnknown, "%s: answer %v", args[0], v)
}

// receipt reads the reply of RECEIPT. The command was answered before it, so that
// none, or one that cannot be read, is no error.
func (r *redisConn) receipt() consistency.Receipt {
	v, err := r.reply(0)
	if err != nil {
		r.broken = true
		return consistency.Receipt{}
	}
	list, ok := v.([]any)
	if !ok {
		return consistency.Receipt{}
	}
	rc, err := receiptOf(list)
	if err != nil {
		return consistency.Receipt{}
	}
	return rc
}

// prepare selects keyspace, level and token where they differ from those of the last
// command. Nothing has been done yet when it fails.
func (r *redisConn) prepare(keyspace string, level consistency.Level, token consistency.Token) error {
	var commands [][]string
	if keyspace != r.keyspace {
		commands = append(commands, []string{"KEYSPACE", keyspace})
	}
	if keyspace != r.keyspace || level != r.level {
		word := level.String()
		if level == (consistency.Level{}) {
			word = "default"
		}
		commands = append(commands, []string{"CONSISTENCY", "WRITE", word})
	}
	switch {
	case token == "" && r.token != "":
		commands = append(commands, []string{"SESSION", "OFF"})
	case token != "": // each receipt renews the connection's: set ours again
		commands = append(commands, []string{"SESSION", "TOKEN", string(token)})
	}
	if len(commands) == 0 {
		return nil
	}
	var b []byte
	for _, c := range commands {
		b = encode(b, c...)
	}
	r.keyspace = "" // until all is done
	if _, err := r.c.Write(b); err != nil {
		r.broken = true
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "nothing was sent: %w", err)
	}
	var refused error
	for _, c := range commands {
		v, err := r.reply(0)
		if err != nil {
			r.broken = true
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "%s: no answer from %s, nothing was done: %w", c[0], r.c.RemoteAddr(), err)
		}
		if e, ok := v.(redisError); ok && refused == nil {
			refused = e.refusal(c[0])
		}
	}
	if refused != nil {
		return refused
	}
	r.keyspace, r.level, r.token = keyspace, level, token
	return nil
}

// encode appends a command.
func encode(b []byte, args ...string) []byte {
	b = fmt.Appendf(b, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b
}

// redisError is an error reply.
type redisError string

// code is what the prefix of an error says; see docs/operations.md. ERR says nothing.
func (e redisError) code() fulcrum.Code {
	prefix, _, _ := strings.Cut(string(e), " ")
	return map[string]fulcrum.Code{"UNAVAILABLE": fulcrum.CodeUnavailable, "UNKNOWN": fulcrum.CodeUnknown, "LEVEL": fulcrum.CodeLevel,
		"OVERLOADED": fulcrum.CodeOverloaded, "TOOLARGE": fulcrum.CodeTooLarge}[prefix]
}

// classify is the error of a command that writes. ERR covers too much to conclude that
// nothing was done, but for what the command itself forbids.
func (e redisError) classify() error {
	if code := e.code(); code != "" {
		return fulcrum.Errorf(code, "%s", string(e))
	}
	for part, code := range map[string]fulcrum.Code{
		"not an integer or out of range":          fulcrum.CodeInvalid,
		"would overflow":                          fulcrum.CodeInvalid,
		"wrong number of arguments":               fulcrum.CodeInvalid,
		"session token":                           fulcrum.CodeInvalid,
		"cannot read and write a key in one step": fulcrum.CodeMode,
		"no keyspace has the database number":     fulcrum.CodeNotFound,
	} {
		if strings.Contains(string(e), part) {
			return fulcrum.Errorf(code, "%s", string(e))
		}
	}
	return fulcrum.Errorf(fulcrum.CodeUnknown, "%s", string(e))
}

// refusal is the error of a command that only prepares: always definite.
func (e redisError) refusal(command string) error {
	code := e.code()
	switch {
	case code == fulcrum.CodeUnknown:
		code = fulcrum.CodeUnavailable
	case code == "" && command == "KEYSPACE":
		code = fulcrum.CodeNotFound
	case code == "":
		code = fulcrum.CodeInvalid
	}
	return fulcrum.Errorf(code, "%s", string(e))
}

// reply reads one reply: redisError, string, int64, []any or nil.
func (r *redisConn) reply(depth int) (any, error) {
	line, err := r.in.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' || depth > maxDepth {
		return nil, fmt.Errorf("malformed reply %.40q", line)
	}
	kind, text := line[0], string(line[1:len(line)-2])
	switch kind {
	case '+':
		return text, nil
	case '-':
		return redisError(text), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return nil, fmt.Errorf("malformed reply %.40q", line)
	case kind == ':':
		return n, nil
	case n == -1:
		return nil, nil
	case kind == '$' && n >= 0 && n <= maxBulk:
		b := make([]byte, n+2)
		_, err := io.ReadFull(r.in, b)
		return string(b[:n]), err
	case kind == '*' && n >= 0 && n <= maxElements:
		list := make([]any, n)
		for i := range list {
			if list[i], err = r.reply(depth + 1); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("malformed reply %.40q", line)
}

// receiptOf reads what RECEIPT answers in RESP2: names and values in turn.
func receiptOf(list []any) (consistency.Receipt, error) {
	text, number := map[string]string{}, map[string]int64{}
	for i := 0; i+1 < len(list); i += 2 {
		name, _ := list[i].(string)
		switch v := list[i+1].(type) {
		case string:
			text[name] = v
		case int64:
			number[name] = v
		}
	}
	rc := consistency.Receipt{Keyspace: text["keyspace"], Shard: fulcrum.GroupID(number["shard"]), Epoch: fulcrum.Epoch(number["epoch"]),
		Node: fulcrum.NodeID(text["node"]), Leader: fulcrum.NodeID(text["leader"]), Acks: int(number["acks"]), Needed: int(number["needed"]),
		Replicas: int(number["replicas"]), Found: number["found"] == 1, Durable: text["durable"], Staleness: -1, Hinted: int(number["hinted"]),
		Repaired: int(number["repaired"]), Siblings: int(number["siblings"]), Session: consistency.Token(text["session"]),
		Latency: time.Duration(number["latency_us"]) * time.Microsecond}
	var err error
	if rc.Mode, err = consistency.ParseMode(text["mode"]); err != nil {
		return rc, err
	}
	if rc.Level, err = consistency.ParseLevel(text["level"]); err != nil {
		return rc, err
	}
	if rc.Given, err = consistency.ParseLevel(text["given"]); err != nil {
		return rc, err
	}
	if v := text["version"]; v != "" {
		if rc.Version, err = fulcrum.ParseVersion(v); err != nil {
			return rc, err
		}
	}
	if ms, ok := text["staleness_ms"]; ok {
		f, err := strconv.ParseFloat(ms, 64)
		if err != nil {
			return rc, err
		}
		rc.Staleness = time.Duration(f * float64(time.Millisecond))
	}
	if ms, ok := text["clock_bound_ms"]; ok {
		f, err := strconv.ParseFloat(ms, 64)
		if err != nil {
			return rc, err
		}
		rc.ClockBound = time.Duration(f * float64(time.Millisecond))
	}
	return rc, nil
}
