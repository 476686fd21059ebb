package report

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/history"
)

// mostDots bounds the dots of one figure: more make a big file and no better picture.
const mostDots = 5000

const plotHeight = 230

// plots draws the figures of a run. What they share is worked out once.
type plots struct {
	h       *history.History
	faults  []history.Fault
	colours map[string]string
	end     time.Duration
	window  time.Duration // over which rates and quantiles are taken
	read    consistency.Level
}

// drawing is one figure under the name of its file.
type drawing struct {
	file string
	fig  *figure
}

func newPlots(run *Run) *plots {
	h := run.History
	p := &plots{h: h, faults: h.Faults(), colours: map[string]string{}, end: h.End(), read: run.Meta.Spec.Read}
	for _, f := range p.faults {
		if _, ok := p.colours[f.Name]; !ok {
			p.colours[f.Name] = fmt.Sprintf("var(--f%d)", len(p.colours)%8)
		}
	}
	p.window = roundUp(p.end / 80)
	return p
}

// roundUp returns the next of 1, 2, 5, 10, 20 ... milliseconds.
func roundUp(d time.Duration) time.Duration {
	for unit := time.Millisecond; ; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if d <= n*unit {
				return n * unit
			}
		}
	}
}

func (p *plots) all() []drawing {
	return []drawing{
		{"availability.svg", p.availability()}, {"rate.svg", p.rate()}, {"latency-raw.svg", p.latencyRaw()},
		{"latency-quantiles.svg", p.latencyQuantiles()}, {"staleness.svg", p.staleness()},
	}
}

// under begins a figure over an axis, with the faults behind it.
func (p *plots) under(title string, y axis, ticks []float64) *figure {
	f := newFigure(title, p.end, plotHeight)
	f.y = y
	f.bands(p.faults, p.colours)
	f.grid(ticks)
	f.marks(p.h)
	return f
}

func outcomeColour(o history.Outcome) string { return "var(--" + o.String() + ")" }

var outcomes = [...]history.Outcome{history.OK, history.Info, history.Fail}

var outcomeWords = [...]string{history.OK: "ok", history.Info: "unknown", history.Fail: "failed"}

func (p *plots) latencyRaw() *figure {
	var by [len(outcomeWords)][]point
	lo, hi := math.Inf(1), 0.0
	for i := range p.h.Ops {
		op := &p.h.Ops[i]
		v := (op.Return - op.Invoke).Seconds()
		if v > 0 {
			lo, hi = math.Min(lo, v), math.Max(hi, v)
		}
		by[op.Outcome] = append(by[op.Outcome], point{op.Invoke, v})
	}
	y, ticks := decades(lo, hi)
	f := p.under("Latency of every operation", y, ticks)
	for _, o := range outcomes {
		if len(by[o]) > 0 {
			f.dots(outcomeWords[o], outcomeColour(o), slowest(by[o], mostDots*len(by[o])/max(mostDots, len(p.h.Ops))))
		}
	}
	if n := len(p.h.Ops); n > mostDots {
		f.note = fmt.Sprintf("about %s of %s operations: of each few neighbours the slowest", count(mostDots), count(n))
	}
	return f
}

// slowest thins points to about most: of each few neighbours it keeps the highest, so
// that no peak is lost.
func slowest(points []point, most int) []point {
	group := (len(points) + max(most, 1) - 1) / max(most, 1)
	if group <= 1 {
		return points
	}
	var out []point
	for few := range slices.Chunk(points, group) {
		out = append(out, slices.MaxFunc(few, func(a, b point) int { return cmp.Compare(a.v, b.v) }))
	}
	return out
}

// windows puts values into the windows of their time.
func (p *plots) windows(points []point) [][]float64 {
	out := make([][]float64, int(p.end/p.window)+1)
	for _, q := range points {
		i := min(int(q.at/p.window), len(out)-1)
		out[i] = append(out[i], q.v)
	}
	return out
}

func (p *plots) middle(window int) time.Duration {
	return min(time.Duration(window)*p.window+p.window/2, p.end)
}

func (p *plots) latencyQuantiles() *figure {
	var all []point
	for i := range p.h.Ops {
		if op := &p.h.Ops[i]; op.Outcome == history.OK {
			all = append(all, point{op.Invoke, (op.Return - op.Invoke).Seconds()})
		}
	}
	return p.quantiles("Latency of what succeeded: quantiles, every "+round(p.window), all)
}

func (p *plots) quantiles(title string, all []point) *figure {
	lines := [...]struct {
		q            float64
		name, colour string
	}{{1, "max", "var(--s4)"}, {0.99, "0.99", "var(--s1)"}, {0.95, "0.95", "var(--s3)"}, {0.5, "0.5", "var(--s0)"}}
	var series [len(lines)][]point
	lo, hi := math.Inf(1), 0.0
	for w, values := range p.windows(all) {
		slices.Sort(values)
		for i, l := range lines {
			v := quantile(values, l.q)
			series[i] = append(series[i], point{p.middle(w), v})
			if v > 0 {
				lo, hi = math.Min(lo, v), math.Max(hi, v)
			}
		}
	}
	y, ticks := decades(lo, hi)
	f := p.under(title, y, ticks)
	for i, l := range lines {
		f.line(l.name, l.colour, "", series[i])
	}
	return f
}

// quantile is the nearest-rank quantile of sorted values; NaN when there are none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[max(0, min(len(sorted)-1, int(math.Ceil(q*float64(len(sorted))))-1))]
}

func (p *plots) rate() *figure {
	type kind struct {
		f history.F
		o history.Outcome
	}
	counts := map[kind][]int{}
	n := int(p.end/p.window) + 1
	for i := range p.h.Ops {
		op := &p.h.Ops[i]
		k := kind{op.F, op.Outcome}
		if counts[k] == nil {
			counts[k] = make([]int, n)
		}
		counts[k][min(int(op.Return/p.window), n-1)]++
	}
	most := 0
	for _, c := range counts {
		most = max(most, slices.Max(c))
	}
	y, ticks := linear(float64(most)/p.window.Seconds(), func(v float64) string { return fmt.Sprintf("%g/s", v) })
	f := p.under("Operations completed per second", y, ticks)
	dashes := [...]string{history.OK: "", history.Info: "2 3", history.Fail: "6 4"}
	colour := 0
	for _, name := range []history.F{history.Read, history.Scan, history.Write, history.CAS, history.Delete, history.Add, history.Incr, history.Append, history.Pair, history.Watch, history.Txn} {
		used := false
		for _, o := range outcomes {
			c := counts[kind{name, o}]
			if c == nil {
				continue
			}
			used = true
			line := make([]point, n)
			for w, v := range c {
				line[w] = point{p.middle(w), float64(v) / p.window.Seconds()}
			}
			f.line(string(name)+" "+outcomeWords[o], fmt.Sprintf("var(--s%d)", colour), dashes[o], line)
		}
		if used {
			colour++
		}
	}
	return f
}

func (p *plots) staleness() *figure {
	stale, reads := staleReads(p.h)
	if len(stale) == 0 {
		f := newFigure("Staleness of reads", p.end, 60)
		f.bands(p.faults, p.colours)
		f.timeAxis()
		what := fmt.Sprintf("None of %s reads missed a write that had been acknowledged before it.", count(reads))
		if reads == 0 {
			what = "There were no reads whose version is known."
		}
		f.text(left+plotWidth/2, top+36, "r", "middle", what)
		return f
	}
	lo, hi := math.Inf(1), 0.0
	for _, s := range stale {
		lo, hi = math.Min(lo, s.v), math.Max(hi, s.v)
	}
	if p.read.Kind == consistency.Bounded {
		hi = math.Max(hi, p.read.Bound.Seconds())
	}
	y, ticks := decades(lo, hi)
	f := p.under("Staleness of reads: how long a newer write had been acknowledged", y, ticks)
	f.note = fmt.Sprintf("%s of %s reads were stale", count(len(stale)), count(reads))
	f.dots("stale read", "var(--s3)", slowest(stale, mostDots))
	if p.read.Kind == consistency.Bounded {
		v := p.read.Bound.Seconds()
		f.line("the bound, "+p.read.Bound.String(), "var(--s4)", "7 4", []point{{0, v}, {p.end, v}})
	}
	return f
}

// staleReads returns how stale the stale reads were, in seconds, and how many reads there
// were of which that is known.
func staleReads(h *history.History) (stale []point, reads int) {
	samples := checker.StalenessOf(h)
	for _, s := range samples {
		if s.Staleness > 0 {
			stale = append(stale, point{s.Time, s.Staleness.Seconds()})
		}
	}
	return stale, len(samples)
}

// availability has a row for each node: the share of its requests that it answered.
func (p *plots) availability() *figure {
	series := checker.Availability(p.h)
	nodes := series[min(1, len(series)):] // the first is of all together
	const row, gap = 34, 10
	f := newFigure("Answered requests by node, 0 to 100 %", p.end, max(1, len(nodes))*(row+gap))
	f.bands(p.faults, p.colours)
	for i, s := range nodes {
		availabilityRow(f, s, float64(top+i*(row+gap)+gap/2), row)
	}
	f.timeAxis()
	f.marks(p.h)
	return f
}

func availabilityRow(f *figure, s checker.Series, y, height float64) {
	base := y + height
	f.printf(`<line class="grid" x1="%d" x2="%d" y1="%[3]s" y2="%[3]s"/><line class="grid" x1="%[1]d" x2="%[2]d" y1="%[4]s" y2="%[4]s"/>`,
		left, left+plotWidth, px(y), px(base))
	var area, edge []byte
	asked, answered := 0, 0
	pen := byte('M')
	for _, p := range s.Points {
		rate, ok := p.Rate()
		if !ok {
			pen = 'M'
			continue
		}
		asked, answered = asked+p.Asked, answered+p.Answered
		from, to, at := px(f.x(p.Time)), px(f.x(p.Time+s.Step)), px(base-height*rate)
		area = fmt.Appendf(area, "M%s %sV%sH%sV%s", from, px(base), at, to, px(base))
		edge = fmt.Appendf(edge, "%c%s %sH%s", pen, from, at, to)
		pen = 'L'
	}
	f.printf(`<path class="area" style="fill:var(--s2)" d="%s"/><path class="line" style="stroke:var(--s2)" d="%s"/>`, area, edge)
	f.text(left-8, y+height/2-1, "r", "end", string(s.Node))
	f.text(left-8, y+height/2+13, "m", "end", percent(float64(answered), asked))
}

// percent never rounds up to 100: what is not all must not look like it.
func percent(part float64, of int) string {
	if of == 0 {
		return "-"
	}
	v := 100 * part / float64(of)
	if v < 100 {
		v = math.Min(v, 99.99)
	}
	return fmt.Sprintf("%.4g %%", v)
}

func bit(hits int64) string {
	if hits < 0 {
		return "not known whether it bit"
	}
	return "bit " + plural(int(hits), "time")
}

// faultRows has a row for each fault: when it was active and how often it bit.
func (p *plots) faultRows() *figure {
	var names []string
	hits, times := map[string]int64{}, map[string]int{}
	for _, x := range p.faults {
		if times[x.Name]++; times[x.Name] == 1 {
			names = append(names, x.Name)
		}
		if x.Hits < 0 { // one that is not known makes the sum unknown
			hits[x.Name] = -1
		} else if hits[x.Name] >= 0 {
			hits[x.Name] += x.Hits
		}
	}
	const row, label, bar = 40, 15, 16
	f := newFigure("Faults and when they were active", p.end, max(1, len(names))*row+4)
	if len(names) == 0 {
		f.text(left+plotWidth/2, top+24, "r", "middle", "No fault was active in this run.")
	}
	f.marks(p.h)
	for i, n := range names {
		y := top + i*row
		f.text(left, float64(y+label), "r", "start", n)
		f.text(figureWidth-right, float64(y+label), "m", "end", plural(times[n], "time")+", "+bit(hits[n]))
		f.printf(`<rect class="track" x="%d" y="%d" width="%d" height="%d" rx="2"/>`, left, y+label+5, plotWidth, bar)
		for _, x := range p.faults {
			if x.Name == n {
				f.printf(`<rect class="bar" style="fill:%s" x="%s" y="%d" width="%s" height="%d" rx="2"><title>%s</title></rect>`,
					p.colours[n], px(f.x(x.Start)), y+label+5, px(math.Max(2, f.x(x.End)-f.x(x.Start))), bar, html.EscapeString(x.Name+" "+x.Value))
			}
		}
	}
	f.timeAxis()
	return f
}
