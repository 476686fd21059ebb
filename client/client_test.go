package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
	httpapi "fulcrum/node/api/http"
	"fulcrum/node/api/http/apitest"
)

// wire is a network of handlers by host, without sockets; lost decides what goes wrong.
type wire struct {
	hosts map[string]http.Handler
	lost  func(r *http.Request) (before, after error)

	mu  sync.Mutex
	log []string // "METHOD host path"
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.log = append(w.log, r.Method+" "+r.URL.Host+" "+r.URL.EscapedPath())
	lost := w.lost
	w.mu.Unlock()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	h, ok := w.hosts[r.URL.Host]
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	var before, after error
	if lost != nil {
		before, after = lost(r)
	}
	if before != nil {
		return nil, before
	}
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if after != nil {
		return nil, after
	}
	return rec.Result(), nil
}

func (w *wire) set(lost func(r *http.Request) (before, after error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost, w.log = lost, nil
}

// sent is the requests to keys since the last set.
func (w *wire) sent() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, l := range w.log {
		if strings.Contains(l, "/v1/kv/") {
			out = append(out, strings.Replace(l, "/v1/kv/", "", 1))
		}
	}
	return strings.Join(out, ", ")
}

// cluster is nodes n1 .. n3 over three backends that know nothing of each other;
// n1 has an address on the wire, and so on. Their tables name n2 as every leader.
type cluster struct {
	*wire
	nodes []*apitest.Backend
	*client.Client
}

func start(t *testing.T, opts ...client.Option) *cluster {
	t.Helper()
	c := &cluster{wire: &wire{hosts: make(map[string]http.Handler)}}
	var infos []fulcrum.NodeInfo
	for i := range 3 {
		name := fmt.Sprintf("n%d", i+1)
		infos = append(infos, fulcrum.NodeInfo{Name: fulcrum.NodeID(name), HTTPAddr: name + ":71", Live: true})
	}
	for _, info := range infos {
		b := apitest.New(info.Name, time.Now)
		b.SetNodes(infos)
		b.SetLeader("n2")
		c.nodes = append(c.nodes, b)
		c.hosts[info.HTTPAddr] = httpapi.New(httpapi.Options{Backend: b, AllowFaults: info.Name != "n3"})
	}
	var err error
	c.Client, err = client.New(t.Context(), []string{"n1:71"}, append([]client.Option{client.WithTransport(c.wire)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRoundTrip(t *testing.T) {
	c := start(t)
	for _, key := range []string{"k", "a/b//../c", "..", "\xff\x00?#%", "ü"} {
		rc, err := c.Put(t.Context(), "cp", key, []byte("v-"+key), client.TTL(time.Hour))
		if err != nil || rc.Version.IsZero() || rc.Node != "n2" {
			t.Fatalf("put %q: %+v, %v", key, rc, err)
		}
		item, err := c.Get(t.Context(), "cp", key)
		if err != nil || string(item.Value) != "v-"+key || item.Version != rc.Version || time.Until(item.ExpireAt) < 50*time.Minute || !item.Receipt.Found {
			t.Fatalf("get %q: %+v, %v", key, item, err)
		}
		if _, err := c.Delete(t.Context(), "cp", key); err != nil {
			t.Fatal(err)
		}
		if item, err := c.Get(t.Context(), "cp", key); !errors.Is(err, fulcrum.ErrNotFound) || item.Receipt.Given != consistency.L(consistency.Linearizable) {
			t.Fatalf("get %q after delete: %+v, %v", key, item, err)
		}
	}
	if _, err := c.Put(t.Context(), "cp", "empty", nil); err != nil {
		t.Fatal(err)
	}
	if item, err := c.Get(t.Context(), "cp", "empty"); err != nil || len(item.Value) != 0 {
		t.Fatalf("an empty value: %+v, %v", item, err)
	}
}

func TestConditions(t *testing.T) {
	c := start(t)
	first, err := c.Put(t.Context(), "cp", "k", []byte("1"), client.IfAbsent())
	if err != nil {
		t.Fatal(err)
	}
	for name, opt := range map[string]client.CallOption{"IfAbsent": client.IfAbsent(), "IfVersion": client.IfVersion(first.Version.Next())} {
		if _, err := c.Put(t.Context(), "cp", "k", []byte("2"), opt); !errors.Is(err, fulcrum.ErrConflict) || client.Unknown(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Put(t.Context(), "cp", "none", []byte("2"), client.IfPresent()); !errors.Is(err, fulcrum.ErrConflict) {
		t.Errorf("IfPresent: %v", err)
	}
	if _, err := c.Delete(t.Context(), "cp", "k", client.IfVersion(first.Version)); err != nil {
		t.Errorf("delete of the version: %v", err)
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	c := start(t, client.WithAttempts(2))
	for _, node := range c.nodes {
		node.Fail = func(string) error { return nil }
	}
	for _, want := range []*fulcrum.Error{fulcrum.ErrUnavailable, fulcrum.ErrUnknown, fulcrum.ErrMode, fulcrum.ErrOverloaded, fulcrum.ErrDisk,
		fulcrum.ErrEpoch, fulcrum.ErrInvalid, fulcrum.ErrConflict, fulcrum.ErrNotLeader} {
		for _, node := range c.nodes {
			node.Fail = func(string) error { return &fulcrum.Error{Code: want.Code, Maybe: want.Maybe, Detail: "why"} }
		}
		_, err := c.Put(t.Context(), "cp", "k", []byte("v"))
		if !errors.Is(err, want) || client.Unknown(err) != want.Maybe || !strings.Contains(err.Error(), "why") {
			t.Errorf("%s arrives as %v", want.Code, err)
		}
	}
	if _, err := c.Get(t.Context(), "cp", "k", client.Level(consistency.L(consistency.Two))); !errors.Is(err, fulcrum.ErrLevel) || !strings.Contains(err.Error(), "prefix") {
		t.Errorf("a level that is not offered: %v", err)
	}
	if _, err := c.Get(t.Context(), "none", "k"); !errors.Is(err, fulcrum.ErrNotFound) {
		t.Errorf("no keyspace: %v", err)
	}
	if _, err := c.Put(t.Context(), "cp", "k", make([]byte, 2000)); err == nil || fulcrum.AsError(err).Code != fulcrum.CodeTooLarge {
		t.Errorf("too large: %v", err)
	}
	if _, err := c.Get(t.Context(), "cp", "k", client.On("n9")); !errors.Is(err, fulcrum.ErrNotFound) || !strings.Contains(err.Error(), "n1, n2, n3") {
		t.Errorf("no node: %v", err)
	}
}

func TestFollowsTheTable(t *testing.T) {
	c := start(t)
	c.set(nil)
	put := func(opts ...client.CallOption) {
		t.Helper()
		if _, err := c.Put(t.Context(), "cp", "k", []byte("v"), opts...); err != nil {
			t.Fatal(err)
		}
	}
	put()
	if got := c.sent(); got != "PUT n2:71 cp/k" {
		t.Errorf("a write goes to the leader: %s", got)
	}
	c.set(nil)
	put(client.On("n3"))
	if got := c.sent(); got != "PUT n3:71 cp/k" {
		t.Errorf("a write to a chosen node: %s", got)
	}
	c.set(nil)
	put()
	if got := c.sent(); got != "PUT n3:71 cp/k" {
		t.Errorf("the receipt named another leader: %s", got)
	}
}

var errLost = errors.New("connection reset")

func isKey(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/kv/") }

// times makes the first n requests to keys fail, before or after the node has them.
func times(n int, before bool) func(*http.Request) (error, error) {
	return func(r *http.Request) (error, error) {
		if !isKey(r) || n == 0 {
			return nil, nil
		}
		n--
		if before {
			return errLost, nil
		}
		return nil, errLost
	}
}

func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		one := func(v string) []byte { return []byte(v) }
		rc, err := c.Put(t.Context(), "cp", "k", one("0"))
		if err != nil {
			t.Fatal(err)
		}
		count := func() int { return strings.Count(c.sent(), "cp/k") }

		c.set(times(1, false))
		if _, err := c.Put(t.Context(), "cp", "k", one("1")); !errors.Is(err, fulcrum.ErrUnknown) || count() != 1 {
			t.Errorf("a blind write without an answer is unknown at once: %v after %d", err, count())
		}
		c.set(times(2, true))
		if item, err := c.Get(t.Context(), "cp", "k", client.On("n2")); err != nil || string(item.Value) != "1" || count() != 3 {
			t.Errorf("a read is tried again: %+v, %v after %d", item, err, count())
		}
		c.set(times(1, true))
		if rc, err = c.Get2(t, "cp", "k"); err != nil {
			t.Fatal(err)
		}
		c.set(times(1, true))
		if _, err := c.Put(t.Context(), "cp", "k", one("2"), client.On("n2"), client.IfVersion(rc.Version)); err != nil || count() != 2 {
			t.Errorf("a compare-and-set that was lost on the way: %v after %d", err, count())
		}
		if rc, err = c.Get2(t, "cp", "k"); err != nil {
			t.Fatal(err)
		}
		c.set(times(1, false))
		if _, err := c.Put(t.Context(), "cp", "k", one("3"), client.On("n2"), client.IfVersion(rc.Version)); !client.Unknown(err) || count() != 2 {
			t.Errorf("a compare-and-set whose answer was lost: %v after %d", err, count())
		}
		c.set(times(1, false))
		if _, err := c.Put(t.Context(), "cp", "new", one("3"), client.IfAbsent()); !client.Unknown(err) {
			t.Errorf("create whose answer was lost: %v", err)
		}

		fails := 3
		for _, node := range c.nodes {
			node.Fail = func(string) error {
				if fails--; fails >= 0 {
					return fulcrum.Errorf(fulcrum.CodeUnavailable, "no leader")
				}
				return nil
			}
		}
		c.set(nil)
		if _, err := c.Put(t.Context(), "cp", "k", one("4")); err != nil || count() != 4 {
			t.Errorf("what was definitely not done is tried again: %v after %d", err, count())
		}
		fails = 1
		c.set(nil)
		if _, err := c.Put(t.Context(), "cp", "k", one("5"), client.NoRetry()); !errors.Is(err, fulcrum.ErrUnavailable) || count() != 1 {
			t.Errorf("NoRetry: %v after %d", err, count())
		}
		fails = 1 << 30
		c.set(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := c.Put(ctx, "cp", "k", one("6")); !errors.Is(err, fulcrum.ErrUnavailable) || time.Since(began) > 300*time.Millisecond {
			t.Errorf("the context bounds it: %v after %v", err, time.Since(began))
		}
	})
}

// Get2 reads through the leader and returns the receipt with the version.
func (c *cluster) Get2(t *testing.T, keyspace, key string) (consistency.Receipt, error) {
	t.Helper()
	item, err := c.Get(t.Context(), keyspace, key, client.On("n2"))
	item.Receipt.Version = item.Version
	return item.Receipt, err
}

func TestAfterAnUnknownAttemptNothingIsDefinite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		rc, err := c.Put(t.Context(), "cp", "k", []byte("0"), client.On("n2"))
		if err != nil {
			t.Fatal(err)
		}
		lost := times(1, false)
		c.set(lost)
		c.nodes[1].Fail = func(op string) error {
			if strings.Count(c.sent(), "PUT") > 1 {
				return fulcrum.Errorf(fulcrum.CodeUnavailable, "no leader")
			}
			return nil
		}
		_, err = c.Put(t.Context(), "cp", "k", []byte("1"), client.On("n2"), client.IfVersion(rc.Version))
		if !errors.Is(err, fulcrum.ErrUnknown) || errors.Is(err, fulcrum.ErrConflict) {
			t.Errorf("lost, then unavailable: %v", err)
		}
	})
}

func TestDeadNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		delete(c.hosts, "n2:71")
		if rc, err := c.Put(t.Context(), "cp", "k", []byte("v")); err != nil || rc.Node == "n2" {
			t.Errorf("the leader is dead, another node coordinates: %+v, %v", rc, err)
		}
		delete(c.hosts, "n1:71")
		delete(c.hosts, "n3:71")
		if _, err := c.Put(t.Context(), "cp", "k", []byte("v")); !errors.Is(err, fulcrum.ErrUnavailable) || client.Unknown(err) {
			t.Errorf("all are dead: %v", err)
		}
		if _, err := client.New(t.Context(), []string{"n1:71"}, client.WithTransport(c.wire)); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Errorf("New: %v", err)
		}
	})
}

func TestNotLeaderNamesTheNextNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		for i := range 2 {
			c.nodes[i].Fail = func(string) error { return fulcrum.Errorf(fulcrum.CodeNotLeader, "not I").WithHint("n3") }
		}
		c.set(nil)
		if rc, err := c.Put(t.Context(), "cp", "k", []byte("v")); err != nil || rc.Node != "n3" {
			t.Errorf("%+v, %v", rc, err)
		}
		if got := c.sent(); got != "PUT n2:71 cp/k, PUT n3:71 cp/k" {
			t.Error(got)
		}
	})
}

func TestAPausedNodeDoesNotEatTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		healthy := c.hosts["n2:71"]
		c.hosts["n2:71"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isKey(r) {
				<-r.Context().Done()
			}
			healthy.ServeHTTP(w, r)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		item, err := c.Get(ctx, "cp", "k")
		if !errors.Is(err, fulcrum.ErrNotFound) || item.Receipt.Node == "n2" {
			t.Errorf("%+v, %v", item, err)
		}
	})
}

func TestSessions(t *testing.T) {
	c := start(t)
	s := client.NewSession("")
	if _, err := c.Put(t.Context(), "cp", "k", []byte("v"), client.In(s)); err != nil || s.Token() == "" {
		t.Fatalf("token %q, %v", s.Token(), err)
	}
	before := s.Token()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := c.Get(t.Context(), "cp", "k", client.In(s), client.Level(consistency.L(consistency.Session)), client.On("n2")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s.Token() == before {
		t.Error("reads do not move the session on")
	}
	forged := client.NewSession(s.Token() + "x")
	if _, err := c.Get(t.Context(), "cp", "k", client.In(forged)); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Errorf("a forged token: %v", err)
	}
	taken := client.NewSession(s.Token())
	if _, err := c.Get(t.Context(), "cp", "k", client.In(taken)); err != nil {
		t.Errorf("taken up again: %v", err)
	}
}

func TestUpdate(t *testing.T) {
	c := start(t)
	const workers, each = 4, 10
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if _, _, err := c.Incr(t.Context(), "cp", "n", 2); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n, rc, err := c.Incr(t.Context(), "cp", "n", -1); err != nil || n != 2*workers*each-1 || rc.Version.IsZero() {
		t.Errorf("sum %d, %v", n, err)
	}
	if n, _, err := c.Append(t.Context(), "cp", "n", []byte("x")); err != nil || n != 3 {
		t.Errorf("append: %d, %v", n, err)
	}
	if _, _, err := c.Incr(t.Context(), "cp", "n", 1); !errors.Is(err, fulcrum.ErrNotInteger) || !errors.Is(err, fulcrum.ErrInvalid) {
		t.Errorf("79x is no integer: %v", err)
	}
	if _, err := c.Put(t.Context(), "cp", "big", []byte("9223372036854775807"), client.TTL(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Incr(t.Context(), "cp", "big", 1); !errors.Is(err, fulcrum.ErrNotInteger) {
		t.Errorf("overflow: %v", err)
	}
	if n, _, err := c.Incr(t.Context(), "cp", "big", -7); err != nil || n != 9223372036854775800 {
		t.Errorf("%d, %v", n, err)
	}
	if item, err := c.Get(t.Context(), "cp", "big"); err != nil || item.ExpireAt.IsZero() {
		t.Errorf("the expiry is gone: %+v, %v", item, err)
	}
	if _, _, err := c.Incr(t.Context(), "ap", "n", 1); !errors.Is(err, fulcrum.ErrMode) {
		t.Errorf("quorum mode: %v", err)
	}
	if _, _, err := c.Incr(t.Context(), "none", "n", 1); !errors.Is(err, fulcrum.ErrNotFound) {
		t.Errorf("no keyspace: %v", err)
	}
}

func TestScan(t *testing.T) {
	c := start(t)
	var want []string
	for i := range 25 {
		key := fmt.Sprintf("k%02d\xff", i)
		want = append(want, key)
		if _, err := c.Put(t.Context(), "ap", key, []byte{0xfe, byte(i)}, client.On("n1")); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name string
		r    client.Range
		want []string
	}{
		{"all", client.Range{}, want},
		{"pages", client.Range{PageSize: 4}, want},
		{"a limit", client.Range{PageSize: 4, Limit: 10}, want[:10]},
		{"a prefix", client.Range{Prefix: "k1", PageSize: 3}, want[10:20]},
		{"a range", client.Range{Start: "k05", End: "k07", KeysOnly: true}, want[5:7]},
		{"nothing", client.Range{Prefix: "zz"}, nil},
	} {
		var got []string
		for item, err := range c.Scan(t.Context(), "ap", tc.r, client.On("n1")) {
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			if got = append(got, item.Key); (len(item.Value) == 2) == tc.r.KeysOnly || item.Version.IsZero() {
				t.Errorf("%s: %+v", tc.name, item)
			}
		}
		if strings.Join(got, " ") != strings.Join(tc.want, " ") {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
	for _, err := range c.Scan(t.Context(), "none", client.Range{}) {
		if !errors.Is(err, fulcrum.ErrNotFound) {
			t.Errorf("no keyspace: %v", err)
		}
	}
	for range c.Scan(t.Context(), "ap", client.Range{PageSize: 1}, client.On("n1")) {
		break // leaving early is fine
	}
}

func TestProxies(t *testing.T) {
	c := start(t, client.WithAttempts(1))
	for status, want := range map[int]struct {
		put     *fulcrum.Error
		unknown bool
	}{502: {fulcrum.ErrUnknown, true}, 301: {fulcrum.ErrInvalid, false}, 403: {fulcrum.ErrInvalid, false}} {
		for host := range c.hosts {
			c.hosts[host] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "<html>proxy says no")
			})
		}
		if _, err := c.Put(t.Context(), "cp", "k", nil); !errors.Is(err, want.put) || client.Unknown(err) != want.unknown {
			t.Errorf("%d: %v", status, err)
		}
		if _, err := c.Get(t.Context(), "cp", "k"); client.Unknown(err) || err == nil {
			t.Errorf("%d, a read: %v", status, err)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for _, bad := range []string{"", "ftp://n1:1", "http://n1:1/path", "http://", "n1:1?x=1", "%zz"} {
		if _, err := client.New(t.Context(), []string{bad}); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := client.New(t.Context(), nil); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Errorf("none: %v", err)
	}
}
