package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
	"fulcrum/node/api"
	httpapi "fulcrum/node/api/http"
	"fulcrum/node/api/http/apitest"
)

// watched is one backend behind nodes on real connections.
func watched(t *testing.T, nodes int) (*apitest.Backend, *client.Client, []*httptest.Server) {
	t.Helper()
	b := apitest.New("n1", time.Now)
	handler := httpapi.New(httpapi.Options{Backend: b})
	var servers []*httptest.Server
	var endpoints []string
	var infos []fulcrum.NodeInfo
	for i := range nodes {
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		servers, endpoints = append(servers, s), append(endpoints, s.URL)
		infos = append(infos, fulcrum.NodeInfo{Name: fulcrum.NodeID(fmt.Sprintf("n%d", i+1)), HTTPAddr: strings.TrimPrefix(s.URL, "http://"), Live: true})
	}
	b.SetNodes(infos)
	c, err := client.New(t.Context(), endpoints)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return b, c, servers
}

func write(t *testing.T, b *apitest.Backend, keys ...string) {
	t.Helper()
	var ws []fulcrum.Write
	for _, k := range keys {
		ws = append(ws, fulcrum.Write{Op: fulcrum.OpPut, Key: []byte(k), Value: []byte("v of " + k)})
	}
	if _, _, err := b.Write(t.Context(), api.Call{Keyspace: "cp", Level: consistency.Level{}}, ws); err != nil {
		t.Fatal(err)
	}
}

func TestWatchGoesOnAtAnotherNode(t *testing.T) {
	b, c, servers := watched(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []string
	batches := 0
	for batch, err := range c.Watch(ctx, "cp", client.Watch{Prefix: "k"}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, ch := range batch.Changes {
			if ch.Kind != client.Put || string(ch.Value) != "v of "+ch.Key || ch.Version.IsZero() {
				t.Errorf("change %+v", ch)
			}
			got = append(got, ch.Key)
		}
		switch batches++; batches {
		case 1:
			if len(batch.Changes) != 0 || batch.Next == "" {
				t.Errorf("the first batch: %+v", batch)
			}
			write(t, b, "k1", "k\xff")
		case 2:
			for _, s := range servers[:2] { // wherever it is, it is cut off, perhaps twice
				s.CloseClientConnections()
				s.Listener.Close()
			}
			write(t, b, "k2")
			write(t, b, "other")
			write(t, b, "k3")
		}
		if slices.Contains(got, "k3") {
			cancel()
		}
	}
	if want := []string{"k1", "k\xff", "k2", "k3"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestWatchIsToldThatHistoryIsGone(t *testing.T) {
	b, c, _ := watched(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last error
	for batch, err := range c.Watch(ctx, "cp", client.Watch{}) {
		if err != nil {
			last = err
			continue
		}
		if len(batch.Changes) == 0 {
			b.Compact("cp")
		}
	}
	var e *fulcrum.Error
	if !errors.As(last, &e) || !errors.Is(last, fulcrum.ErrCompacted) || e.Hint == "" {
		t.Errorf("the watch ended with %v, want compacted, with a hint", last)
	}
	for _, w := range []client.Watch{{After: "cp-0"}, {Key: "k", After: "cp-0"}} { // refused at once
		for _, err := range c.Watch(ctx, "cp", w) {
			if !errors.Is(err, fulcrum.ErrCompacted) {
				t.Errorf("behind what is gone: %v", err)
			}
		}
	}
	for _, err := range c.Watch(ctx, "ap", client.Watch{}) {
		if !errors.Is(err, fulcrum.ErrMode) {
			t.Errorf("in mode quorum: %v", err)
		}
	}
	if ctx.Err() != nil {
		t.Error("not told within a minute")
	}
}

// A batch that was cut off is not handed out by halves: it comes again, whole.
func TestBatchIsWholeOrNotThere(t *testing.T) {
	_, c, _ := watched(t, 1)
	c.Close()
	var asked atomic.Int64
	event := func(w io.Writer, key, id string) {
		fmt.Fprintf(w, "event: put\n%sdata: {\"key\":%q,\"value\":\"v\",\"version\":\"1.1\"}\n\n", id, key)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/watch/") {
			fmt.Fprint(w, "{}")
			return
		}
		n := asked.Add(1)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "event: progress\nid: %s\ndata: {}\n\n", "p0")
		event(w, "a", "")
		if n == 1 {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		if got := r.URL.Query().Get("after"); got != "p0" {
			t.Errorf("goes on behind %q, want p0", got)
		}
		event(w, "b", "id: p1\n")
	}))
	defer s.Close()
	c, err := client.New(t.Context(), []string{s.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for batch, err := range c.Watch(ctx, "cp", client.Watch{}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(batch.Changes) == 0 {
			continue
		}
		if len(batch.Changes) != 2 || batch.Changes[0].Key != "a" || batch.Changes[1].Key != "b" || batch.Next != "p1" {
			t.Errorf("batch %+v", batch)
		}
		break
	}
	if asked.Load() < 2 {
		t.Error("the stream was not cut off")
	}
}
