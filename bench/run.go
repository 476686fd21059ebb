package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
)

// Progress is told how far a run is. Nil functions are not called.
type Progress struct {
	Load   func(done, total int)
	Second func(Second)
}

// Run connects the clients, writes the keys if asked, warms up, measures, and says what
// was measured; also when ctx ends before. An error means that nothing was.
func Run(ctx context.Context, o Options, t Target, p Progress) (*Result, error) {
	if err := o.Complete(); err != nil {
		return nil, err
	}
	mix, err := ParseMix(o.Mix)
	if err != nil {
		return nil, err
	}
	g := &generator{o: o, mix: mix, target: t, values: newValues(o.ValueSize, o.Seed)}
	defer g.close()
	if err := g.connect(ctx); err != nil {
		return nil, err
	}
	r := &Result{Began: time.Now().UTC(), Options: o}
	if o.Load {
		if r.Load, err = g.load(ctx, p.Load); err != nil {
			return nil, err
		}
	}
	if o.Warmup > 0 {
		warm := g.phase(newPhase(o, time.Duration(o.Warmup), 0))
		g.drive(ctx, warm, nil)
		var sum Result
		sum.sum(warm.recorders, mix, time.Second)
		r.Warmup = sum.Operations
	}
	r.Began = time.Now().UTC()
	ph := g.phase(newPhase(o, time.Duration(o.Duration), o.Ops))
	g.drive(ctx, ph, func(s Second) {
		if len(r.Series) < maxSeries {
			r.Series = append(r.Series, s)
		}
		if p.Second != nil {
			p.Second(s)
		}
	})
	r.sum(ph.recorders, mix, ph.ended.Sub(ph.begin))
	r.NotSent = ph.notSent()
	r.Interrupted = ctx.Err() != nil
	return r, nil
}

const (
	maxSeries      = 3600
	connectAtOnce  = 64
	reconnectPause = 50 * time.Millisecond
)

// generator is one run: its clients live through all phases.
type generator struct {
	o       Options
	mix     Mix
	target  Target
	values  *values
	clients []*client
}

// client is one connection and what it needs to make operations. One goroutine at a time
// uses it.
type client struct {
	g       *generator
	id      int
	session Session // nil: the connection was lost
	r       *rand.Rand
	keys    *chooser
	ops     []Op
	answers []Answer
	numbers []uint64 // space for the keys of a batch
}

// connect opens all connections, some at a time.
func (g *generator) connect(ctx context.Context) error {
	slots := make(chan struct{}, connectAtOnce)
	errs := make([]error, g.o.Clients)
	var all sync.WaitGroup
	for i := range g.o.Clients {
		c := &client{g: g, id: i, r: rand.New(rand.NewChaCha8(seedOf(g.o.Seed, uint64(i)+2))), ops: make([]Op, g.o.Pipeline), answers: make([]Answer, g.o.Pipeline)}
		c.keys = newChooser(g.o.Keys, g.o.Zipf, c.r)
		g.clients = append(g.clients, c)
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			c.session, errs[i] = g.target.Connect(ctx, i)
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (g *generator) close() {
	for _, c := range g.clients {
		if c.session != nil {
			c.session.Close()
		}
	}
}

func (g *generator) phase(ph *phase) *phase {
	ph.recorders = newRecorders(g.mix)
	return ph
}

// drive lets all clients work until the phase is over, and looks every second.
func (g *generator) drive(ctx context.Context, ph *phase, each func(Second)) {
	ph.start()
	stop := make(chan struct{})
	var watcher, clients sync.WaitGroup
	if each != nil {
		watcher.Go(func() { ph.watch(stop, each) })
	}
	if ph.rate > 0 {
		watcher.Go(func() { ph.dispatch(ctx) })
	}
	for _, c := range g.clients {
		clients.Go(func() { c.work(ctx, ph) })
	}
	clients.Wait()
	ph.ended = time.Now()
	close(stop)
	watcher.Wait()
}

// work is a client's life in a phase.
func (c *client) work(ctx context.Context, ph *phase) {
	rec := ph.recorders[c.id%len(ph.recorders)]
	for ctx.Err() == nil {
		n := ph.take(ctx, c.ops)
		if n == 0 {
			return
		}
		ops := c.ops[:n]
		c.fill(ops)
		sent := time.Now()
		if c.session == nil && !c.reconnect(ctx) {
			if ctx.Err() == nil {
				rec.batch(sent, ops, c.answers, 0, ErrConnect)
			}
			continue
		}
		got, err := c.session.Do(sent, ops, c.answers)
		if err != nil {
			c.session.Close()
			c.session = nil
			if ctx.Err() != nil { // interrupted: the rest has no outcome to count
				rec.batch(sent, ops[:got], c.answers, got, "")
				return
			}
		}
		rec.batch(sent, ops, c.answers, got, wordFor(err))
	}
}

// reconnect tries once; if it cannot, it pauses, so that a store that is away is not
// flooded.
func (c *client) reconnect(ctx context.Context) bool {
	s, err := c.g.target.Connect(ctx, c.id)
	if err == nil {
		c.session = s
		return true
	}
	select {
	case <-ctx.Done():
	case <-time.After(reconnectPause):
	}
	return false
}

// fill makes the operations of a batch.
func (c *client) fill(ops []Op) {
	c.numbers = c.numbers[:0]
	for i := range ops {
		slot := c.g.mix.pick(c.r)
		k := c.g.mix[slot]
		from := len(c.numbers)
		for range k.keys() {
			c.numbers = append(c.numbers, c.keys.next())
		}
		ops[i].Kind, ops[i].slot, ops[i].Keys, ops[i].Value = k, slot, c.numbers[from:], nil
		if k.Verb.Valued() {
			ops[i].Value = c.g.values.cut(c.r)
		}
	}
}

const (
	loadBatch    = 32
	loadAttempts = 20
	loadPause    = 250 * time.Millisecond
)

// load writes every key of the get and set family once. What fails is sent again.
func (g *generator) load(ctx context.Context, progress func(done, total int)) (*Loaded, error) {
	var next, retries atomic.Int64
	errs := make([]error, len(g.clients))
	began := time.Now()
	loadCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	for i, c := range g.clients {
		all.Go(func() {
			if errs[i] = c.load(loadCtx, &next, &retries); errs[i] != nil {
				cancel()
			}
		})
	}
	finished := make(chan struct{})
	go func() { all.Wait(); close(finished) }()
	for done := false; !done; {
		select {
		case <-finished:
			done = true
		case <-time.After(200 * time.Millisecond):
		}
		if progress != nil {
			progress(min(int(next.Load()), g.o.Keys), g.o.Keys)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	took := time.Since(began)
	return &Loaded{Keys: g.o.Keys, Seconds: took.Seconds(), OpsPerSec: rate(int64(g.o.Keys), took), Retries: retries.Load()}, nil
}

func (c *client) load(ctx context.Context, next, retries *atomic.Int64) error {
	ops, answers := make([]Op, 0, loadBatch), make([]Answer, loadBatch)
	numbers := make([]uint64, loadBatch)
	for {
		from := next.Add(loadBatch) - loadBatch
		if from >= int64(c.g.o.Keys) || ctx.Err() != nil {
			return ctx.Err()
		}
		ops = ops[:0]
		for n := from; n < min(from+loadBatch, int64(c.g.o.Keys)); n++ {
			numbers[n-from] = uint64(n)
			ops = append(ops, Op{Kind: Kind{Verb: Set, N: 1}, Keys: numbers[n-from:][:1], Value: c.g.values.cut(c.r)})
		}
		if err := c.loadBatch(ctx, ops, answers, retries); err != nil {
			return err
		}
	}
}

// loadBatch writes a batch, and again what was not acknowledged.
func (c *client) loadBatch(ctx context.Context, ops []Op, answers []Answer, retries *atomic.Int64) error {
	word := ""
	for range loadAttempts {
		got := 0
		if c.session != nil || c.reconnect(ctx) {
			var err error
			if got, err = c.session.Do(time.Now(), ops, answers); err != nil {
				c.session.Close()
				c.session, word = nil, wordFor(err)
			}
		} else {
			word = ErrConnect
		}
		left := ops[:0]
		for i := range ops {
			if i >= got || answers[i].Err != "" {
				left = append(left, ops[i])
			}
			if i < got && answers[i].Err != "" {
				word = answers[i].Err
			}
		}
		if ops = left; len(ops) == 0 {
			return nil
		}
		retries.Add(int64(len(ops)))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(loadPause):
		}
	}
	return fulcrum.Errorf(fulcrum.CodeUnavailable, "keys could not be loaded: %d times in a row the store answered %s", loadAttempts, word).
		WithHint("see fulcrum status, and what a single SET says")
}
