package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api/http/apitest"
)

// node is one backend with its handler, on a clock that the test moves.
type node struct {
	*apitest.Backend
	nethttp.Handler
	at time.Time
}

func newNode(t *testing.T, change ...func(*Options)) *node {
	t.Helper()
	n := &node{at: time.UnixMilli(1_700_000_000_000)}
	n.Backend = apitest.New("n1", func() time.Time { return n.at })
	o := Options{Backend: n.Backend, AllowFaults: true, Pprof: true, Gatherer: prometheus.NewRegistry()}
	for _, f := range change {
		f(&o)
	}
	n.Handler = New(o)
	return n
}

// ask sends "METHOD path" with headers in pairs.
func (n *node) ask(t testing.TB, request, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	method, path, _ := strings.Cut(request, " ")
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	n.ServeHTTP(w, r)
	return w
}

func problemOf(t testing.TB, w *httptest.ResponseRecorder) Problem {
	t.Helper()
	var p Problem
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("status %d has Content-Type %q: %s", w.Code, ct, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || p.Code == "" || p.Detail == "" {
		t.Fatalf("no whole problem: %s, %v", w.Body, err)
	}
	return p
}

func TestKeyLifecycle(t *testing.T) {
	n := newNode(t)
	for _, step := range []struct {
		request, body string
		headers       []string
		status        int
		want          string
	}{
		{"GET /v1/kv/cp/a", "", nil, 404, ""},
		{"PUT /v1/kv/cp/a", "one", nil, 204, ""},
		{"GET /v1/kv/cp/a", "", nil, 200, "one"},
		{"HEAD /v1/kv/cp/a", "", nil, 200, ""},
		{"PUT /v1/kv/cp/a", "two", []string{"If-None-Match", "*"}, 412, ""},
		{"PUT /v1/kv/cp/a", "two", []string{"If-Match", "*"}, 204, ""},
		{"GET /v1/kv/cp/a?level=one", "", nil, 200, "two"},
		{"DELETE /v1/kv/cp/a", "", nil, 204, ""},
		{"DELETE /v1/kv/cp/a", "", nil, 204, ""},
		{"DELETE /v1/kv/cp/a", "", []string{"If-Match", "*"}, 412, ""},
		{"GET /v1/kv/cp/a", "", nil, 404, ""},
		{"PUT /v1/kv/cp/a", "", []string{"If-None-Match", "*"}, 204, ""},
		{"GET /v1/kv/cp/a", "", nil, 200, ""},
		{"PUT /v1/kv/ap/a", "x", []string{"If-None-Match", "*"}, 400, ""},
	} {
		w := n.ask(t, step.request, step.body, step.headers...)
		if w.Code != step.status || (step.status < 400 && step.request[:4] != "HEAD" && w.Body.String() != step.want) {
			t.Errorf("%s %v: %d %q, want %d %q", step.request, step.headers, w.Code, w.Body, step.status, step.want)
		}
		if step.status != 400 && w.Header().Get("Fulcrum-Receipt") == "" {
			t.Errorf("%s: no receipt", step.request)
		}
	}
}

func TestETags(t *testing.T) {
	n := newNode(t)
	first := n.ask(t, "PUT /v1/kv/cp/k", "1").Header().Get("ETag")
	second := n.ask(t, "PUT /v1/kv/cp/k", "2").Header().Get("ETag")
	if first == second || !strings.HasPrefix(first, `"`) {
		t.Fatalf("ETags %s, then %s", first, second)
	}
	for _, c := range []struct {
		name, request, header, value string
		status                       int
	}{
		{"the current one", "GET /v1/kv/cp/k", "If-None-Match", second, 304},
		{"the current one, weak", "GET /v1/kv/cp/k", "If-None-Match", "W/" + second, 304},
		{"in a list", "GET /v1/kv/cp/k", "If-None-Match", `"x,y", ` + second, 304},
		{"any", "GET /v1/kv/cp/k", "If-None-Match", "*", 304},
		{"any of nothing", "GET /v1/kv/cp/none", "If-None-Match", "*", 404},
		{"an old one", "GET /v1/kv/cp/k", "If-None-Match", first, 200},
		{"must match", "GET /v1/kv/cp/k", "If-Match", second, 200},
		{"must match, old", "GET /v1/kv/cp/k", "If-Match", first, 412},
		{"must match, weak", "GET /v1/kv/cp/k", "If-Match", "W/" + second, 412},
		{"an old one", "PUT /v1/kv/cp/k", "If-Match", first, 412},
		{"a foreign one", "PUT /v1/kv/cp/k", "If-Match", `"nonsense"`, 412},
		{"a foreign one, no keyspace", "PUT /v1/kv/none/k", "If-Match", `"nonsense"`, 404},
		{"a weak one", "PUT /v1/kv/cp/k", "If-Match", "W/" + second, 412},
		{"without quotes", "PUT /v1/kv/cp/k", "If-Match", strings.Trim(second, `"`), 400},
		{"an open quote", "GET /v1/kv/cp/k", "If-None-Match", `"abc`, 400},
		{"no comma", "GET /v1/kv/cp/k", "If-None-Match", `"a" "b"`, 400},
		{"empty", "PUT /v1/kv/cp/k", "If-Match", "", 400},
		{"a tag that must not be", "PUT /v1/kv/cp/k", "If-None-Match", second, 400},
		{"a list with it", "PUT /v1/kv/cp/k", "If-Match", second + "," + first, 204},
		{"the old one again", "DELETE /v1/kv/cp/k", "If-Match", second, 412},
	} {
		w := n.ask(t, c.request, "3", c.header, c.value)
		if w.Code != c.status {
			t.Errorf("%s, %s: %s: %d, want %d: %s", c.request, c.header, c.name, w.Code, c.status, w.Body)
		}
		asked := c.name != "a foreign one" && c.name != "a weak one" // tags that cannot be ours need no look at the key
		if c.status == 412 && asked && w.Header().Get("ETag") == "" {
			t.Errorf("%s, %s: %s: 412 without the current ETag", c.request, c.header, c.name)
		}
	}
	if w := n.ask(t, "PUT /v1/kv/cp/k", "3", "If-Match", "*", "If-None-Match", "*"); w.Code != 400 {
		t.Errorf("both conditions: %d", w.Code)
	}
}

func TestKeysHoldAnyBytes(t *testing.T) {
	n := newNode(t)
	for _, key := range []string{"a/b", "a//b", "../x", "..", ".", "/", "//", "a%b", "a?b#c", "ü", "\x00\xff\xfe", " ", "%2F", "a/../b", strings.Repeat("k", 8192)} {
		path := "/v1/kv/ap/" + url.PathEscape(key)
		if w := n.ask(t, "PUT "+path, "v"+key[:min(9, len(key))]); w.Code != 204 {
			t.Fatalf("PUT %.20q: %d %s", key, w.Code, w.Body)
		}
		if w := n.ask(t, "GET "+path, ""); w.Code != 200 || w.Body.String() != "v"+key[:min(9, len(key))] {
			t.Errorf("GET %.20q: %d %q", key, w.Code, w.Body)
		}
	}
	if w := n.ask(t, "GET /v1/kv/ap/a//b", ""); w.Code != 200 || w.Body.String() != "va//b" {
		t.Errorf("slashes may stay as they are: %d %q", w.Code, w.Body)
	}
	if w := n.ask(t, "GET /v1/kv/ap/../x", ""); w.Code != 200 || w.Body.String() != "v../x" {
		t.Errorf("dots may stay as they are: %d %q", w.Code, w.Body)
	}
}

func TestExpiry(t *testing.T) {
	n := newNode(t)
	for _, ttl := range []string{"90", "1m30s", "90000ms"} {
		if w := n.ask(t, "PUT /v1/kv/cp/k?ttl="+ttl, "v"); w.Code != 204 {
			t.Fatalf("ttl=%s: %d %s", ttl, w.Code, w.Body)
		}
		w := n.ask(t, "GET /v1/kv/cp/k", "")
		if want := fmt.Sprint(n.at.Add(90 * time.Second).UnixMilli()); w.Header().Get("Fulcrum-Expire-At") != want {
			t.Errorf("ttl=%s expires at %s, want %s", ttl, w.Header().Get("Fulcrum-Expire-At"), want)
		}
	}
	n.ask(t, "PUT /v1/kv/cp/k?keep_ttl", "w")
	if w := n.ask(t, "GET /v1/kv/cp/k", ""); w.Body.String() != "w" || w.Header().Get("Fulcrum-Expire-At") == "" {
		t.Errorf("keep_ttl: %q expires at %q", w.Body, w.Header().Get("Fulcrum-Expire-At"))
	}
	if w := n.ask(t, "PUT /v1/kv/cp/k?keep_ttl&ttl=3", "w"); w.Code != 400 {
		t.Errorf("ttl and keep_ttl: %d", w.Code)
	}
	n.at = n.at.Add(90 * time.Second)
	if w := n.ask(t, "GET /v1/kv/cp/k", ""); w.Code != 404 {
		t.Errorf("after its time: %d", w.Code)
	}
	for _, ttl := range []string{"0", "-1", "x", "1us", "99999999999999999999", "9223372036854775807", "100000000h", "-17446744073", "-9223372036854775808"} {
		if w := n.ask(t, "PUT /v1/kv/cp/k?ttl="+ttl, "v"); w.Code != 400 {
			t.Errorf("ttl=%s: %d", ttl, w.Code)
		}
	}
}

func TestBadRequests(t *testing.T) {
	n := newNode(t)
	for _, c := range []struct {
		request, body string
		status        int
		code          fulcrum.Code
		says          string
	}{
		{"GET /v1/kv/none/k", "", 404, "not-found", "none"},
		{"GET /v1/kv/cp/", "", 400, "invalid", "empty key"},
		{"PUT /v1/kv/cp/" + strings.Repeat("k", 8193), "v", 413, "too-large", "8193"},
		{"PUT /v1/kv/cp/k", strings.Repeat("v", 1025), 413, "too-large", "1024"},
		{"GET /v1/kv/cp/k?level=most", "", 400, "level", "linearizable"},
		{"GET /v1/kv/ap/k?level=prefix", "", 400, "level", "each_quorum"},
		{"PUT /v1/kv/cp/k?level=three", "v", 400, "level", "quorum"},
		{"GET /v1/kv/cp/k?levle=one", "", 400, "invalid", "level"},
		{"GET /v1/kv/cp/k?level=one&level=one", "", 400, "invalid", "2 times"},
		{"GET /v1/kv/cp/k?ttl=3", "", 400, "invalid", "ttl"},
		{"GET /v1/kv/cp/k?level=", "", 400, "invalid", "empty level"},
		{"PUT /v1/kv/cp/k?level=", "v", 400, "invalid", "empty level"},
		{"PUT /v1/kv/cp/k?ttl=", "v", 400, "invalid", "ttl"},
		{"GET /v1/kv/cp?after=", "", 400, "invalid", "empty after"},
		{"GET /v1/watch/cp?after=", "", 400, "invalid", "empty after"},
		{"GET /v1/kv/cp/k?%zz", "", 400, "invalid", "query"},
		{"GET /v1/kv/cp?limit=0", "", 400, "invalid", "10000"},
		{"GET /v1/kv/cp?limit=x", "", 400, "invalid", "limit"},
		{"GET /v1/kv/cp?keys_only=maybe", "", 400, "invalid", "true or false"},
		{"GET /v1/kv/cp?prefix=" + strings.Repeat("p", 9000), "", 413, "too-large", "prefix"},
		{"POST /v1/kv/cp/k", "v", 405, "invalid", "PUT"},
		{"DELETE /v1/kv/cp", "", 405, "invalid", "GET"},
		{"GET /v2/kv", "", 404, "not-found", "/v1/"},
		{"GET /v1/kv//k", "", 404, "not-found", ""},
		{"GET /v1/none", "", 404, "not-found", ""},
		{"POST /v1/keyspaces", "", 400, "invalid", "nothing"},
		{"POST /v1/keyspaces", "{}", 400, "invalid", "name"},
		{"POST /v1/keyspaces", `{"name":"x","colour":1}`, 400, "invalid", "colour"},
		{"POST /v1/keyspaces", `{"name":"x"} {}`, 400, "invalid", "behind"},
		{"POST /v1/keyspaces", `{"name":"x","mode":"magic"}`, 400, "invalid", "leader-follower"},
		{"POST /v1/keyspaces", `{"name":"x","shards":0}`, 400, "invalid", "0 shards"},
		{"POST /v1/keyspaces", `{"name":"x","replicas":0}`, 400, "invalid", "0 replicas"},
		{"POST /v1/keyspaces", `{"name":"x","shards":-1}`, 400, "invalid", "-1 shards"},
		{"POST /v1/keyspaces", `{"name":"x","shards":"4"}`, 400, "invalid", `\"shards\": want a whole number, got a string`},
		{"POST /v1/keyspaces", `{"name":5}`, 400, "invalid", `\"name\": want a string, got a number`},
		{"POST /v1/keyspaces", `[]`, 400, "invalid", "want an object, got a list"},
		{"POST /v1/keyspaces", `{"name":"cp"}`, 409, "exists", "cp"},
		{"POST /v1/keyspaces", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "too-large", "limit"},
		{"GET /v1/keyspaces/none", "", 404, "not-found", "none"},
		{"PATCH /v1/keyspaces/cp", `{}`, 400, "invalid", "mode"},
		{"PATCH /v1/keyspaces/none", `{"mode":"quorum"}`, 404, "not-found", "none"},
		{"DELETE /v1/keyspaces/none", "", 404, "not-found", "none"},
		{"GET /v1/nodes/n9", "", 404, "not-found", "n9"},
		{"DELETE /v1/nodes/n9", "", 404, "not-found", "n9"},
		{"GET /v1/shards?keyspace=none", "", 404, "not-found", "none"},
		{"GET /v1/levels?mode=magic", "", 400, "invalid", "raft"},
		{"POST /v1/faults", `{"kind":"magic"}`, 400, "invalid", "magic"},
		{"POST /v1/faults", `{"kind":"clock","skwe":"3s"}`, 400, "invalid", "skwe"},
		{"POST /v1/faults", `{"kind":"clock","skew":"soon"}`, 400, "invalid", "soon"},
		{"POST /v1/faults", `[]`, 400, "invalid", "empty"},
		{"DELETE /v1/faults?ids=1", "", 400, "invalid", "id"},
		{"PUT /metrics", "", 405, "invalid", "GET"},
	} {
		w := n.ask(t, c.request, c.body)
		name := c.request[:min(60, len(c.request))]
		if w.Code != c.status {
			t.Errorf("%s: %d, want %d: %s", name, w.Code, c.status, w.Body)
			continue
		}
		p := problemOf(t, w)
		if p.Code != c.code || p.Outcome != "not-applied" || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: want code %s saying %q: %s", name, c.code, c.says, w.Body)
		}
		if c.status == 405 && w.Header().Get("Allow") == "" {
			t.Errorf("%s: 405 without Allow", name)
		}
	}
	if len(n.Keyspaces()) != 3 || len(n.Faults()) != 0 {
		t.Error("a bad request changed something")
	}
	if w := n.ask(t, "OPTIONS /v1/kv/cp/k", ""); w.Code != 204 || w.Header().Get("Allow") != "DELETE, GET, HEAD, PUT, OPTIONS" {
		t.Errorf("OPTIONS: %d %q", w.Code, w.Header().Get("Allow"))
	}
}

func TestLevelErrorsListTheLevels(t *testing.T) {
	n := newNode(t)
	p := problemOf(t, n.ask(t, "GET /v1/kv/cp/k?level=two", ""))
	if got := strings.Join(p.Levels, " "); got != "one local_one linearizable lease bounded:DURATION session prefix" {
		t.Errorf("a read: %s", got)
	}
	p = problemOf(t, n.ask(t, "DELETE /v1/kv/lf/k?level=three", ""))
	if got := strings.Join(p.Levels, " "); got != "one two quorum all linearizable" {
		t.Errorf("a write: %s", got)
	}
}

func TestErrorsOfTheBackend(t *testing.T) {
	n := newNode(t)
	for _, c := range []struct {
		err      error
		write    int
		read     int
		outcome  string // of the write
		retry    bool
		readCode fulcrum.Code
	}{
		{fulcrum.Errorf(fulcrum.CodeUnavailable, "x"), 503, 503, "not-applied", true, "unavailable"},
		{fulcrum.Errorf(fulcrum.CodeUnknown, "x"), 504, 503, "unknown", false, "unavailable"},
		{context.DeadlineExceeded, 504, 503, "unknown", false, "unavailable"},
		{errors.New("nobody classified this"), 504, 503, "unknown", false, "unavailable"},
		{&fulcrum.Error{Code: fulcrum.CodeDisk, Maybe: true, Detail: "x"}, 504, 503, "unknown", false, "disk"},
		{fulcrum.Errorf(fulcrum.CodeDisk, "x"), 503, 503, "not-applied", true, "disk"},
		{fulcrum.Errorf(fulcrum.CodeNotLeader, "x").WithHint("n2"), 503, 503, "not-applied", true, "not-leader"},
		{fulcrum.Errorf(fulcrum.CodeEpoch, "x"), 503, 503, "not-applied", true, "epoch"},
		{fulcrum.Errorf(fulcrum.CodeOverloaded, "x"), 429, 429, "not-applied", true, "overloaded"},
		{fulcrum.Errorf(fulcrum.CodeMode, "x"), 400, 400, "not-applied", false, "mode"},
		{fulcrum.Errorf(fulcrum.CodeConflict, "x"), 409, 409, "not-applied", false, "conflict"},
		{fulcrum.Errorf(fulcrum.CodeInternal, "x"), 500, 500, "not-applied", false, "internal"},
		{fulcrum.ErrTooLarge, 413, 413, "not-applied", false, "too-large"},
	} {
		n.Fail = func(string) error { return c.err }
		w := n.ask(t, "PUT /v1/kv/cp/k", "v")
		if p := problemOf(t, w); w.Code != c.write || p.Outcome != c.outcome || (w.Header().Get("Retry-After") != "") != c.retry {
			t.Errorf("write, %v: %d %+v", c.err, w.Code, p)
		}
		w = n.ask(t, "GET /v1/kv/cp/k", "")
		if p := problemOf(t, w); w.Code != c.read || p.Outcome != "not-applied" || p.Code != c.readCode {
			t.Errorf("read, %v: %d %+v", c.err, w.Code, p)
		}
	}
	n.Fail = func(string) error { panic("a bug") }
	if p := problemOf(t, n.ask(t, "PUT /v1/kv/cp/k", "v")); p.Status != 500 || strings.Contains(p.Detail, "a bug:") == false {
		t.Errorf("a panic: %+v", p)
	}
}

func TestSessionTravels(t *testing.T) {
	n := newNode(t)
	token := n.ask(t, "PUT /v1/kv/cp/k", "v").Header().Get("Fulcrum-Session")
	w := n.ask(t, "GET /v1/kv/cp/k?level=session", "", "Fulcrum-Session", token)
	if next := w.Header().Get("Fulcrum-Session"); w.Code != 200 || token == "" || next == token {
		t.Errorf("%d: token %q, then %q", w.Code, token, next)
	}
	if w := n.ask(t, "GET /v1/kv/cp/k?level=session", "", "Fulcrum-Session", token+"x"); w.Code != 400 {
		t.Errorf("a forged token: %d", w.Code)
	}
	rc, err := consistency.ReceiptOf(w.Header().Get("Fulcrum-Receipt"))
	if err != nil || rc.Given != consistency.L(consistency.Session) || !rc.Found || rc.Node != "n1" {
		t.Errorf("receipt %+v, %v", rc, err)
	}
}

func TestScan(t *testing.T) {
	n := newNode(t)
	for _, k := range []string{"a", "b1", "b2", "b\xff", "c"} {
		n.ask(t, "PUT /v1/kv/ap/"+url.PathEscape(k), "v-"+k)
	}
	for _, c := range []struct{ query, want string }{
		{"", "a=v-a b1=v-b1 b2=v-b2 Yv8=:di1i/w== c=v-c"},
		{"?prefix=b&limit=2", "b1=v-b1 b2=v-b2 next=b2"},
		{"?prefix=b&limit=2&after=b2", "Yv8=:di1i/w=="},
		{"?start=b2&end=c&keys_only", "b2= Yv8=:"},
		{"?after=b2&limit=1", "Yv8=:di1i/w== next=Yv8="},
		{"?prefix=zz", ""},
	} {
		w := n.ask(t, "GET /v1/kv/ap"+c.query, "")
		var page scanPage
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 || page.Entries == nil {
			t.Fatalf("%s: %d %s", c.query, w.Code, w.Body)
		}
		var got []string
		for _, e := range page.Entries {
			got = append(got, e.Key+map[string]string{"": "=", "base64": ":"}[e.Encoding]+e.Value)
		}
		if page.Next != nil {
			got = append(got, "next="+*page.Next)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", c.query, s, c.want)
		}
	}
}

func TestControlPlane(t *testing.T) {
	n := newNode(t)
	for _, step := range []struct {
		request, body string
		status        int
		says          string
	}{
		{"GET /v1/cluster", "", 200, `"cluster_id":"test"`},
		{"GET /v1/cluster", "", 200, `"faults":[]`},
		{"GET /v1/nodes", "", 200, `"name":"n1"`},
		{"GET /v1/nodes/n1", "", 200, `"name":"n1"`},
		{"GET /v1/shards?keyspace=ap", "", 200, `"keyspace":"ap"`},
		{"GET /v1/levels?mode=raft", "", 200, `"level":"bounded"`},
		{"GET /v1/keyspaces", "", 200, `"name":"lf"`},
		{"POST /v1/keyspaces", `{"name":"new","mode":"quorum"}`, 201, `"mode":"quorum"`},
		{"GET /v1/keyspaces/new", "", 200, `"shard_list":[`},
		{"PATCH /v1/keyspaces/new", `{"read_level":"one"}`, 200, `"read_level":"one"`},
		{"PATCH /v1/keyspaces/new", `{"mode":"raft"}`, 202, `"target_mode":"raft"`},
		{"PATCH /v1/keyspaces/new", `{"mode":"raft"}`, 409, `"code":"conflict"`},
		{"DELETE /v1/keyspaces/new", "", 204, ""},
		{"POST /v1/faults", `{"id":"p","kind":"partition","sides":[["n1"],["n2","n3"]]}`, 200, `"id":"p"`},
		{"POST /v1/faults", `[{"id":"d","kind":"link","from":"n1","to":"n2","delay":"100ms"},{"id":"m","kind":"magic"}]`, 400, "magic"},
		{"GET /v1/faults", "", 200, `[{"id":"p","kind":"partition"`},
		{"POST /v1/faults", `[{"id":"d","kind":"link","from":"n1","to":"n2","delay":"100ms"},{"kind":"clock","node":"n1","skew":"30s"}]`, 200, `"delay":"100ms"`},
		{"DELETE /v1/faults?id=p&id=d", "", 200, `"kind":"clock"`},
		{"DELETE /v1/faults", "", 200, `[]`},
		{"POST /v1/faults", `{"id":"x","kind":"clock","node":"n1","skew":"30s"}`, 200, `"id":"x"`},
		{"DELETE /v1/faults/x", "", 200, `[]`},
		{"DELETE /v1/faults/x", "", 404, `"code":"not-found"`},
		{"DELETE /v1/faults?id=x", "", 200, `[]`},
		{"GET /metrics", "", 200, ""},
		{"GET /debug/pprof/", "", 200, "goroutine"},
		{"GET /debug/pprof/cmdline", "", 200, ""},
		{"GET /", "", 200, "Active faults"},
		{"GET /status.css", "", 200, "body{"},
		{"GET /livez", "", 200, "ok"},
		{"GET /healthz", "", 200, "ok"},
		{"GET /readyz?verbose", "", 200, "[+] catalog: ok"},
		{"DELETE /v1/nodes/n1", "", 204, ""},
	} {
		w := n.ask(t, step.request, step.body)
		if w.Code != step.status || !strings.Contains(w.Body.String(), step.says) {
			t.Errorf("%s: %d, want %d and %q: %s", step.request, w.Code, step.status, step.says, w.Body)
		}
	}
	if faults := n.Faults(); len(faults) != 0 {
		t.Errorf("a list with a bad fault left %+v", faults)
	}
}

func TestFaultsOff(t *testing.T) {
	n := newNode(t, func(o *Options) { o.AllowFaults, o.Pprof, o.Gatherer = false, false, nil })
	for _, request := range []string{"POST /v1/faults", "DELETE /v1/faults", "DELETE /v1/faults/x"} {
		if p := problemOf(t, n.ask(t, request, `{"kind":"clock"}`)); p.Status != 403 || p.Code != "faults-off" {
			t.Errorf("%s: %+v", request, p)
		}
	}
	if w := n.ask(t, "GET /v1/faults", ""); w.Code != 200 {
		t.Errorf("looking is allowed: %d", w.Code)
	}
	for _, request := range []string{"GET /metrics", "GET /debug/pprof/"} {
		if w := n.ask(t, request, ""); w.Code != 404 {
			t.Errorf("%s: %d", request, w.Code)
		}
	}
}

func TestSickNode(t *testing.T) {
	n := newNode(t)
	n.SetSick(errors.New("fsync took 9s"))
	w := n.ask(t, "GET /readyz?verbose", "")
	if w.Code != 503 || !strings.Contains(w.Body.String(), "[-] disk: fsync took 9s\n[+] catalog: ok\n") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := n.ask(t, "GET /livez", ""); w.Code != 503 {
		t.Errorf("livez %d", w.Code)
	}
}

func TestStatusPageEscapes(t *testing.T) {
	n := newNode(t)
	n.SetNodes([]fulcrum.NodeInfo{{Name: "<script>x", Live: true}})
	w := n.ask(t, "GET /", "")
	if strings.Contains(w.Body.String(), "<script>x") || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'self'") {
		t.Errorf("%s\n%v", w.Body, w.Header())
	}
}

func TestOtherOriginsChangeNothing(t *testing.T) {
	n := newNode(t)
	for _, h := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}} {
		if w := n.ask(t, "POST /v1/faults", `{"kind":"clock"}`, h...); w.Code != 403 {
			t.Errorf("%v: %d", h, w.Code)
		}
	}
	if len(n.Faults()) != 0 {
		t.Error("a fault was injected")
	}
}

func TestRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, func(o *Options) { o.MaxInFlight = 1 })
		release := make(chan struct{})
		n.Fail = func(string) error { <-release; return nil }
		first := make(chan int)
		go func() { first <- n.ask(t, "PUT /v1/kv/cp/k", "v").Code }()
		synctest.Wait()
		if p := problemOf(t, n.ask(t, "GET /v1/kv/cp/k", "")); p.Status != 429 || p.Code != fulcrum.CodeOverloaded {
			t.Errorf("the second request: %+v", p)
		}
		close(release)
		if code := <-first; code != 204 {
			t.Errorf("the first request: %d", code)
		}
	})
}

// pipes is a net.Listener over net.Pipe.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestServeDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		entered, release := make(chan struct{}), make(chan struct{})
		n.Fail = func(string) error { close(entered); <-release; return nil }
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- Serve(ctx, l, n) }()
		client := &nethttp.Client{Transport: &nethttp.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			l.conns <- there
			return here, nil
		}}}
		answered := make(chan string, 1)
		go func() {
			resp, err := client.Get("http://n1/v1/kv/cp/k")
			if err != nil {
				answered <- err.Error()
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			answered <- resp.Status
			_ = resp.Body.Close()
		}()
		<-entered
		cancel()
		time.Sleep(time.Second)
		close(release)
		if got := <-answered; got != "404 Not Found" {
			t.Errorf("the request under way: %s", got)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add("GET", "/v1/kv/cp/a?level=one", "", `"1.1"`, "", "")
	f.Add("PUT", "/v1/kv/cp/%ff/..//?ttl=3", "*", "", "AQ", "v")
	f.Add("DELETE", "/v1/kv/ap/a", `W/"x", "1.1"`, "", "", "")
	f.Add("POST", "/v1/keyspaces", "", "", "", `{"name":"x"}`)
	f.Add("POST", "/v1/faults", "", "", "", `[{"kind":"link","loss":0.5}]`)
	f.Add("PATCH", "/v1/keyspaces/cp", "", "", "", `{"mode":null}`)
	f.Fuzz(func(t *testing.T, method, path, match, none, session, body string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || strings.Contains(path, "pprof") {
			return // the server refuses it before us; profiles take seconds
		}
		n := &node{at: time.UnixMilli(1)}
		n.Backend = apitest.New("n1", func() time.Time { return n.at })
		n.Handler = New(Options{Backend: n.Backend, AllowFaults: true})
		r := &nethttp.Request{Method: method, URL: u, Header: nethttp.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: -1}
		for name, v := range map[string]string{"If-Match": match, "If-None-Match": none, "Fulcrum-Session": session} {
			if v != "" {
				r.Header.Set(name, v)
			}
		}
		w := httptest.NewRecorder()
		n.ServeHTTP(w, r)
		if w.Code == 500 || w.Code < 200 {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		if w.Code >= 400 && w.Header().Get("Content-Type") == "application/problem+json" {
			problemOf(t, w)
		}
	})
}
