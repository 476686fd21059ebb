package resp

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a node in memory: one map a keyspace, and fulcrum.Evaluate.
type fake struct {
	api.Backend // what no test calls: a nil pointer, so that a call fails loudly

	mu     sync.Mutex
	now    int64
	stamp  uint64
	spaces []fulcrum.KeyspaceInfo
	data   map[string]map[string]fulcrum.Entry
	writes []int // sizes of the calls
	reads  []int
	calls  []api.Call
	before func(ctx context.Context, keyspace string, writes []fulcrum.Write) error // may fail a call
	refuse map[string]error                                                         // by key: Result.Err
	txns   []api.Txn
	first  int // answers to reads that want no more than the first keys; 0: all
}

func newFake() *fake {
	f := &fake{now: 1_700_000_000_000, data: map[string]map[string]fulcrum.Entry{}, refuse: map[string]error{}}
	for id, name := range []string{"default", "cp", "ap", "lf"} {
		mode := []string{"raft", "raft", "quorum", "leader-follower"}[id]
		m, _ := consistency.ParseMode(mode)
		w, r := consistency.Defaults(m)
		f.spaces = append(f.spaces, fulcrum.KeyspaceInfo{Name: name, ID: uint32(id), Mode: mode, ReadLevel: r.String(), WriteLevel: w.String()})
		f.data[name] = map[string]fulcrum.Entry{}
	}
	return f
}

func (f *fake) find(match func(fulcrum.KeyspaceInfo) bool) (fulcrum.KeyspaceInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.IndexFunc(f.spaces, match); i >= 0 {
		return f.spaces[i], nil
	}
	if len(f.spaces) == 0 {
		return fulcrum.KeyspaceInfo{}, fulcrum.Errorf(fulcrum.CodeUnavailable, "not heard of the cluster yet")
	}
	return fulcrum.KeyspaceInfo{}, fulcrum.Errorf(fulcrum.CodeNotFound, "no such keyspace")
}

func (f *fake) Keyspace(name string) (fulcrum.KeyspaceInfo, error) {
	return f.find(func(k fulcrum.KeyspaceInfo) bool { return k.Name == name })
}

func (f *fake) KeyspaceByID(id uint32) (fulcrum.KeyspaceInfo, error) {
	return f.find(func(k fulcrum.KeyspaceInfo) bool { return k.ID == id })
}

func (f *fake) Keyspaces() []fulcrum.KeyspaceInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.spaces)
}

func (f *fake) Limits() api.Limits { return api.Limits{MaxValue: 64 << 10} }

func (f *fake) Now() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// begin checks a call as a coordinator does, and makes its receipt.
func (f *fake) begin(ctx context.Context, c api.Call, a consistency.Access, ws []fulcrum.Write) (consistency.Receipt, error) {
	if f.before != nil {
		if err := f.before(ctx, c.Keyspace, ws); err != nil {
			return consistency.Receipt{}, err
		}
	}
	ks, err := f.Keyspace(c.Keyspace)
	if err != nil {
		return consistency.Receipt{}, err
	}
	mode, err := consistency.ParseMode(ks.Mode)
	if err != nil {
		return consistency.Receipt{}, err
	}
	p, err := consistency.Lookup(mode, a, c.Level)
	if err != nil {
		return consistency.Receipt{}, err
	}
	for _, w := range ws {
		if mode == consistency.Quorum && (!w.Blind() || c.Atomic && len(ws) > 1) {
			return consistency.Receipt{}, fulcrum.Errorf(fulcrum.CodeMode, "mode quorum has no atomic read-modify-write").WithHint("modes raft and leader-follower have")
		}
	}
	return consistency.Receipt{Keyspace: ks.Name, Mode: mode, Shard: 7, Epoch: 3, Level: consistency.L(p.Kind), Given: consistency.L(p.Given),
		Node: "n1", Leader: "n2", Acks: 2, Needed: 2, Replicas: 3, Durable: "fsync", Staleness: -1, Session: c.Session + "+", Latency: 1500 * time.Microsecond}, nil
}

func (f *fake) Write(ctx context.Context, c api.Call, ws []fulcrum.Write) ([]fulcrum.Result, consistency.Receipt, error) {
	r, err := f.begin(ctx, c, consistency.Write, ws)
	if err == nil && c.Atomic {
		keys := make([][]byte, len(ws))
		for i := range ws {
			keys[i] = ws[i].Key
		}
		err = oneShard(keys...)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes, f.calls = append(f.writes, len(ws)), append(f.calls, c)
	if err != nil {
		return nil, r, err
	}
	data := f.data[c.Keyspace]
	undo := make([]func(), 0, len(ws))
	results := make([]fulcrum.Result, len(ws))
	for i, w := range ws {
		old, was := data[string(w.Key)]
		f.stamp++
		r.Version = fulcrum.Version{Time: uint64(f.now)<<16 + f.stamp, Actor: 1}
		res, err := fulcrum.Evaluate(w, old, r.Version, f.now, f.Limits().MaxValue)
		if err == nil {
			err = f.refuse[string(w.Key)]
		}
		res.Err = err
		results[i] = w.Trim(res)
		if err != nil || !res.Applied {
			results[i].Applied = false
			if c.Atomic {
				for _, u := range undo {
					u()
				}
				return results, r, nil
			}
			continue
		}
		if r.Mode == consistency.Quorum {
			results[i].Old = fulcrum.Entry{}
		}
		undo = append(undo, func() {
			if delete(data, string(w.Key)); was {
				data[string(w.Key)] = old
			}
		})
		data[string(w.Key)] = res.Entry
	}
	return results, r, nil
}

func (f *fake) Read(ctx context.Context, c api.Call, keys [][]byte) ([]fulcrum.Entry, consistency.Receipt, error) {
	r, err := f.begin(ctx, c, consistency.Read, nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads, f.calls = append(f.reads, len(keys)), append(f.calls, c)
	if err != nil {
		return nil, r, err
	}
	entries := make([]fulcrum.Entry, len(keys))
	for i, k := range keys {
		entries[i] = f.data[c.Keyspace][string(k)]
		r.Found = entries[i].Live(f.now)
	}
	if f.first > 0 && c.First {
		entries = entries[:min(f.first, len(entries))]
	}
	return entries, r, nil
}

func (f *fake) Scan(ctx context.Context, c api.Call, req api.Scan) (api.Page, consistency.Receipt, error) {
	r, err := f.begin(ctx, c, consistency.Read, nil)
	if err != nil {
		return api.Page{}, r, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var p api.Page
	for _, e := range f.data[c.Keyspace] {
		if e.Live(f.now) && bytes.HasPrefix(e.Key, req.Prefix) && bytes.Compare(e.Key, req.After) > 0 {
			p.Entries = append(p.Entries, e)
		}
	}
	slices.SortFunc(p.Entries, func(a, b fulcrum.Entry) int { return bytes.Compare(a.Key, b.Key) })
	if len(p.Entries) > req.Limit {
		p.Entries = p.Entries[:req.Limit]
		p.Next = p.Entries[req.Limit-1].Key
	}
	return p, r, nil
}

func (f *fake) Count(_ context.Context, keyspace string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := int64(0)
	for _, e := range f.data[keyspace] {
		if e.Live(f.now) {
			n++
		}
	}
	return n, nil
}

func (f *fake) Synced(ctx context.Context, _ string, want int) (int, error) {
	if want > 2 {
		<-ctx.Done()
	}
	return 2, nil
}

func (f *fake) CheckSession(t consistency.Token) error {
	if strings.HasPrefix(string(t), "bad") {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "session token: not one of ours")
	}
	return nil
}

func (f *fake) Cluster() fulcrum.ClusterInfo {
	return fulcrum.ClusterInfo{ClusterID: "c1", Node: "n1", Version: "test"}
}

// drop forgets a keyspace, and shift gives one another mode.
func (f *fake) drop(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spaces = slices.DeleteFunc(f.spaces, func(k fulcrum.KeyspaceInfo) bool { return k.Name == name })
}

// sizes returns the sizes of the calls so far and forgets them.
func (f *fake) sizes() (writes, reads []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	writes, reads = f.writes, f.reads
	f.writes, f.reads = nil, nil
	return writes, reads
}

// serve runs a server over f on the loopback and returns its address.
func serve(t testing.TB, o Options) (*Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

// session is a client that sees the raw bytes.
type session struct {
	t  testing.TB
	nc net.Conn
	br *bufio.Reader
}

func connect(t testing.TB, addr string) *session {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second)) // so that a missing reply fails the test instead of hanging it
	return &session{t: t, nc: nc, br: bufio.NewReader(nc)}
}

func (s *session) send(raw string) {
	s.t.Helper()
	if _, err := io.WriteString(s.nc, raw); err != nil {
		s.t.Fatalf("sending %.60q: %v", raw, err)
	}
}

// do sends words as an array and returns the raw reply, with \n for each CRLF and
// without the last.
func (s *session) do(words ...string) string {
	s.t.Helper()
	s.send(array(words...))
	return s.reply()
}

// line sends a command that is written as a person types it.
func (s *session) line(text string) string {
	s.t.Helper()
	args, ok := splitInline([]byte(text))
	if !ok {
		s.t.Fatalf("unbalanced quotes in %q", text)
	}
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = string(a)
	}
	return s.do(words...)
}

func (s *session) reply() string {
	s.t.Helper()
	raw, err := rawReply(s.br)
	if err != nil {
		s.t.Fatalf("reading a reply, %q so far: %v", raw, err)
	}
	return strings.TrimSuffix(strings.ReplaceAll(raw, "\r\n", "\n"), "\n")
}

// closed reports whether the server closes the connection without another byte.
func (s *session) closed() bool {
	_, err := s.br.ReadByte()
	return err != nil
}

func array(words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b.String()
}

// rawReply reads one whole reply, raw.
func rawReply(br *bufio.Reader) (string, error) {
	line, err := br.ReadString('\n')
	if err != nil || len(line) < 3 {
		return line, fmt.Errorf("line %q: %w", line, err)
	}
	n := 0
	fmt.Sscanf(line[1:], "%d", &n)
	switch line[0] {
	case '+', '-', ':', '_', ',', '#':
		return line, nil
	case '$', '=':
		if n < 0 {
			return line, nil
		}
		body := make([]byte, n+2)
		_, err := io.ReadFull(br, body)
		return line + string(body), err
	case '%':
		n *= 2
	case '*', '~':
	default:
		return line, fmt.Errorf("line %q starts no reply", line)
	}
	for range n {
		part, err := rawReply(br)
		line += part
		if err != nil {
			return line, err
		}
	}
	return line, nil
}

// instant answers at once and keeps nothing, so that benchmarks measure the server.
type instant struct{ *fake }

func (instant) Write(_ context.Context, _ api.Call, ws []fulcrum.Write) ([]fulcrum.Result, consistency.Receipt, error) {
	results := make([]fulcrum.Result, len(ws))
	for i := range results {
		results[i].Applied = true
	}
	return results, consistency.Receipt{Keyspace: "default"}, nil
}

func (instant) Read(_ context.Context, _ api.Call, keys [][]byte) ([]fulcrum.Entry, consistency.Receipt, error) {
	return make([]fulcrum.Entry, len(keys)), consistency.Receipt{Keyspace: "default"}, nil
}

func (f *fake) Watch(context.Context, api.Call, api.Watch, func(api.WatchBatch) error) error {
	return fulcrum.Errorf(fulcrum.CodeMode, "watches are not offered yet")
}
