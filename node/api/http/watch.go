package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"time"

	nethttp "net/http"

	"fulcrum"
	"fulcrum/node/api"
)

// readerPatience is how long the reader of a watch may take nothing before it is cut off:
// a connection that is full holds memory on both sides, and may be dead.
const readerPatience = 30 * time.Second

// watchEvent is the data of one event: put, delete and expire. The rule for Encoding is
// that of a scan.
type watchEvent struct {
	Key      string          `json:"key"`
	Value    string          `json:"value"`
	Version  fulcrum.Version `json:"version"`
	Encoding string          `json:"encoding,omitempty"`
	ExpireAt int64           `json:"expire_at,omitempty"` // Unix milliseconds
}

// watchProgress is the data of an event of that name: nothing happened up to After.
type watchProgress struct {
	After string `json:"after"`
}

// watchEnd is the data of the event "error", the last one of a watch that cannot go on.
// Where After is there, a watch behind it, here or elsewhere, misses nothing.
type watchEnd struct {
	Problem
	After string `json:"after,omitempty"`
}

// watch streams changes as Server-Sent Events (text/event-stream of the HTML standard).
//
// The id of an event is the position behind it. Only the last event of a batch has one:
// a reader that loses the connection inside a batch goes on behind the batch before, and
// gets this one again, whole.
func (h *handler) watch(keyspace string) nethttp.HandlerFunc {
	return func(w nethttp.ResponseWriter, r *nethttp.Request) {
		q, err := query(r, "prefix", "start", "end", "key", "after")
		var req api.Watch
		if err == nil {
			req, err = watchOf(q, r.Header.Get("Last-Event-ID"))
		}
		if err != nil {
			h.fail(w, r, err)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		if stopping, ok := r.Context().Value(stoppingKey{}).(context.Context); ok {
			defer context.AfterFunc(stopping, cancel)()
		}
		s := &events{w: w, conn: nethttp.NewResponseController(w), patience: h.ReaderPatience}
		if s.under, _ = r.Context().Value(connKey{}).(*conn); s.under != nil {
			defer s.under.watch()()
		}
		_ = s.conn.SetReadDeadline(time.Time{}) // the server's is for requests, and would end this one
		err = h.Backend.Watch(ctx, api.Call{Keyspace: keyspace}, req, s.batch)
		switch {
		case err == nil && r.Context().Err() == nil:
			err = fulcrum.Errorf(fulcrum.CodeUnavailable, "this node is stopping").WithHint("go on behind the last position on another node")
			if s.begun {
				s.end(problemFor(settle(r, err)))
				return
			}
			h.fail(w, r, err)
		case err == nil: // the reader is gone
		case !s.begun:
			h.fail(w, r, err)
		case s.err != nil: // the reader takes nothing: what cannot be written cannot be told
			h.quiet.Info("the reader of a watch was cut off", "keyspace", keyspace, "err", s.err, "after", s.last)
			panic(nethttp.ErrAbortHandler)
		default:
			s.end(problemFor(settle(r, err)))
			if s.slow() {
				h.quiet.Info("the reader of a watch was given up", "keyspace", keyspace, "err", err, "after", s.last)
			}
		}
	}
}

// stoppingKey finds, in a request's context, the context that ends when Serve stops.
type stoppingKey struct{}

func watchOf(q url.Values, lastEvent string) (api.Watch, error) {
	scan, err := scanOf(q)
	req := api.Watch{Prefix: scan.Prefix, Start: scan.Start, End: scan.End, After: q.Get("after")}
	if lastEvent != "" { // of a reader that connects again: newer than what the address says
		req.After = lastEvent
	}
	key := q.Get("key")
	switch {
	case err != nil:
		return req, err
	case key == "" && q.Has("key"):
		return req, fulcrum.Errorf(fulcrum.CodeInvalid, "empty key")
	case key == "":
		return req, nil
	case req.Prefix != nil || req.Start != nil || req.End != nil:
		return req, fulcrum.Errorf(fulcrum.CodeInvalid, "key is one key, prefix, start and end are a range: give one or the other")
	}
	if err := checkKey([]byte(key)); err != nil {
		return req, err
	}
	req.Start, req.End = []byte(key), append([]byte(key), 0)
	return req, nil
}

// events writes an event stream.
type events struct {
	w        nethttp.ResponseWriter
	conn     *nethttp.ResponseController
	under    *conn // nil: not known
	patience time.Duration
	begun    bool
	last     string // position of what was written
	err      error  // of writing: nothing more can be said
}

// batch writes one batch, each event as soon as there is enough for a write: a batch can
// be large.
func (s *events) batch(b api.WatchBatch) error {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "text/event-stream")
		s.w.Header().Set("Cache-Control", "no-store")
		s.w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events back
		s.w.WriteHeader(nethttp.StatusOK)
	}
	var buf bytes.Buffer
	for i, e := range b.Events {
		id := ""
		if i == len(b.Events)-1 {
			id = b.Next
		}
		t, encoding := text(e.Entry.Key, e.Entry.Value)
		data := watchEvent{Key: t[0], Value: t[1], Version: e.Entry.Version, Encoding: encoding, ExpireAt: e.Entry.ExpireAt}
		if err := write(&buf, kindOf(e), id, data); err != nil {
			return err
		}
		if id == "" && buf.Len() >= pieceBytes/2 {
			if err := s.send(buf.Bytes()); err != nil {
				return err
			}
			buf.Reset()
		}
	}
	if len(b.Events) == 0 {
		if err := write(&buf, "progress", b.Next, watchProgress{b.Next}); err != nil {
			return err
		}
	}
	err := s.send(buf.Bytes())
	if s.err == nil { // it is all written, though it may be the last
		s.last = b.Next
	}
	return err
}

func kindOf(e fulcrum.Event) string {
	switch {
	case e.Expired:
		return "expire"
	case e.Entry.Tombstone:
		return "delete"
	}
	return "put"
}

// write appends one event. JSON has no line end inside, so data is one line.
func write(buf *bytes.Buffer, kind, id string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return fulcrum.Errorf(fulcrum.CodeInternal, "event: %w", err)
	}
	buf.WriteString("event: " + kind + "\n")
	if id != "" {
		buf.WriteString("id: " + id + "\n")
	}
	buf.WriteString("data: ")
	buf.Write(b)
	buf.WriteString("\n\n")
	return nil
}

// end tells why there is nothing more.
func (s *events) end(p Problem) {
	var buf bytes.Buffer
	end := watchEnd{Problem: p, After: s.last}
	if p.Code == fulcrum.CodeCompacted {
		end.After = "" // there is no going on from there
	}
	if err := write(&buf, "error", "", end); err == nil {
		_ = s.send(buf.Bytes()) // the reader may be gone
	}
}

// findWatch is the address of a keyspace's changes.
func (h *handler) findWatch(rest string) (methods, bool) {
	keyspace, err := url.PathUnescape(rest)
	if err != nil || keyspace == "" || strings.Contains(rest, "/") {
		return nil, false
	}
	return methods{nethttp.MethodGet: h.watch(keyspace)}, true
}
