package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"fulcrum/client"
)

// full is an output that takes nothing, as a full disk.
type full struct{ err error }

func (f full) Write([]byte) (int, error) { return 0, f.err }

// answers is a node of its own that answers a request by its method and path.
func answers(t *testing.T, of map[string]string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := of[r.Method+" "+r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("ETag", `"1.1"`)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// A result that could not be written must not look like success.
func TestResultThatIsLost(t *testing.T) {
	t.Parallel()
	at := answers(t, map[string]string{"GET /v1/cluster": `{"nodes":[]}`, "GET /v1/kv/default/k": "v", "PUT /v1/kv/default/k": "", "GET /v1/levels": `[]`})
	for _, args := range [][]string{{"get", "k"}, {"get", "k", "-o", "json"}, {"get", "k", "-o", "table"}, {"put", "k", "v"}, {"levels", "-o", "table"}} {
		var says strings.Builder
		code := run(t.Context(), append(args, "--endpoint", at), terminal{in: strings.NewReader(""), out: full{errors.New("the disk is full")}, err: &says})
		if code != exitFailed || !strings.Contains(says.String(), "could not be written: the disk is full") {
			t.Errorf("%v: exit code %d, %q", args, code, says.String())
		}
	}
}

// JSON has no bytes that are not UTF-8: keys of others are told in base64, not changed. What
// an export needs of a key is all there.
func TestKeysAsJSON(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1_700_000_000_000)
	for key, want := range map[string]keyResult{"a": {Key: "a"}, "é": {Key: "é"}, "\xff\x01": {Key: "/wE=", KeyEncoding: "base64"}} {
		r := resultOf("cp", client.Item{Key: key, Value: []byte("v"), ExpireAt: at})
		if r.Key != want.Key || r.KeyEncoding != want.KeyEncoding || r.ExpireAt == nil || !r.ExpireAt.Equal(at) {
			t.Errorf("%q: %+v", key, r)
		}
	}
	for _, args := range [][]string{{"get", "\xff"}, {"put", "\xff", "v"}, {"scan"}} {
		url := answers(t, map[string]string{"GET /v1/cluster": `{"nodes":[]}`, "GET /v1/kv/default/\xff": "v", "PUT /v1/kv/default/\xff": "",
			"GET /v1/kv/default": `{"entries":[{"key":"/w==","value":"dg==","version":"1.1","encoding":"base64","expire_at":1700000000000}]}`})
		var out, says strings.Builder
		if code := run(t.Context(), slices.Concat(args, []string{"-o", "json", "--endpoint", url}), terminal{out: &out, err: &says}); code != exitDone {
			t.Fatalf("%q: exit code %d, %s", args, code, says.String())
		}
		got := keyResult{}
		if err := json.Unmarshal([]byte(strings.Trim(out.String(), "[]\n")), &got); err != nil || got.Key != "/w==" || got.KeyEncoding != "base64" {
			t.Errorf("%q: %v, %s", args, err, out.String())
		}
		if args[0] == "scan" && got.ExpireAt == nil {
			t.Errorf("scan does not say when a key expires: %s", out.String())
		}
	}
}

// A --timeout that is given bounds commands that wait for long, too.
func TestTimeoutOfLongCommands(t *testing.T) {
	t.Parallel()
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(silent.Close)
	for _, args := range [][]string{{"keyspace", "alter", "cp", "--mode", "raft"}, {"node", "remove", "n1"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		began := time.Now()
		var says strings.Builder
		code := run(ctx, append(args, "--timeout", "200ms", "--endpoint", silent.URL), terminal{out: io.Discard, err: &says})
		cancel()
		if took := time.Since(began); took > 10*time.Second || code != exitUnavailable {
			t.Errorf("%v: exit code %d after %s: %s", args, code, took, says.String())
		}
	}
}
