package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	stripes     = 8             // recorders, so that clients do not wait for each other
	maxPrefixes = 32            // different errors that are told apart
	longest     = 3_600_000_000 // µs
)

// recorder counts what some of the clients saw. Errors are counted, and apart from
// latencies: a store that refuses quickly is not a quick one.
type recorder struct {
	mu     sync.Mutex
	kinds  []tally // by slot
	second tally   // all kinds, since the last look
}

type tally struct {
	latency *hdrhistogram.Histogram // µs, of operations that were done
	missing int64
	errors  map[string]int64
	texts   map[string]string // the first error reply of each prefix
}

func newTally(digits int) tally {
	return tally{latency: hdrhistogram.New(1, longest, digits), errors: map[string]int64{}, texts: map[string]string{}}
}

func (t *tally) done(d time.Duration) {
	_ = t.latency.RecordValue(min(max(d.Microseconds(), 1), longest))
}

func (t *tally) fail(word, text string, n int64) {
	if _, known := t.errors[word]; !known && len(t.errors) >= maxPrefixes {
		word = ErrOther
	}
	t.errors[word] += n
	if t.texts[word] == "" && text != "" {
		t.texts[word] = text
	}
}

func (t *tally) add(other *tally) {
	t.latency.Merge(other.latency)
	t.missing += other.missing
	for word, n := range other.errors {
		t.fail(word, other.texts[word], n)
	}
}

func newRecorders(mix Mix) []*recorder {
	all := make([]*recorder, stripes)
	for i := range all {
		all[i] = &recorder{second: newTally(2)}
		for range mix {
			all[i].kinds = append(all[i].kinds, newTally(3))
		}
	}
	return all
}

// batch counts the answers of a batch: the first n came, the others have the word for
// what happened instead.
func (r *recorder) batch(sent time.Time, ops []Op, answers []Answer, n int, rest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range ops {
		t := &r.kinds[ops[i].slot]
		if i >= n || answers[i].Err != "" {
			word, text := rest, ""
			if i < n {
				word, text = answers[i].Err, answers[i].Text
			}
			t.fail(word, text, 1)
			r.second.fail(word, "", 1)
			continue
		}
		from := sent
		if !ops[i].due.IsZero() {
			from = ops[i].due
		}
		d := answers[i].At.Sub(from)
		t.done(d)
		r.second.done(d)
		if answers[i].Missing {
			t.missing++
		}
	}
}

// lastSecond sums up what came since it was asked last.
func lastSecond(all []*recorder) tally {
	sum := newTally(2)
	for _, r := range all {
		r.mu.Lock()
		sum.add(&r.second)
		r.second.latency.Reset()
		clear(r.second.errors)
		r.mu.Unlock()
	}
	return sum
}

// perKind sums up the recorders.
func perKind(all []*recorder, mix Mix) []tally {
	sums := make([]tally, len(mix))
	for i := range mix {
		sums[i] = newTally(3)
		for _, r := range all {
			r.mu.Lock()
			sums[i].add(&r.kinds[i])
			r.mu.Unlock()
		}
	}
	return sums
}

// Latency is a distribution, in microseconds. Percentiles are exact to three digits.
type Latency struct {
	Mean float64 `json:"mean_us"`
	P50  int64   `json:"p50_us"`
	P90  int64   `json:"p90_us"`
	P99  int64   `json:"p99_us"`
	P999 int64   `json:"p999_us"`
	Max  int64   `json:"max_us"`
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	return Latency{Mean: float64(int64(h.Mean()*10)) / 10, P50: h.ValueAtQuantile(50), P90: h.ValueAtQuantile(90),
		P99: h.ValueAtQuantile(99), P999: h.ValueAtQuantile(99.9), Max: h.Max()}
}

// KindResult is what one kind of operation did.
type KindResult struct {
	Kind       string           `json:"kind"`
	Operations int64            `json:"operations"` // done
	OpsPerSec  float64          `json:"ops_per_second"`
	Missing    int64            `json:"missing"` // of these, found no key
	Errors     map[string]int64 `json:"errors"`  // by prefix
	Latency    Latency          `json:"latency"`
}

// Second is one second of a run.
type Second struct {
	At        float64          `json:"at"` // seconds since the begin, of the end of it
	OpsPerSec float64          `json:"ops_per_second"`
	P50       int64            `json:"p50_us"`
	P99       int64            `json:"p99_us"`
	Errors    map[string]int64 `json:"errors,omitempty"`
}

// Loaded is how the keys were written before the run.
type Loaded struct {
	Keys      int     `json:"keys"`
	Seconds   float64 `json:"seconds"`
	OpsPerSec float64 `json:"ops_per_second"`
	Retries   int64   `json:"retries"` // operations sent again after an error
}

// Result is what was measured. Names are stable; fields are only ever added.
type Result struct {
	Version     string            `json:"version"` // of the generator
	Target      string            `json:"target"`
	Endpoints   []string          `json:"endpoints"`
	Began       time.Time         `json:"began"`
	Seconds     float64           `json:"seconds"`
	Interrupted bool              `json:"interrupted"`
	Options     Options           `json:"options"`
	Load        *Loaded           `json:"load,omitempty"`
	Warmup      int64             `json:"warmup_operations"` // done, and not in the figures
	Operations  int64             `json:"operations"`        // done
	OpsPerSec   float64           `json:"ops_per_second"`
	Failed      int64             `json:"failed"`
	Errors      map[string]int64  `json:"errors"`
	Texts       map[string]string `json:"error_texts,omitempty"` // the first error reply of each prefix
	NotSent     int64             `json:"not_sent"`              // open loop: due, and never sent, because the store was too far behind
	Latency     Latency           `json:"latency"`
	Kinds       []KindResult      `json:"kinds"`
	Series      []Second          `json:"series"` // the first hour
}

// sum fills in what the recorders counted in a time.
func (r *Result) sum(all []*recorder, mix Mix, took time.Duration) {
	r.Seconds = took.Seconds()
	whole := newTally(3)
	for i, t := range perKind(all, mix) {
		n := t.latency.TotalCount()
		r.Kinds = append(r.Kinds, KindResult{Kind: mix[i].String(), Operations: n, OpsPerSec: rate(n, took), Missing: t.missing, Errors: t.errors, Latency: latencyOf(t.latency)})
		whole.add(&t)
	}
	r.Operations = whole.latency.TotalCount()
	r.OpsPerSec = rate(r.Operations, took)
	r.Errors, r.Texts, r.Latency = whole.errors, whole.texts, latencyOf(whole.latency)
	for _, n := range whole.errors {
		r.Failed += n
	}
}

func rate(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(int64(float64(n)/d.Seconds()*10)) / 10
}
