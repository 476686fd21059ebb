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
	"time"

	"fulcrum"
	"fulcrum/client"
)

// answering is a node whose watches are answered by f, with the number of the question.
func answering(t *testing.T, f func(w http.ResponseWriter, r *http.Request, n int64)) *client.Client {
	t.Helper()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/watch/") {
			fmt.Fprint(w, "{}")
			return
		}
		f(w, r, asked.Add(1))
	}))
	t.Cleanup(s.Close)
	c, err := client.New(t.Context(), []string{s.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func refuse(w http.ResponseWriter, why string) {
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintf(w, `{"code":"unavailable","outcome":"not-applied","detail":%q}`, why)
}

func begin(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, "event: progress\nid: p0\ndata: {}\n\n")
	w.(http.Flusher).Flush()
}

// Whoever watches is told each time that the watch cannot go on, why, and when it does.
func TestWatchTellsItsTroubles(t *testing.T) {
	c := answering(t, func(w http.ResponseWriter, r *http.Request, n int64) {
		switch n {
		case 1, 2, 4:
			refuse(w, fmt.Sprint("reason ", n))
		default:
			begin(w)
		}
	})
	var told []string
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	batches := 0
	w := client.Watch{Patience: 30 * time.Second, Trouble: func(err error) {
		switch e := fulcrum.AsError(err); {
		case err == nil:
			told = append(told, "on")
		case e.Detail == "" || e.Code != fulcrum.CodeUnavailable:
			t.Errorf("told %v", err)
		default:
			told = append(told, e.Detail)
		}
	}}
	for _, err := range c.Watch(ctx, "cp", w) {
		if err != nil {
			t.Fatal(err)
		}
		if batches++; batches == 2 {
			break
		}
	}
	if len(told) != 6 || !strings.Contains(told[3], "no answer") {
		t.Fatalf("told %q", told)
	}
	if told[3] = ""; !slices.Equal(told, []string{"reason 1", "reason 2", "on", "", "reason 4", "on"}) {
		t.Errorf("told %q", told)
	}
}

// A watch that finds no node for longer than it is to wait ends, and says why: whether
// nodes refuse it or say nothing.
func TestWatchLosesPatience(t *testing.T) {
	const patience = 400 * time.Millisecond
	for name, f := range map[string]func(http.ResponseWriter, *http.Request, int64){
		"refused": func(w http.ResponseWriter, _ *http.Request, _ int64) { refuse(w, "no leader") },
		"silent":  func(_ http.ResponseWriter, r *http.Request, _ int64) { <-r.Context().Done() },
		"cut off": func(w http.ResponseWriter, r *http.Request, n int64) {
			if n > 1 {
				refuse(w, "no leader")
				return
			}
			begin(w)
			time.Sleep(2 * patience) // it is under way: patience has nothing to do with it
			fmt.Fprint(w, "event: progress\nid: p1\ndata: {}\n\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			begun := time.Now()
			var last error
			next := ""
			for batch, err := range answering(t, f).Watch(ctx, "cp", client.Watch{Patience: patience}) {
				if last = err; err == nil {
					next, begun = batch.Next, time.Now()
				}
			}
			took := time.Since(begun)
			e := fulcrum.AsError(last)
			if !errors.Is(last, fulcrum.ErrUnavailable) || !strings.Contains(e.Error(), patience.String()) || name != "silent" && !strings.Contains(e.Error(), "no leader") {
				t.Errorf("the watch ends with %v", last)
			}
			if took < patience-100*time.Millisecond || took > 30*time.Second {
				t.Errorf("it ends %s after the last batch, want about %s", took, patience)
			}
			if name == "cut off" && next != "p1" {
				t.Errorf("a watch under way ended behind %q", next)
			}
		})
	}
}

// With On no other node is asked, though others could go on.
func TestWatchOnOneNodeAsksNoOther(t *testing.T) {
	_, c, servers := watched(t, 3)
	servers[1].Close()
	var last error
	for batch, err := range c.Watch(t.Context(), "cp", client.Watch{Patience: 300 * time.Millisecond}, client.On("n2")) {
		if err == nil {
			t.Fatalf("told %+v by a node that was not to be asked", batch)
		}
		last = err
	}
	if !errors.Is(last, fulcrum.ErrUnavailable) {
		t.Errorf("the watch ends with %v", last)
	}
}
