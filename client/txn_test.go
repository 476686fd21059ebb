package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/client"
	httpapi "fulcrum/node/api/http"
	"fulcrum/node/api/http/apitest"
)

func TestTxn(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	rc, err := c.Put(ctx, "cp", "\xffk", []byte("\xfe1"))
	if err != nil {
		t.Fatal(err)
	}
	then := []client.Op{
		client.OpGet("\xffk"), client.OpPut("\xffk", []byte("\xfd")).TTL(time.Hour).IfVersion(rc.Version), client.OpPut("\xffk", []byte("2")).KeepTTL().IfValue([]byte("\xfd")),
		client.OpAppend("\xffk", []byte("34")), client.OpIncr("\xffk", -1), client.OpGet("\xffk"), client.OpExpire("\xffk", 0), client.OpGet("none"),
		client.OpPut("new", nil).IfAbsent(), client.OpDelete("new").IfPresent(), client.OpDelete("new"),
	}
	for name, compare := range map[string]client.Compare{
		"exists": client.WhenExists("x"), "absent": client.WhenAbsent("\xffk"), "version": client.WhenVersion("\xffk", "<", rc.Version), "value": client.WhenValue("\xffk", "=", []byte("\xfe2")),
	} {
		res, err := c.Txn(ctx, "cp", client.Txn{If: []client.Compare{compare}, Then: then, Else: []client.Op{client.OpGet("x")}})
		if err != nil || res.Succeeded || len(res.Results) != 1 || res.Results[0].Found {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	res, err := c.Txn(ctx, "cp", client.Txn{If: []client.Compare{
		client.WhenExists("\xffk"), client.WhenAbsent("x"), client.WhenVersion("\xffk", "=", rc.Version), client.WhenVersion("x", "=", fulcrum.Version{}), client.WhenValue("\xffk", "=", []byte("\xfe1")),
	}, Then: then})
	if err != nil || !res.Succeeded || len(res.Results) != len(then) || res.Receipt.Keyspace != "cp" {
		t.Fatalf("%+v, %v", res, err)
	}
	var got []string
	for _, r := range res.Results {
		got = append(got, fmt.Sprintf("%q %v %q %d %v", r.Key, r.Found, r.Value, r.Length, r.ExpireAt.IsZero()))
	}
	want := []string{`"\xffk" true "\xfe1" 0 true`, `"\xffk" true "" 0 false`, `"\xffk" true "" 0 false`, `"\xffk" true "" 3 false`, `"\xffk" true "233" 0 false`, `"\xffk" true "233" 0 false`,
		`"\xffk" true "" 0 true`, `"none" false "" 0 true`, `"new" false "" 0 true`, `"new" true "" 0 true`, `"new" false "" 0 true`}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if res.Results[0].Version != rc.Version || !rc.Version.Less(res.Results[1].Version) {
		t.Errorf("versions: %v", res.Results)
	}
	_, err = c.Txn(ctx, "cp", client.Txn{Then: []client.Op{client.OpPut("a", nil), client.OpPut("\xffk", nil).IfAbsent()}})
	if !errors.Is(err, fulcrum.ErrConflict) || client.Unknown(err) {
		t.Errorf("a condition that does not hold: %v", err)
	}
	if _, err := c.Get(ctx, "cp", "a"); !errors.Is(err, fulcrum.ErrNotFound) {
		t.Errorf("it left something behind: %v", err)
	}
	if _, err := c.Txn(ctx, "ap", client.Txn{Then: then}); !errors.Is(err, fulcrum.ErrMode) {
		t.Errorf("mode quorum: %v", err)
	}
	if _, err := c.Txn(ctx, "cp", client.Txn{}); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Errorf("nothing: %v", err)
	}
}

// lose makes the first n requests that change something fail, before or behind the node,
// and notes the id of each.
func lose(n int, before bool, ids *[]string) func(*http.Request) (error, error) {
	return func(r *http.Request) (error, error) {
		if !isKey(r) && !strings.HasPrefix(r.URL.Path, "/v1/txn/") {
			return nil, nil
		}
		*ids = append(*ids, r.Header.Get("Idempotency-Key"))
		if n--; n < 0 {
			return nil, nil
		}
		if before {
			return errLost, nil
		}
		return nil, errLost
	}
}

func TestExactlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, client.WithExactlyOnce())
		ctx, on := t.Context(), client.On("n2")
		var all []string
		try := func(lost int, before bool, do func() error) error {
			t.Helper()
			var ids []string
			c.set(lose(lost, before, &ids))
			err := do()
			c.set(nil)
			if len(ids) != lost+1 || ids[0] == "" || slices.ContainsFunc(ids, func(id string) bool { return id != ids[0] }) {
				t.Errorf("%d attempts with the ids %v, want %d with one", len(ids), ids, lost+1)
			}
			if slices.Contains(all, ids[0]) {
				t.Errorf("id %s is of two calls", ids[0])
			}
			all = append(all, ids[0])
			return err
		}
		for _, before := range []bool{true, false} {
			if err := try(3, before, func() error { _, _, err := c.Incr(ctx, "cp", "n", 1, on); return err }); err != nil {
				t.Errorf("incr: %v", err)
			}
			if err := try(2, before, func() error {
				_, _, err := c.Append(ctx, "cp", "log", []byte("x"), on, client.TTL(time.Hour))
				return err
			}); err != nil {
				t.Errorf("append: %v", err)
			}
			if err := try(2, before, func() error {
				_, err := c.Txn(ctx, "cp", client.Txn{Then: []client.Op{client.OpIncr("n", 10)}}, on)
				return err
			}); err != nil {
				t.Errorf("txn: %v", err)
			}
			key := fmt.Sprint("new", before)
			if err := try(1, before, func() error { _, err := c.Put(ctx, "cp", key, nil, on, client.IfAbsent()); return err }); err != nil {
				t.Errorf("create: %v", err)
			}
			if err := try(1, before, func() error { _, err := c.Put(ctx, "cp", key, nil, on, client.IfAbsent()); return err }); !errors.Is(err, fulcrum.ErrConflict) || client.Unknown(err) {
				t.Errorf("create of what is there, the first attempt lost: %v; a conflict is the answer to all attempts", err)
			}
			if err := try(1, before, func() error { _, err := c.Delete(ctx, "cp", key, on); return err }); err != nil {
				t.Errorf("delete: %v", err)
			}
		}
		if item, err := c.Get(ctx, "cp", "n", on); err != nil || string(item.Value) != "22" {
			t.Errorf("two times 1 and 10 make %q, %v", item.Value, err)
		}
		if item, err := c.Get(ctx, "cp", "log", on); err != nil || string(item.Value) != "xx" || time.Until(item.ExpireAt) < 50*time.Minute {
			t.Errorf("two appends: %+v, %v", item, err)
		}
		// The node itself does not know: 504.
		fails := 2
		c.nodes[1].Fail = func(string) error {
			if fails--; fails >= 0 {
				return fulcrum.Errorf(fulcrum.CodeUnknown, "no answer from a majority")
			}
			return nil
		}
		if n, _, err := c.Incr(ctx, "cp", "n", 1, on); err != nil || n != 23 {
			t.Errorf("incr through two unknown outcomes: %d, %v", n, err)
		}
		if _, _, err := c.Incr(ctx, "cp", "log", 1, on); !errors.Is(err, fulcrum.ErrInvalid) || !errors.Is(err, fulcrum.ErrNotInteger) {
			t.Errorf("incr of a word: %v", err)
		}
		if _, err := c.Put(ctx, "ap", "k", nil); !errors.Is(err, fulcrum.ErrMode) {
			t.Errorf("mode quorum keeps no ids: %v", err)
		}
		other := start(t, client.WithExactlyOnce())
		var ids []string
		other.set(lose(0, true, &ids))
		if _, err := other.Put(ctx, "cp", "k", nil); err != nil || len(ids) != 1 || strings.Split(ids[0], "-")[0] == strings.Split(all[0], "-")[0] {
			t.Errorf("two clients: ids %v and %v, %v", ids, all[0], err)
		}
	})
}

func TestWithoutAnIDNothingIsRepeated(t *testing.T) {
	c := start(t)
	var ids []string
	c.set(lose(1, false, &ids))
	_, err := c.Txn(t.Context(), "cp", client.Txn{Then: []client.Op{client.OpIncr("n", 1)}})
	if !errors.Is(err, fulcrum.ErrUnknown) || !slices.Equal(ids, []string{""}) {
		t.Errorf("%v after attempts with the ids %q", err, ids)
	}
	ids = nil
	c.set(lose(1, false, &ids))
	if res, err := c.Txn(t.Context(), "cp", client.Txn{Then: []client.Op{client.OpGet("n")}}, client.On("n2"), client.ExactlyOnce()); err != nil || len(res.Results) != 1 || !slices.Equal(ids, []string{"", ""}) {
		t.Errorf("what only reads is tried again, and needs no id: %v, %v after %q", res, err, ids)
	}
	c.set(lose(1<<30, false, &ids))
	if _, err := c.Txn(t.Context(), "cp", client.Txn{Then: []client.Op{client.OpGet("n")}}, client.NoRetry()); !errors.Is(err, fulcrum.ErrUnavailable) || client.Unknown(err) {
		t.Errorf("what only reads has no unknown outcome: %v", err)
	}
}

// An id is remembered for a while only: after that, no attempt may follow one that may
// have been done.
func TestIDsAreNotTrustedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, client.WithAttempts(1<<20))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began, last := time.Now(), time.Time{}
		c.set(func(r *http.Request) (error, error) {
			if r.Method == http.MethodPut {
				last = time.Now()
				return nil, errLost
			}
			return nil, nil
		})
		_, err := c.Put(ctx, "cp", "k", nil, client.ExactlyOnce())
		if !client.Unknown(err) || last.Sub(began) < time.Minute || last.Sub(began) > 6*time.Minute {
			t.Errorf("%v, the last attempt after %v", err, last.Sub(began))
		}
	})
}

func TestRequestID(t *testing.T) {
	c := start(t)
	ctx, mine := t.Context(), client.RequestID(`my "id" \1`)
	for range 2 {
		if n, _, err := c.Incr(ctx, "cp", "n", 5, mine, client.On("n2")); n != 5 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if _, err := c.Put(ctx, "cp", "n", nil, mine, client.On("n2")); !errors.Is(err, fulcrum.ErrConflict) {
		t.Errorf("the id of another request: %v", err)
	}
	if _, _, err := c.Update(ctx, "cp", "n", func(*client.Item) ([]byte, error) { return nil, nil }, mine); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Errorf("an Update under one id: %v", err)
	}
	for _, id := range []string{"", "a\nb", "ü", strings.Repeat("x", 120)} {
		if _, err := c.Put(ctx, "cp", "bad", nil, client.RequestID(id)); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	longest := client.RequestID(strings.Repeat("\\", 119)) // as long as nodes take
	for _, opts := range [][]client.CallOption{{longest}, {longest, client.IfPresent()}} {
		if _, err := c.Put(ctx, "cp", fmt.Sprint("long", len(opts)), nil, opts...); err != nil && !errors.Is(err, fulcrum.ErrConflict) {
			t.Errorf("the longest id: %v", err)
		}
	}
}

// net/http sends what has an Idempotency-Key again by itself when the connection is lost.
// If the node cannot be reached any more then, it may have done the first all the same.
func TestALostConnectionIsNotAnUnreachedNode(t *testing.T) {
	backend := apitest.New("n1", time.Now)
	api := httpapi.New(httpapi.Options{Backend: backend})
	var dying atomic.Bool
	var s *httptest.Server
	s = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !dying.Load() {
			api.ServeHTTP(w, r)
			return
		}
		s.Listener.Close() // whoever comes again is refused
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		conn.Close()
	}))
	s.Start()
	defer s.CloseClientConnections()
	c, err := client.New(t.Context(), []string{s.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.Incr(t.Context(), "cp", "k", 1, client.ExactlyOnce()); err != nil {
		t.Fatal(err) // the connection is there, and has served
	}
	dying.Store(true)
	_, _, err = c.Incr(t.Context(), "cp", "k", 1, client.ExactlyOnce(), client.NoRetry())
	if !client.Unknown(err) {
		t.Errorf("a request that the node had when it died: %v, want unknown", err)
	}
	if _, _, err = c.Incr(t.Context(), "cp", "k", 1, client.ExactlyOnce(), client.NoRetry()); err == nil || client.Unknown(err) {
		t.Errorf("a request to a node that is not there: %v, want a definite refusal", err)
	}
}
