package resp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// replies reads n of them.
func (s *session) replies(n int) []string {
	s.t.Helper()
	out := make([]string, n)
	for i := range out {
		out[i] = s.reply()
	}
	return out
}

// pipeline sends the lines at once and returns their replies.
func (s *session) pipeline(lines ...string) []string {
	s.t.Helper()
	s.send(strings.Join(lines, "\r\n") + "\r\n")
	return s.replies(len(lines))
}

func check[T any](t *testing.T, what string, got, want []T) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %q, want %q", what, fmt.Sprint(got), fmt.Sprint(want))
	}
}

func TestPipeline(t *testing.T) {
	for _, c := range []struct {
		name    string
		db      string
		lines   []string
		replies []string
		writes  []int
		reads   []int
	}{
		{"runs of writes and of reads share calls, in order", "0",
			[]string{"SET a 1", "INCR a", "DEL b", "SET c 3 NX", "APPEND a x", "GET a", "STRLEN a", "TTL c", "GET none", "SET a 9", "GET a"},
			[]string{"+OK", ":2", ":0", "+OK", ":2", "$2\n2x", ":2", ":-1", "$-1", "+OK", "$1\n9"}, []int{5, 1}, []int{4, 1}},
		{"a command that stands alone comes after what is before it", "0",
			[]string{"SET a 1", "MGET a a", "SET a 2", "EXISTS a a", "GET a", "PING", "GET a"},
			[]string{"+OK", "*2\n$1\n1\n$1\n1", "+OK", ":2", "$1\n2", "+PONG", "$1\n2"}, []int{1, 1}, []int{2, 2, 1, 1}},
		{"errors keep their place", "0",
			[]string{"SET a x", "INCR a", "SET a 1 EX 0", "GET", "NOPE", "INCRBY a z", "GET a"},
			[]string{"+OK", string("-" + errNotInteger), "-ERR invalid expire time in 'set' command", "-ERR wrong number of arguments for 'get' command",
				"-ERR unknown command 'NOPE', with args beginning with: ", string("-" + errNotInteger), "$1\nx"}, []int{2}, []int{1}},
		{"in quorum mode what is refused does not take others with it", "2",
			[]string{"SET a 1", "SET b 1", "INCR a", "INCR a", "SET a 2", "GETSET a 3", "DEL b", "GET a"},
			[]string{"+OK", "+OK", "-ERR mode", "-ERR mode", "+OK", "-ERR mode", ":1", "$1\n2"}, []int{2, 2, 1, 1, 1, 1}, []int{1, 1}},
		{"SELECT and CONSISTENCY change what follows only", "0",
			[]string{"SET a 0", "SELECT 1", "SET a 1", "GET a", "SELECT 0", "GET a", "CONSISTENCY READ one", "GET a"},
			[]string{"+OK", "+OK", "+OK", "$1\n1", "+OK", "$1\n0", "+OK", "$1\n0"}, []int{1, 1}, []int{1, 1, 1}},
		{"QUIT answers and drops what follows", "0", []string{"SET a 1", "QUIT", "SET a 2"}, []string{"+OK", "+OK"}, []int{1}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			_, addr := serve(t, Options{Backend: f})
			s := connect(t, addr)
			s.line("SELECT " + c.db)
			s.send(strings.Join(c.lines, "\r\n") + "\r\n")
			for i, want := range c.replies {
				if got := s.reply(); got != want && !(strings.HasPrefix(want, "-") && strings.HasPrefix(got, want)) {
					t.Errorf("%s: got %q, want %q", c.lines[i], got, want)
				}
			}
			if len(c.replies) < len(c.lines) && !s.closed() {
				t.Error("the connection is still open")
			}
			if c.name == "in quorum mode what is refused does not take others with it" {
				w, _ := f.sizes()
				if slices.Max(w) != 2 { // the calls after a refusal are tried one by one
					t.Errorf("sizes of writes %v", w)
				}
				return
			}
			w, r := f.sizes()
			check(t, "sizes of writes", w, c.writes)
			check(t, "sizes of reads", r, c.reads)
		})
	}
}

func TestLongPipeline(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	const n = 5000
	go func() {
		var b strings.Builder
		for i := range n {
			b.WriteString(array("SET", fmt.Sprint("k", i%7), fmt.Sprint(i)))
		}
		for i := range n {
			b.WriteString(array("GET", fmt.Sprint("k", i%7)))
		}
		s.nc.Write([]byte(b.String()))
	}()
	for range n {
		if got := s.reply(); got != "+OK" {
			t.Fatalf("SET: %q", got)
		}
	}
	for i := range n {
		last := n - 1 - (n-1-i%7)%7
		if got, want := s.reply(), fmt.Sprintf("$4\n%d", last); got != want {
			t.Fatalf("GET k%d: %q, want %q", i%7, got, want)
		}
	}
	w, r := f.sizes()
	if slices.Max(w) > maxWrites {
		t.Errorf("sizes of writes %v", w)
	}
	for _, sizes := range [][]int{w, r} {
		if slices.Max(sizes) > maxReads || slices.Max(sizes) < 2 {
			t.Errorf("sizes of calls %v", sizes)
		}
	}
}

func TestFailedCallsReachTheirCommands(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fulcrum.Errorf(fulcrum.CodeUnavailable, "1 of 2 replicas").WithHint("wait"), "-UNAVAILABLE 1 of 2 replicas (wait)"},
		{fulcrum.Errorf(fulcrum.CodeUnknown, "no answer"), "-UNKNOWN no answer"},
		{fulcrum.Errorf(fulcrum.CodeLevel, "no such level"), "-LEVEL no such level"},
		{fulcrum.Errorf(fulcrum.CodeOverloaded, "full"), "-OVERLOADED full"},
		{fulcrum.Errorf(fulcrum.CodeTooLarge, "big"), "-TOOLARGE big"},
		{fulcrum.Errorf(fulcrum.CodeDisk, "bad\r\ndisk"), "-ERR bad  disk"},
		{context.DeadlineExceeded, "-UNKNOWN no answer before the deadline"},
		{errors.New("odd"), "-UNKNOWN odd"},
		{fulcrum.ErrNotInteger, "-ERR value is not an integer or out of range"},
		{fulcrum.DecodeError(fulcrum.AppendError(nil, fmt.Errorf("increment or decrement would overflow: %w", fulcrum.ErrNotInteger))), "-ERR increment or decrement would overflow"},
		{fulcrum.DecodeError(fulcrum.AppendError(nil, fulcrum.ErrNotFloat)), "-ERR value is not a valid float"},
	} {
		t.Run(c.want, func(t *testing.T) {
			f := newFake()
			_, addr := serve(t, Options{Backend: f})
			s := connect(t, addr)
			f.refuse["bad"] = c.err
			check(t, "one of three fails", s.pipeline("SET a 1", "SET bad 1", "SET c 1"), []string{"+OK", c.want, "+OK"})
			if got := s.line("MSET a 2 bad 2 c 2"); !strings.HasPrefix(got, strings.TrimSuffix(c.want, ")")) {
				t.Errorf("MSET: %q", got)
			}
			check(t, "the others are set", s.pipeline("GET a", "GET c"), []string{"$1\n2", "$1\n2"})
			f.mu.Lock()
			f.before = func(context.Context, string, []fulcrum.Write) error { return c.err }
			f.mu.Unlock()
			check(t, "all fail", s.pipeline("SET a 1", "SET b 1", "GET a", "GET b", "MGET a", "DEL a b", "EXISTS a b", "KEYS *"), slices.Repeat([]string{c.want}, 8))
		})
	}
}

func TestModeChangesUnderABatch(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	s.line("SET b 1")
	var once bool
	f.before = func(context.Context, string, []fulcrum.Write) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !once {
			once = true
			f.spaces[0].Mode = "quorum"
		}
		return nil
	}
	got := s.pipeline("SET a 1", "INCR a", "DEL b", "SET c 2")
	if got[0] != "+OK" || !strings.HasPrefix(got[1], "-ERR mode quorum") || got[2] != ":1" || got[3] != "+OK" {
		t.Errorf("a blind write was refused because of its neighbour: %q", got)
	}
}

func TestDroppedKeyspace(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	s.line("SELECT 1")
	f.drop("cp")
	for _, cmd := range []string{"GET a", "SET a 1", "MGET a b", "DEL a b", "SCAN 0", "DBSIZE", "WAIT 1 1", "CONSISTENCY", "KEYSPACE", "GETEX a", "FLUSHDB", "EXPIRE a 1 NX"} {
		if got, want := s.line(cmd), "-ERR no keyspace has the database number 1: it may have been dropped; there are 0 (default) 2 (ap) 3 (lf)"; got != want {
			t.Errorf("%s: got %q, want %q", cmd, got, want)
		}
	}
	play(t, s, []step{{"SELECT 0", "+OK"}, {"SET a 1", "+OK"}})
}

// A node that starts without data does not know the keyspaces for a moment. That is no
// answer about them: a client must be told to come again.
func TestNoKeyspaceKnownYet(t *testing.T) {
	f := newFake()
	spaces := f.spaces
	f.spaces = nil
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	for _, cmd := range []string{"SELECT 0", "SELECT 1", "GET a", "SET a 1", "MGET a b", "SCAN 0", "DBSIZE", "KEYSPACE", "KEYSPACE cp", "WATCH a"} {
		if got, want := s.line(cmd), "-UNAVAILABLE not heard of the cluster yet"; !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", cmd, got, want)
		}
	}
	f.mu.Lock()
	f.spaces = spaces
	f.mu.Unlock()
	play(t, s, []step{{"SELECT 1", "+OK"}, {"SET a 1", "+OK"}, {"SELECT 99", "-ERR DB index is out of range: there are 0 (default)..."}})
}

func TestClientReply(t *testing.T) {
	_, addr := serve(t, Options{Backend: newFake()})
	s := connect(t, addr)
	s.send("SET a 1\r\nCLIENT REPLY SKIP\r\nSET a 2\r\nGET a\r\nCLIENT REPLY OFF\r\nSET a 3\r\nGET a\r\nNOPE\r\nCLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nGET a\r\n")
	check(t, "replies", s.replies(4), []string{"+OK", "$1\n2", "+OK", "$1\n3"})
	s.send("CLIENT REPLY OFF\r\nSETRANGE a 1 x\r\nEXPIRE a 100\r\nGETEX a EX 50\r\nSET b 1 GET\r\nCLIENT REPLY ON\r\nGET a\r\nTTL a\r\nGET b\r\n")
	check(t, "silent commands do what they say", s.replies(4), []string{"+OK", "$2\n3x", ":50", "$1\n1"})
	s.send("CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nCLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nCLIENT REPLY SKIP\r\nSET a 4\r\nGET a\r\n")
	check(t, "ON is answered behind SKIP too", s.replies(3), []string{"+OK", "+OK", "$1\n4"})
}

func TestConditionalExpireAgainstAnotherWriter(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	s.line("SET a 1")
	interfere := 3
	f.before = func(_ context.Context, ks string, ws []fulcrum.Write) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(ws) == 1 && ws[0].If == fulcrum.IfVersion && interfere > 0 {
			interfere--
			e := f.data[ks]["a"]
			e.Version, e.ExpireAt = e.Version.Next(), f.now+int64(interfere)*1_000_000 // in the end it has none
			if interfere == 0 {
				e.ExpireAt = 0
			}
			f.data[ks]["a"] = e
		}
		return nil
	}
	play(t, s, []step{{"EXPIRE a 100 LT", ":1"}, {"TTL a", ":100"}})
	f.mu.Lock()
	interfere = 1 << 30
	f.mu.Unlock()
	play(t, s, []step{{"EXPIRE a 5 LT", "-ERR the key changed 16 times meanwhile..."}})
}

func TestSwapAgainstAnotherWriter(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	interfere := true
	f.before = func(_ context.Context, ks string, ws []fulcrum.Write) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(ws) == 1 && ws[0].If == fulcrum.IfAbsent && interfere { // another client sets it between the two tries
			interfere = false
			f.data[ks]["a"] = fulcrum.Entry{Key: []byte("a"), Value: []byte("theirs"), Version: fulcrum.Version{Time: 1}}
		}
		return nil
	}
	play(t, s, []step{{"GETSET a mine", "$6\ntheirs"}, {"GET a", "$4\nmine"}, {"SET new 1 EX 5 GET", "$-1"}, {"TTL new", ":5"}})
}

func TestScanWalks(t *testing.T) {
	f := newFake()
	sv, addr := serve(t, Options{Backend: f, MaxCursors: 4})
	s := connect(t, addr)
	want := map[string]bool{}
	for i := range 100 {
		k := fmt.Sprintf("user:%02d", i)
		want[k] = true
		s.do("SET", k, "1")
	}
	s.do("SET", "zzz", "1")
	scan := func(cursor string) (next string, keys []string) {
		parts := strings.Split(s.do("SCAN", cursor, "MATCH", "user:*", "COUNT", "7"), "\n")
		if parts[0] != "*2" {
			t.Fatalf("SCAN %s: %q", cursor, parts)
		}
		for i := 5; i < len(parts); i += 2 {
			keys = append(keys, parts[i])
		}
		return parts[2], keys
	}
	cursor, seen := "0", map[string]bool{}
	for {
		next, keys := scan(cursor)
		for _, k := range keys {
			if seen[k] {
				t.Errorf("%s came twice", k)
			}
			seen[k] = true
		}
		if again, same := scan(cursor); next != "0" && (again == "0" || !slices.Equal(same, keys)) {
			t.Errorf("cursor %s cannot be used again", cursor)
		}
		if n := len(sv.cursors.byID); n > 4 {
			t.Fatalf("%d cursors are kept", n)
		}
		if cursor = next; cursor == "0" {
			break
		}
	}
	if len(seen) != len(want) {
		t.Errorf("%d keys of %d", len(seen), len(want))
	}
	old, _ := scan("0")
	for range 5 {
		scan("0")
	}
	play(t, s, []step{{"SCAN " + old, "-ERR invalid cursor: it is of another node..."}})
	fresh, _ := scan("0")
	play(t, s, []step{{"SELECT 1", "+OK"}, {"SCAN " + fresh, "-ERR invalid cursor: it is of another node..."}})
}

// keeper remembers the keys that it was asked for, as a protocol may.
type keeper struct {
	*fake
	mu   sync.Mutex
	kept [][]byte
}

func (k *keeper) Read(ctx context.Context, c api.Call, keys [][]byte) ([]fulcrum.Entry, consistency.Receipt, error) {
	k.mu.Lock()
	k.kept = append(k.kept, keys...)
	k.mu.Unlock()
	return k.fake.Read(ctx, c, keys)
}

func TestKeysOutliveTheirCommands(t *testing.T) {
	k := &keeper{fake: newFake()}
	_, addr := serve(t, Options{Backend: k})
	s := connect(t, addr)
	var want []string
	for round := range 3 {
		var lines []string
		for i := range 300 {
			key := fmt.Sprintf("%d.%d.%s", round, i, strings.Repeat("x", i%40))
			if i == 100 {
				key += strings.Repeat("y", 2000)
			}
			want = append(want, key)
			lines = append(lines, "GET "+key)
		}
		s.send(strings.Join(lines, "\r\n") + "\r\n")
		for range lines {
			s.reply()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.kept) != len(want) {
		t.Fatalf("%d keys were asked for, want %d", len(k.kept), len(want))
	}
	for i, key := range k.kept {
		if string(key) != want[i] || cap(key) != len(key) {
			t.Fatalf("key %d is %.60q now, with room for %d; want %.60q", i, key, cap(key), want[i])
		}
	}
}

// Reads that are answered in parts give the replies of reads that are answered at once.
func TestReadsInParts(t *testing.T) {
	for first := range 5 {
		f := newFake()
		f.first = first
		_, addr := serve(t, Options{Backend: f})
		s := connect(t, addr)
		s.pipeline("SELECT 0", "SET a 1", "SET c 3", "SET d 44")
		f.reads = nil
		got := s.pipeline("GET a", "GET b", "STRLEN d", "GET c", "TTL a", "GET d", "MGET d b a c", "EXISTS a b c")
		check(t, fmt.Sprintf("%d at a time", first), got,
			[]string{"$1\n1", "$-1", ":2", "$1\n3", ":-1", "$2\n44", "*4\n$2\n44\n$-1\n$1\n1\n$1\n3", ":2"})
		if first == 1 && len(f.reads) != 6+4+3 {
			t.Errorf("calls of %v keys", f.reads)
		}
	}
}
