package resp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

func newReader() *reader {
	return &reader{maxBulk: 1 << 10, maxCommand: 4 << 10, maxArgs: 64, budget: &budget{limit: 1 << 20}}
}

// parseAll returns every command of a stream as text, and the error at its end.
func parseAll(r *reader, src io.Reader) (out []string, err error) {
	for {
		args, st, err := r.next()
		switch {
		case err != nil:
			return out, err
		case st == ready:
			out = append(out, fmt.Sprintf("%q", args))
		case st == oversize:
			out = append(out, "oversize")
		default:
			if err := r.fill(src); err != nil {
				return out, nil
			}
			if len(r.buf) > r.bufferLimit() {
				return out, fmt.Errorf("a buffer of %d bytes, the limit is %d", len(r.buf), r.bufferLimit())
			}
		}
	}
}

// However the bytes arrive, the commands are the same: for any stream of commands,
// and for bytes that are none.
func TestParserIgnoresHowBytesArrive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream strings.Builder
		for range rapid.IntRange(1, 8).Draw(t, "commands") {
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				stream.WriteString("SET 'a b' \"\\x41\"\r\n")
			case 1:
				stream.WriteString(array("SET", "k", strings.Repeat("v", rapid.IntRange(0, 3000).Draw(t, "size"))))
			case 2:
				words := rapid.SliceOfN(rapid.StringN(0, 20, 200), 1, 40).Draw(t, "words")
				stream.WriteString(array(words...))
			default:
				stream.Write(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "noise"))
			}
		}
		whole, err1 := parseAll(newReader(), strings.NewReader(stream.String()))
		bytewise, err2 := parseAll(newReader(), iotest.OneByteReader(strings.NewReader(stream.String())))
		halves, err3 := parseAll(newReader(), iotest.HalfReader(strings.NewReader(stream.String())))
		for _, other := range [][]string{bytewise, halves} {
			if fmt.Sprint(whole) != fmt.Sprint(other) {
				t.Fatalf("whole %q, in pieces %q", whole, other)
			}
		}
		if fmt.Sprint(err1) != fmt.Sprint(err2) || fmt.Sprint(err1) != fmt.Sprint(err3) {
			t.Fatalf("whole ends with %v, in pieces with %v and %v", err1, err2, err3)
		}
	})
}

// What array wrote, the parser reads.
func TestParserReadsWhatIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringN(0, 20, 60), 1, 60).Draw(t, "words")
		got, err := parseAll(newReader(), strings.NewReader(array(words...)))
		if want := fmt.Sprintf("%q", words); err != nil || len(got) != 1 || got[0] != want {
			t.Fatalf("got %q and %v, want %s", got, err, want)
		}
	})
}

func TestReaderGivesItsMemoryBack(t *testing.T) {
	r := newReader()
	r.maxBulk, r.maxCommand, r.budget.limit = 1<<20, 2<<20, 1<<30
	if got, err := parseAll(r, strings.NewReader(array("SET", "a", strings.Repeat("x", 1<<20)))); err != nil || len(got) != 1 {
		t.Fatal(len(got), err)
	}
	if len(r.buf) > keepBuffer || r.budget.used.Load() != int64(r.charged) {
		t.Errorf("%d bytes kept, %d charged, %d used", len(r.buf), r.charged, r.budget.used.Load())
	}
	if r.release(); r.budget.used.Load() != 0 {
		t.Errorf("%d bytes still charged", r.budget.used.Load())
	}
}

// The buffer of a large command grows to what was announced, in few steps, but to no more
// than a multiple of what has come.
func TestALargeCommandGetsItsRoomInFewSteps(t *testing.T) {
	const size = 256 << 10
	command := array("SET", "a", strings.Repeat("x", size))
	sizes := func(sent string) (all int, last int) {
		r := newReader()
		r.maxBulk, r.maxCommand, r.budget.limit = 8<<20, 8<<20, 1<<30
		for src := strings.NewReader(sent); src.Len() > 0; {
			if err := r.fill(src); err != nil {
				t.Fatal(err)
			}
			if len(r.buf) != last {
				last = len(r.buf)
				all += last
			}
			if _, _, err := r.next(); err != nil {
				t.Fatal(err)
			}
		}
		return all, last
	}
	if all, last := sizes(command); last < size || all > size*3/2 {
		t.Errorf("buffers of %d bytes in all, the last of %d, for a command of %d", all, last, len(command))
	}
	lie := strings.Replace(command, fmt.Sprint("$", size), "$8000000", 1)[:minBuffer+100]
	if _, last := sizes(lie); last > believed*minBuffer {
		t.Errorf("a buffer of %d bytes for %d that came", last, len(lie))
	}
}

func TestAnnouncedLengthCostsNothing(t *testing.T) {
	r := newReader()
	r.maxBulk, r.maxCommand = 16<<20, 16<<20
	if _, err := parseAll(r, strings.NewReader("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$16000000\r\nxxx")); err != nil {
		t.Fatal(err)
	}
	if len(r.buf) > 8<<10 {
		t.Errorf("%d bytes for a few", len(r.buf))
	}
}

func TestInline(t *testing.T) {
	for line, want := range map[string]string{
		`SET a b`: `["SET" "a" "b"]`, "  a\t b  ": `["a" "b"]`, ``: `[]`, `   `: `[]`, `"" ''`: `["" ""]`,
		`"a b" 'c d'`: `["a b" "c d"]`, `"\x41\n\r\t\b\a\\\"\q"`: `["A\n\r\t\b\a\\\"q"]`, `'it\'s \n'`: `["it's \\n"]`, `a"b c"`: `["ab c"]`, `"\x4g"`: `["x4g"]`,
		`"a`: `bad`, `'a`: `bad`, `"a"b`: `bad`, `'a'b`: `bad`, `"a\`: `bad`, `a"`: `bad`, "\v\fa\vb c\f \"d\"\ve": `["a\vb" "c\f" "d" "e"]`,
	} {
		args, ok := splitInline([]byte(line))
		got := fmt.Sprintf("%q", args)
		if !ok {
			got = "bad"
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
}

func TestParseInt(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "-1": -1, "10": 10, "9223372036854775807": math.MaxInt64, "-9223372036854775808": math.MinInt64} {
		if got, ok := parseInt([]byte(text)); !ok || got != want {
			t.Errorf("%s: got %d, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "-", "+1", "01", "-0", "00", " 1", "1 ", "1x", "0x1", "9223372036854775808", "-9223372036854775809", "99999999999999999999"} {
		if got, ok := parseInt([]byte(text)); ok {
			t.Errorf("%q was read as %d", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64().Draw(t, "n")
		if got, ok := parseInt(strconv.AppendInt(nil, n, 10)); !ok || got != n {
			t.Fatalf("%d: got %d, %v", n, got, ok)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"*", []string{"", "a", "abc"}, nil},
		{"", []string{""}, []string{"a"}},
		{"h?llo", []string{"hello", "hallo"}, []string{"hllo", "heello"}},
		{"h*llo", []string{"hllo", "heeello", "hllollo"}, []string{"hll", "xhllo"}},
		{"h[ae]llo", []string{"hello", "hallo"}, []string{"hillo"}},
		{"h[^e]llo", []string{"hallo"}, []string{"hello"}},
		{"h[a-c]llo", []string{"hallo", "hcllo"}, []string{"hdllo"}},
		{"h[c-a]llo", []string{"hbllo"}, []string{"hdllo"}},
		{`a\*b`, []string{"a*b"}, []string{"axb"}},
		{`[\]]`, []string{"]"}, []string{"x"}},
		{"[a", []string{"a"}, []string{"b", "[a"}},
		{`a\`, []string{`a\`}, []string{"a"}},
		{"*a*b*c", []string{"abc", "xaxbxc", "aabbcc"}, []string{"acb", "ab"}},
		{"**", []string{"", "x"}, nil},
	} {
		for _, s := range c.yes {
			if !globMatch([]byte(c.pattern), []byte(s)) {
				t.Errorf("%s does not match %s", c.pattern, s)
			}
		}
		for _, s := range c.no {
			if globMatch([]byte(c.pattern), []byte(s)) {
				t.Errorf("%s matches %s", c.pattern, s)
			}
		}
	}
}

// A pattern of letters, ? and * matches what the regular expression does, and what
// it matches starts with its prefix.
func TestGlobIsTheRegularExpression(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab?*]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,10}`).Draw(t, "s")
		re := regexp.MustCompile("^" + strings.NewReplacer("?", ".", "*", ".*").Replace(pattern) + "$")
		got := globMatch([]byte(pattern), []byte(s))
		if want := re.MatchString(s); got != want {
			t.Fatalf("%s on %s: %v", pattern, s, got)
		}
		if got && !strings.HasPrefix(s, string(globPrefix([]byte(pattern)))) {
			t.Fatalf("%s matches %s but not by its prefix", pattern, s)
		}
	})
}

// An attacker's pattern costs no more than the product of the lengths.
func TestGlobIsNotExponential(t *testing.T) {
	pattern := bytes.Repeat([]byte("a*"), 4000)
	if globMatch(append(pattern, 'b'), bytes.Repeat([]byte("a"), 8000)) {
		t.Error("it matches")
	}
}

func TestCursorsForgetTheOldest(t *testing.T) {
	cs := newCursors(3)
	a, b, c := cs.put(0, 1, []byte("a")), cs.put(0, 1, []byte("b")), cs.put(0, 1, []byte("c"))
	if after, ok := cs.get(a, 1); !ok || string(after) != "a" { // now b is the oldest
		t.Errorf("a: %q, %v", after, ok)
	}
	d := cs.put(a, 1, []byte("d"))
	for id, want := range map[uint64]bool{a: true, b: false, c: true, d: true} {
		if cs.byID[id] != nil != want {
			t.Errorf("cursor %d is there: %v", id, !want)
		}
	}
	cs.get(d, 1) // the scan went on: a is of no more use
	if cs.byID[a] != nil || len(cs.byID) != 2 {
		t.Errorf("%d cursors are kept", len(cs.byID))
	}
	if _, ok := cs.get(c, 2); ok {
		t.Error("a cursor of another keyspace was taken")
	}
}

func TestWriterForms(t *testing.T) {
	for _, c := range []struct {
		name         string
		write        func(*writer)
		resp2, resp3 string
	}{
		{"null", (*writer).null, "$-1\r\n", "_\r\n"},
		{"null array", (*writer).nullArray, "*-1\r\n", "_\r\n"},
		{"map", func(w *writer) { w.mapping(2) }, "*4\r\n", "%2\r\n"},
		{"set", func(w *writer) { w.set(2) }, "*2\r\n", "~2\r\n"},
		{"true", func(w *writer) { w.boolean(true) }, ":1\r\n", "#t\r\n"},
		{"false", func(w *writer) { w.boolean(false) }, ":0\r\n", "#f\r\n"},
		{"double", func(w *writer) { w.double(1.5) }, "$3\r\n1.5\r\n", ",1.5\r\n"},
		{"infinity", func(w *writer) { w.double(math.Inf(-1)) }, "$4\r\n-inf\r\n", ",-inf\r\n"},
		{"not a number", func(w *writer) { w.double(math.NaN()) }, "$3\r\nnan\r\n", ",nan\r\n"},
		{"verbatim", func(w *writer) { w.verbatim("hi") }, "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"},
		{"error", func(w *writer) { w.fail("ERR a\r\nb") }, "-ERR a  b\r\n", "-ERR a  b\r\n"},
	} {
		for proto, want := range map[int]string{2: c.resp2, 3: c.resp3} {
			w := writer{proto: proto}
			if c.write(&w); string(w.buf) != want {
				t.Errorf("%s in RESP%d: got %q, want %q", c.name, proto, w.buf, want)
			}
		}
	}
}

var seeds = []string{
	"PING\r\n", array("SET", "a", "1") + array("GET", "a"), "*1\r\n$4\r\nPING\r\n", "*-1\r\n*0\r\n", "*2\r\n$3\r\nGET\r\n$-1\r\n", "SET a \"\\x00\" EX 1\r\n",
	array("HELLO", "3") + array("CLIENT", "LIST") + array("COMMAND"), array("MSET", "a", "1", "b", "2") + array("SCAN", "0", "MATCH", "[a", "COUNT", "1"),
	"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$99999999\r\nxx", array("CLIENT", "REPLY", "OFF") + array("KEYS", "*"), array("SELECT", "2") + array("DEL", "a", "b") + array("INCR", "a"),
	"*1048576\r\n", "$5\r\nhello\r\n", "*1\r\n$536870912\r\n", array("GETEX", "a", "PXAT", "9223372036854775807") + array("SETRANGE", "a", "9223372036854775807", "x"),
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		whole, err1 := parseAll(newReader(), bytes.NewReader(data))
		pieces, err2 := parseAll(newReader(), iotest.OneByteReader(bytes.NewReader(data)))
		if fmt.Sprint(whole, err1) != fmt.Sprint(pieces, err2) {
			t.Fatalf("whole: %q, %v; in pieces: %q, %v", whole, err1, pieces, err2)
		}
		var p protocolError
		if err1 != nil && !errors.As(err1, &p) {
			t.Fatalf("not a protocol error: %v", err1)
		}
	})
}

// FuzzServer sends bytes to a whole server: it must not panic, must stay in its
// memory, and must go on serving others.
func FuzzServer(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := New(Options{Backend: newFake(), RequestTimeout: 1e8, MaxBufferBytes: 4 << 20})
		l := newPipes()
		served := make(chan error, 1)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { served <- s.Serve(ctx, l) }()
		nc := l.dial()
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			io.Copy(io.Discard, nc)
		}()
		nc.Write(data)
		if used := s.budget.used.Load(); used > 4<<20 {
			t.Errorf("%d bytes are charged", used)
		}
		nc.Close()
		<-heard
		other := l.dial()
		if got := ask(other, "PING\r\n"); got != "+PONG\r\n" {
			t.Errorf("another client hears %q", got)
		}
		other.Close()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if used := s.budget.used.Load(); used != 0 {
			t.Errorf("%d bytes are still charged", used)
		}
	})
}
