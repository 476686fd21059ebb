package resp

import (
	"bytes"
	"io"
)

// Sizes that are Redis's own. Everything else is set by Options.
const (
	maxLineBytes = 64 << 10  // an inline command, or the header of an array or a bulk
	maxBulkBytes = 512 << 20 // above this a bulk length is nonsense, not just too large
	minBuffer    = 4 << 10
	freeBuffer   = 64 << 10  // what a connection may hold without asking the budget
	keepBuffer   = 256 << 10 // an empty buffer above this size is given back
)

// status says what reader.next found.
type status uint8

const (
	needMore status = iota // no complete command is buffered: fill
	ready                  // one command
	oversize               // one command that was over a limit; its bytes are gone
)

// protocolError is what a client is told before its connection is closed.
type protocolError string

func (e protocolError) Error() string { return "Protocol error: " + string(e) }

// errNoMemory says that the budget which all connections share is used up.
type errNoMemory struct{}

func (errNoMemory) Error() string { return "the input buffers of all connections are full" }

// span is one argument: its place behind reader.start.
type span struct{ off, n int }

// reader takes commands off a byte stream. It never blocks: next parses what is
// buffered and goes on where it stopped, fill adds bytes.
//
// Invariants: start <= pos <= end <= len(buf); buf[start:pos] is the parsed part of
// the command in progress; spans lie in it. Arguments that next returned point into
// buf and hold until the next fill.
//
// Memory: a command may keep maxCommand bytes (its bulks and their headers), and
// one header line maxLineBytes more, so bufferLimit is never full while a command
// is incomplete. Buffers grow with the bytes that have arrived, never with a length
// that was only announced.
type reader struct {
	buf             []byte
	start, pos, end int

	maxBulk    int // a longer bulk is thrown away, not buffered
	maxCommand int
	maxArgs    int
	budget     *budget
	charged    int  // what this buffer took from budget
	crowded    bool // the last read filled the buffer: a larger one saves system calls

	left  int // bulks of the command in progress that are still to come
	bulk  int // length of the bulk in progress; -1: its header comes next
	skip  int // bytes of an oversized bulk still to be thrown away
	over  int // size that broke a limit in this command; 0: none did
	seen  int // bytes behind pos known to hold no newline
	spans []span
	args  [][]byte
}

func (r *reader) bufferLimit() int { return r.maxCommand + 2*maxLineBytes }

// next returns the next buffered command. A protocolError ends the connection.
func (r *reader) next() ([][]byte, status, error) {
	if r.left == 0 {
		args, st, err := r.begin()
		if err != nil || st != needMore || r.left == 0 {
			return args, st, err
		}
	}
	for r.left > 0 {
		if more, err := r.argument(); more || err != nil {
			return nil, needMore, err
		}
	}
	if r.over > 0 {
		r.start = r.pos
		return nil, oversize, nil
	}
	r.args = r.args[:0]
	for _, s := range r.spans {
		at := r.start + s.off
		r.args = append(r.args, r.buf[at:at+s.n:at+s.n])
	}
	r.start = r.pos
	return r.args, ready, nil
}

// begin reads the first line of a command: an inline command is complete with it,
// an array sets left. Empty arrays and empty lines are skipped, as Redis does.
func (r *reader) begin() ([][]byte, status, error) {
	for {
		r.start = r.pos
		if r.pos == r.end {
			return nil, needMore, nil
		}
		if r.buf[r.pos] != '*' {
			line, ok, err := r.line("too big inline request")
			if !ok || err != nil {
				return nil, needMore, err
			}
			r.start = r.pos
			args, ok := splitInline(line)
			if !ok {
				return nil, needMore, protocolError("unbalanced quotes in request")
			}
			if len(args) > 0 {
				return args, ready, nil
			}
			continue
		}
		line, ok, err := r.line("too big mbulk count string")
		if !ok || err != nil {
			return nil, needMore, err
		}
		n, ok := parseInt(line[1:])
		if !ok || n > int64(r.maxArgs) {
			return nil, needMore, protocolError("invalid multibulk length")
		}
		if n > 0 {
			r.left, r.bulk, r.skip, r.over, r.spans = int(n), -1, 0, 0, r.spans[:0]
			return nil, needMore, nil
		}
	}
}

// argument takes one bulk, or as much of it as is there; more asks for a fill.
func (r *reader) argument() (more bool, err error) {
	if r.skip > 0 {
		k := min(r.skip, r.end-r.pos)
		r.pos += k
		r.skip -= k
		r.start = r.pos
		if r.skip > 0 {
			return true, nil
		}
		r.left--
		return false, nil
	}
	if r.bulk < 0 {
		line, ok, err := r.line("too big bulk count string")
		if !ok || err != nil {
			return true, err
		}
		if len(line) == 0 || line[0] != '$' {
			return false, protocolError("expected '$', got '" + firstPrintable(line) + "'")
		}
		n, ok := parseInt(line[1:])
		if !ok || n < 0 || n > maxBulkBytes {
			return false, protocolError("invalid bulk length")
		}
		total := r.pos - r.start + int(n) + 2
		if r.over > 0 || int(n) > r.maxBulk || total > r.maxCommand {
			switch {
			case r.over > 0:
			case int(n) > r.maxBulk:
				r.over = int(n)
			default:
				r.over = total
			}
			r.skip, r.start, r.spans = int(n)+2, r.pos, r.spans[:0]
			return false, nil
		}
		r.bulk = int(n)
	}
	if r.end-r.pos < r.bulk+2 {
		return true, nil
	}
	tail := r.pos + r.bulk
	if r.buf[tail] != '\r' || r.buf[tail+1] != '\n' {
		return false, protocolError("expected CRLF after a bulk string")
	}
	r.spans = append(r.spans, span{r.pos - r.start, r.bulk})
	r.pos, r.bulk = tail+2, -1
	r.left--
	return false, nil
}

// line takes one line without its end. A byte is looked at once, however the line
// arrives.
func (r *reader) line(tooBig string) ([]byte, bool, error) {
	i := bytes.IndexByte(r.buf[r.pos+r.seen:r.end], '\n')
	if i < 0 {
		r.seen = r.end - r.pos
		if r.seen > maxLineBytes {
			return nil, false, protocolError(tooBig)
		}
		return nil, false, nil
	}
	n := r.seen + i
	r.seen = 0
	if n > maxLineBytes {
		return nil, false, protocolError(tooBig)
	}
	line := r.buf[r.pos : r.pos+n]
	r.pos += n + 1
	if n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, true, nil
}

// fill reads once from src. Arguments returned before are no longer valid.
func (r *reader) fill(src io.Reader) error {
	if r.start == r.end {
		r.start, r.pos, r.end = 0, 0, 0
		if len(r.buf) > keepBuffer {
			r.release()
		}
	}
	if err := r.room(); err != nil {
		return err
	}
	n, err := src.Read(r.buf[r.end:])
	r.end += n
	r.crowded = r.end == len(r.buf)
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// room makes place for at least one more byte.
func (r *reader) room() error {
	size := len(r.buf)
	held := r.end - r.start
	switch {
	case size == 0:
		size = minBuffer
	case r.crowded && held == 0 && size < freeBuffer:
		size *= 2
	case r.end < size:
		return nil
	case held <= size/2:
		copy(r.buf, r.buf[r.start:r.end])
		r.rebase()
		return nil
	default:
		grown := 2 * size
		if need := r.announced(); need > size { // as large as it has to be, as soon as can be
			grown = min(need, believed*size)
		}
		size = min(grown, r.bufferLimit())
	}
	if err := r.charge(size); err != nil {
		return err
	}
	buf := make([]byte, size)
	copy(buf, r.buf[r.start:r.end])
	r.buf = buf
	r.rebase()
	return nil
}

// believed is how much larger a buffer becomes at once, than what has arrived, because
// more was announced.
const believed = 16

// announced is how many bytes the command in progress has with its bulk in progress, and
// some for what may follow; 0 when no bulk is in progress.
func (r *reader) announced() int {
	if r.left == 0 || r.bulk < 0 || r.skip > 0 {
		return 0
	}
	return r.pos - r.start + r.bulk + 512
}

func (r *reader) rebase() {
	r.pos -= r.start
	r.end -= r.start
	r.start = 0
}

// charge takes from the budget what a buffer of size bytes needs beyond the free part.
func (r *reader) charge(size int) error {
	want := max(0, size-freeBuffer)
	if !r.budget.take(want - r.charged) {
		return errNoMemory{}
	}
	r.charged = want
	return nil
}

// release gives the buffer back. The reader may be used on.
func (r *reader) release() {
	r.budget.take(-r.charged)
	r.charged, r.buf, r.crowded = 0, nil, false
	if cap(r.spans) > 1024 {
		r.spans, r.args = nil, nil
	}
}

// parseInt reads a decimal as Redis does: no sign but '-', no leading zeros, no spaces.
func parseInt(b []byte) (int64, bool) {
	neg := len(b) > 0 && b[0] == '-'
	digits := b
	if neg {
		digits = b[1:]
	}
	if len(digits) == 0 || len(digits) > 19 || (digits[0] == '0' && len(b) > 1) {
		return 0, false
	}
	var n uint64 // 19 digits always fit
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	switch {
	case !neg && n < 1<<63:
		return int64(n), true
	case neg && n <= 1<<63:
		return -int64(n), true
	}
	return 0, false
}

func firstPrintable(line []byte) string {
	if len(line) == 0 || line[0] < ' ' || line[0] > '~' {
		return "?"
	}
	return string(line[:1])
}
