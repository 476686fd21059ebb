package client

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"fulcrum"
)

// Watch says what to tell: the changes to one Key, or to keys with Prefix, from Start on,
// before End (empty: no end).
type Watch struct {
	Key                string
	Prefix, Start, End string
	// After is the Next of a batch, to miss nothing and repeat nothing since, or a version
	// in its text form: changes newer than it. Empty: from now on.
	After string

	// Trouble, if it is there, is called whenever the watch cannot begin or go on at a node
	// and will try again, with the reason, and with nil when it is under way after that.
	// Meanwhile nothing is told and nothing is missed. It is called between batches.
	Trouble func(error)
	// Patience is how long the watch may find no node to be under way at: then it ends with
	// the last reason, as fulcrum.ErrUnavailable. 0: it tries for as long as it takes.
	Patience time.Duration
}

// Batch is what happened next, in order. All changes of one request are in one batch.
type Batch struct {
	Changes []Change // none: nothing happened up to Next
	Next    string   // the After of a watch that goes on from here
}

// The kinds of Change.
const (
	Put     = "put"
	Deleted = "delete"
	Expired = "expire" // its time ran out: nobody removed it
)

// Change is one change to a key.
type Change struct {
	Kind     string
	Key      string // any bytes
	Value    []byte // Put only
	Version  fulcrum.Version
	ExpireAt time.Time // zero: never
}

// silence is how long a watch may say nothing before its node counts as gone: several
// signs of life are missing then.
const silence = 20 * time.Second

// maxLine bounds a line of the stream: a value in base64, and then some.
const maxLine = 64 << 20

// Watch tells changes as they come, until ctx ends, which is no error. The first batch
// comes at once, and says from where on nothing is missed. When the node ends, is cut off
// or falls silent, the watch goes on at another one, or with On at this one, right behind
// the last batch: changes come in order, each once, with no gap. Meanwhile Watch.Trouble
// is told, and Watch.Patience says how long that may last. An error ends the sequence:
// fulcrum.ErrCompacted says that changes behind the last batch are no longer kept; then
// watch anew, read the keys, and go on with what the watch tells. Of the options On and
// NoRetry count.
func (c *Client) Watch(ctx context.Context, keyspace string, w Watch, opts ...CallOption) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		o := c.call(opts)
		g := &going{Watch: w, stopped: time.Now()}
		for {
			err := c.watchOnce(ctx, keyspace, g, o, yield)
			switch e := fulcrum.AsError(err); {
			case e == nil || ctx.Err() != nil:
				return
			case !again(e) || o.attempts == 1:
				yield(Batch{}, e)
				return
			default:
				if err := g.stops(e); err != nil {
					yield(Batch{}, err)
					return
				}
			}
			if !sleep(ctx, g.pause()) {
				return
			}
		}
	}
}

// watchOnce watches at one node, for as long as that goes.
func (c *Client) watchOnce(ctx context.Context, keyspace string, g *going, o call, yield func(Batch, error) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if g.Patience > 0 {
		end := time.AfterFunc(g.left(), func() {
			cancel(errNotBegun)
		})
		defer end.Stop()
		g.begun = func() { end.Stop() }
	}
	targets, err := c.targets(ctx, o, c.everyone)
	if err != nil {
		return err
	}
	target := targets[g.attempt%len(targets)]
	return c.stream(ctx, keyspace, g.Watch, target, func(b Batch) bool {
		if !g.stopped.IsZero() {
			c.prefer(target)
			g.on()
		}
		g.After = b.Next
		return yield(b, nil)
	})
}

// going is how a watch goes on: from where, and for how long it has not.
type going struct {
	Watch
	attempt int       // since it was under way
	stopped time.Time // zero: it is under way
	why     *fulcrum.Error
	told    bool   // Trouble was
	begun   func() // nil: none
}

// on notes that the watch is under way.
func (g *going) on() {
	g.attempt, g.stopped, g.why = 0, time.Time{}, nil
	if g.begun != nil {
		g.begun()
	}
	if g.told {
		g.told = false
		g.Trouble(nil)
	}
}

// stops notes that the watch cannot go on now, and says whether that ends it.
func (g *going) stops(why *fulcrum.Error) error {
	if g.stopped.IsZero() {
		g.stopped = time.Now()
	}
	if g.why == nil || !errors.Is(why, errNotBegun) { // that one had no time to answer
		g.why = why
	}
	if g.Patience > 0 && g.left() <= 0 {
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "no node to watch at for %s: %w", g.Patience, g.why)
	}
	if g.attempt++; g.Trouble != nil {
		g.told = true
		g.Trouble(why)
	}
	return nil
}

// left is what is left of the patience.
func (g *going) left() time.Duration {
	if g.stopped.IsZero() {
		return g.Patience
	}
	return g.Patience - time.Since(g.stopped)
}

// pause is how long to wait before the next attempt.
func (g *going) pause() time.Duration {
	d := min(20*time.Millisecond<<min(g.attempt-1, 10), 2*time.Second)
	d = d/2 + rand.N(d/2)
	if g.Patience > 0 {
		d = min(d, max(0, g.left()))
	}
	return d
}

// again reports whether another node, or this one later, may go on with a watch.
func again(e *fulcrum.Error) bool { return retryable(e) || e.Code == fulcrum.CodeDisk }

// errEnough ends a stream that the caller has enough of; the others one that tells nothing.
var (
	errEnough   = errors.New("enough")
	errSilent   = fmt.Errorf("nothing for %s", silence)
	errNotBegun = errors.New("it has not begun to tell")
)

// stream watches at one node until ctx ends, each returns false (nil) or it cannot go on.
func (c *Client) stream(ctx context.Context, keyspace string, w Watch, base string, each func(Batch) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer quiet.Stop()
	rq := request{op: "watch", method: http.MethodGet, read: true, path: []string{"v1", "watch", keyspace}, query: call{}.values(), header: make(http.Header)}
	for name, v := range map[string]string{"key": w.Key, "prefix": w.Prefix, "start": w.Start, "end": w.End, "after": w.After} {
		if v != "" {
			rq.query.Set(name, v)
		}
	}
	hr, err := newRequest(ctx, rq, base)
	if err != nil {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
	}
	hr.Header.Set("Accept", "text/event-stream")
	resp, err := c.http.Do(hr)
	if err != nil {
		return sendError(rq, base, because(ctx, err), false)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		a := answer{status: resp.StatusCode, header: resp.Header, base: base}
		a.body, _ = io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what there is of it says why
		return problemError(rq, a)
	}
	err = readStream(resp.Body, func() { quiet.Reset(silence) }, func(b Batch) error {
		// The caller takes its time: meanwhile the node is not to blame for silence.
		quiet.Stop()
		defer quiet.Reset(silence)
		if !each(b) {
			return errEnough
		}
		return nil
	})
	var told *fulcrum.Error
	switch {
	case errors.Is(err, errEnough):
		return nil
	case errors.As(err, &told):
		return told
	}
	return sendError(rq, base, because(ctx, err), false)
}

// because returns why ctx was cancelled, if it was, in the place of err, which only says
// that.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readStream reads Server-Sent Events and hands over whole batches: what comes without
// the id that ends it is dropped, and told again by whoever goes on.
func readStream(r io.Reader, heard func(), each func(Batch) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var b Batch
	var event, id, data string
	for {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		heard()
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case name == "event":
			event = value
		case name == "id":
			id = value
		case name == "data":
			data += value
		case line == "" && event == "error":
			return streamError(data)
		case line == "" && event != "":
			if event != "progress" {
				change, err := changeOf(event, data)
				if err != nil {
					return err
				}
				b.Changes = append(b.Changes, change)
			}
			if id != "" {
				b.Next = id
				if err := each(b); err != nil {
					return err
				}
				b = Batch{}
			}
			event, id, data = "", "", ""
		}
	}
}

// readLine reads a line of any length up to the bound, without its end.
func readLine(in *bufio.Reader) (string, error) {
	var whole []byte
	for {
		part, err := in.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(whole) < maxLine:
			continue
		case errors.Is(err, bufio.ErrBufferFull):
			return "", fulcrum.Errorf(fulcrum.CodeTooLarge, "a line of over %d bytes in a watch", maxLine)
		case err == io.EOF:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		}
		return strings.TrimRight(string(whole), "\r\n"), nil
	}
}

func changeOf(kind, data string) (Change, error) {
	var e struct {
		Key, Value, Encoding string
		Version              fulcrum.Version
		ExpireAt             int64 `json:"expire_at"`
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		return Change{}, fulcrum.Errorf(fulcrum.CodeInternal, "event of a watch: %w", err)
	}
	c := Change{Kind: kind, Key: e.Key, Value: []byte(e.Value), Version: e.Version}
	if e.Encoding == "base64" {
		key, err := base64.StdEncoding.DecodeString(e.Key)
		if err == nil {
			c.Value, err = base64.StdEncoding.DecodeString(e.Value)
		}
		if err != nil {
			return Change{}, fulcrum.Errorf(fulcrum.CodeInternal, "event of a watch: %w", err)
		}
		c.Key = string(key)
	}
	if kind != Put {
		c.Value = nil
	}
	if e.ExpireAt != 0 {
		c.ExpireAt = time.UnixMilli(e.ExpireAt)
	}
	return c, nil
}

func streamError(data string) error {
	return problemError(request{op: "watch", read: true}, answer{body: []byte(data), header: make(http.Header)})
}
