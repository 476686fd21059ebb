package bench

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"fulcrum"
)

const (
	bufferSize  = 64 << 10 // also the longest line of a reply
	maxDepth    = 8        // of arrays in a reply
	maxElements = 1 << 20
	maxBulk     = 512 << 20
	setexFor    = "60" // seconds
	waitFor     = "5000"
)

// redisSession is one connection. Its buffers are used again for every batch.
type redisSession struct {
	nc      net.Conn
	in      *bufio.Reader
	at      time.Time // when the last bytes came
	out     []byte
	key     []byte
	o       *Options
	refresh time.Time // when the deadline has to be moved on
	stop    func() bool
}

// stamped notes when bytes come: one look at the clock for all replies in them.
type stamped struct{ s *redisSession }

func (r stamped) Read(b []byte) (int, error) {
	n, err := r.s.nc.Read(b)
	r.s.at = time.Now()
	return n, err
}

// Close ends the connection.
func (s *redisSession) Close() {
	s.stop()
	_ = s.nc.Close()
}

// command sends one command of the setup; an error reply is a *fulcrum.Error.
func (s *redisSession) command(args []string) error {
	s.patience(time.Now())
	b := appendArray(s.out[:0], len(args))
	for _, a := range args {
		b = appendBulk(b, a)
	}
	if _, err := s.nc.Write(b); err != nil {
		return err
	}
	r, err := s.reply(0)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", s.nc.RemoteAddr(), strings.Join(args, " "), err)
	}
	if r.kind != '-' {
		return nil
	}
	code := fulcrum.CodeInvalid
	if strings.Contains(r.line, "no keyspace") {
		code = fulcrum.CodeNotFound
	}
	switch prefix(r.line) {
	case "LEVEL":
		code = fulcrum.CodeLevel
	case "UNAVAILABLE":
		code = fulcrum.CodeUnavailable
	case "OVERLOADED":
		code = fulcrum.CodeOverloaded
	}
	return fulcrum.Errorf(code, "%s refuses %s: %s", s.nc.RemoteAddr(), strings.Join(args, " "), r.line)
}

// patience keeps the connection's deadline at least OpTimeout away, and moves it seldom:
// that costs more than all else here.
func (s *redisSession) patience(now time.Time) {
	if now.Before(s.refresh) {
		return
	}
	s.refresh = now.Add(time.Duration(s.o.OpTimeout) / 10)
	_ = s.nc.SetDeadline(s.refresh.Add(time.Duration(s.o.OpTimeout)))
}

// Do sends a batch and reads its replies.
func (s *redisSession) Do(sent time.Time, ops []Op, answers []Answer) (n int, err error) {
	s.patience(sent)
	s.out = s.out[:0]
	for i := range ops {
		s.encode(&ops[i])
	}
	if len(s.out) <= bufferSize {
		if _, err := s.nc.Write(s.out); err != nil {
			return 0, err
		}
		return s.answers(ops, answers)
	}
	// A server that answers before it has read everything waits until somebody reads.
	written := make(chan error, 1)
	go func() {
		_, err := s.nc.Write(s.out)
		written <- err
	}()
	if n, err = s.answers(ops, answers); err != nil {
		_ = s.nc.Close() // ends the write too
	}
	return n, errors.Join(err, <-written)
}

func (s *redisSession) answers(ops []Op, answers []Answer) (int, error) {
	for i := range ops {
		if err := s.answer(&ops[i], &answers[i]); err != nil {
			return i, err
		}
	}
	return len(ops), nil
}

// encode appends the command of an operation to the batch.
func (s *redisSession) encode(op *Op) {
	one := func(name string, args int) {
		s.out = appendBulk(appendArray(s.out, 1+args), name)
		if args > 0 {
			s.appendKey(op, 0)
		}
	}
	switch op.Kind.Verb {
	case Get:
		one("GET", 1)
	case Set:
		one("SET", 2)
		s.out = appendBulk(s.out, op.Value)
	case SetEX:
		one("SETEX", 3)
		s.out = appendBulk(appendBulk(s.out, setexFor), op.Value)
	case SetNX:
		one("SETNX", 2)
		s.out = appendBulk(s.out, op.Value)
	case GetSet:
		one("GETSET", 2)
		s.out = appendBulk(s.out, op.Value)
	case Del:
		one("DEL", 1)
	case Exists:
		one("EXISTS", 1)
	case Incr:
		one("INCR", 1)
	case Append:
		one("APPEND", 2)
		s.out = appendBulk(s.out, op.Value)
	case Ping:
		one("PING", 0)
	case MGet:
		s.out = appendBulk(appendArray(s.out, 1+len(op.Keys)), "MGET")
		for i := range op.Keys {
			s.appendKey(op, i)
		}
	case MSet:
		s.out = appendBulk(appendArray(s.out, 1+2*len(op.Keys)), "MSET")
		for i := range op.Keys {
			s.appendKey(op, i)
			s.out = appendBulk(s.out, op.Value)
		}
	case SetWait:
		one("SET", 2)
		s.out = appendBulk(s.out, op.Value)
		s.out = appendBulk(appendArray(s.out, 3), "WAIT")
		s.out = appendBulk(appendBulk(s.out, strconv.Itoa(op.Kind.N)), waitFor)
	}
}

func (s *redisSession) appendKey(op *Op, i int) {
	s.key = s.o.AppendKey(s.key[:0], op.Kind.Verb, op.Keys[i])
	s.out = appendBulk(s.out, s.key)
}

func appendArray(b []byte, n int) []byte { return appendHead(b, '*', n) }

func appendHead(b []byte, kind byte, n int) []byte {
	return append(strconv.AppendInt(append(b, kind), int64(n), 10), '\r', '\n')
}

func appendBulk[T string | []byte](b []byte, arg T) []byte {
	return append(append(appendHead(b, '$', len(arg)), arg...), '\r', '\n')
}

// answer reads what an operation is answered with, and checks that it is of its kind.
func (s *redisSession) answer(op *Op, a *Answer) error {
	r, err := s.reply(0)
	if err != nil {
		return err
	}
	*a = Answer{At: s.at}
	switch {
	case r.kind == '-':
		a.Err, a.Text = prefix(r.line), r.line
	case !r.fits(op.Kind):
		a.Err = ErrReply
	default:
		a.Missing = op.Kind.Verb == Get && r.null || (op.Kind.Verb == Del || op.Kind.Verb == Exists) && r.n == 0
	}
	if op.Kind.Verb != SetWait {
		return nil
	}
	w, err := s.reply(0)
	if err != nil {
		return err
	}
	a.At = s.at
	switch {
	case a.Err != "":
	case w.kind == '-':
		a.Err, a.Text = prefix(w.line), w.line
	case w.kind != ':':
		a.Err = ErrReply
	case w.n < int64(op.Kind.N):
		a.Err = ErrReplicas
	}
	return nil
}

// reply is one reply without the bytes of its bulk strings.
type reply struct {
	kind byte   // + - : $ *; an array that holds an error is one
	n    int64  // of an integer; elements of an array
	null bool   //
	line string // of an error
}

// fits reports whether a reply is one that the operation can have.
func (r reply) fits(k Kind) bool {
	switch k.Verb {
	case Get, GetSet:
		return r.kind == '$'
	case SetNX, Del, Exists, Incr, Append:
		return r.kind == ':'
	case MGet:
		return r.kind == '*' && !r.null && r.n == int64(k.N)
	}
	return r.kind == '+'
}

// errProtocol is something that is no Redis protocol: the connection cannot go on.
var errProtocol = errors.New("the reply is no Redis protocol")

// reply reads one reply. Nothing in it makes this use more memory than the buffer.
func (s *redisSession) reply(depth int) (reply, error) {
	line, err := s.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return reply{}, errProtocol
	case err != nil:
		return reply{}, err
	case len(line) < 3 || line[len(line)-2] != '\r':
		return reply{}, errProtocol
	}
	r := reply{kind: line[0]}
	text := line[1 : len(line)-2]
	switch r.kind {
	case '+':
		return r, nil
	case '-':
		r.line = string(text[:min(len(text), 512)])
		return r, nil
	case ':', '$', '*':
	default:
		return reply{}, errProtocol
	}
	if r.n, err = strconv.ParseInt(string(text), 10, 64); err != nil {
		return reply{}, errProtocol
	}
	switch {
	case r.kind == ':':
		return r, nil
	case r.n == -1:
		r.null = true
		return r, nil
	case r.kind == '$':
		return r, s.skip(r.n)
	}
	return s.elements(r, depth)
}

// skip passes over a bulk string and its end.
func (s *redisSession) skip(n int64) error {
	if n < 0 || n > maxBulk {
		return errProtocol
	}
	if _, err := s.in.Discard(int(n)); err != nil {
		return err
	}
	end, err := s.in.Peek(2)
	if err != nil {
		return err
	}
	if end[0] != '\r' || end[1] != '\n' {
		return errProtocol
	}
	_, err = s.in.Discard(2)
	return err
}

func (s *redisSession) elements(r reply, depth int) (reply, error) {
	if r.n < 0 || r.n > maxElements || depth == maxDepth {
		return reply{}, errProtocol
	}
	for range r.n {
		e, err := s.reply(depth + 1)
		if err != nil {
			return reply{}, err
		}
		if e.kind == '-' && r.kind != '-' {
			r.kind, r.line = '-', e.line
		}
	}
	return r, nil
}

// prefix is the first word of an error reply, by which programs decide.
func prefix(line string) string {
	word, _, _ := strings.Cut(line, " ")
	if word == "" || len(word) > 24 || strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		return "ERR"
	}
	return word
}

// wordFor is what an operation that got no answer is counted as.
func wordFor(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrTimeout
	case errors.Is(err, errProtocol):
		return ErrReply
	}
	return ErrConnection
}
