package report

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
	"time"

	"fulcrum/jepsen-lite/history"
)

// The size of a figure, in pixels of its own coordinates; pages scale it.
const (
	figureWidth = 960
	left        = 76 // of the plotting area
	right       = 20
	top         = 34
	axisHeight  = 24 // below the plotting area
	plotWidth   = figureWidth - left - right
	legendLine  = 20
)

// style colours figures and pages alike, in light and in dark. A figure in a file of
// its own carries it along; a page has it once.
const style = `:root{color-scheme:light dark;--bg:#fff;--fg:#1b2330;--soft:#5c6675;--grid:#e6e9ee;--axis:#b9c0ca;--card:#f7f8fa;
--s0:#2563c9;--s1:#d97706;--s2:#0f8a6a;--s3:#9333b8;--s4:#c2344b;--s5:#0e7490;--s6:#7a5a1e;--s7:#64748b;
--ok:#2563c9;--info:#d98a06;--fail:#cf3346;--f0:#e5484d;--f1:#f0a020;--f2:#8e5bd6;--f3:#12a594;--f4:#d6409f;--f5:#5b7c1e;--f6:#3e8ed0;--f7:#8a6d5b}
@media(prefers-color-scheme:dark){:root{--bg:#12161d;--fg:#e4e8ee;--soft:#98a2b0;--grid:#262d38;--axis:#4a5462;--card:#1a1f28;
--s0:#6ea3ff;--s1:#f2a93b;--s2:#3fc79a;--s3:#c98af0;--s4:#f2708a;--s5:#4cc3dc;--s6:#cfa85a;--s7:#9aa7b8;
--ok:#6ea3ff;--info:#f2b33b;--fail:#f2667a;--f0:#ff6369;--f1:#ffb224;--f2:#a97bf0;--f3:#2cc5b2;--f4:#f06bc0;--f5:#9ab84a;--f6:#6cb8f0;--f7:#b8998a}}
svg.figure{background:var(--bg);font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;display:block}
svg.figure text{fill:var(--soft)}svg.figure .t{fill:var(--fg);font-size:13.5px;font-weight:600}svg.figure .r{fill:var(--fg)}
svg.figure .grid{stroke:var(--grid);stroke-width:1}svg.figure .axis{stroke:var(--axis);stroke-width:1}
svg.figure .line{fill:none;stroke-width:1.7;stroke-linejoin:round}svg.figure .dots{fill:none;stroke-width:3;stroke-linecap:round;stroke-opacity:.62}
svg.figure .area{fill-opacity:.2;stroke:none}svg.figure .band{fill-opacity:.13}svg.figure .bar{fill-opacity:.9}svg.figure .track{fill:var(--card)}
svg.figure .mark{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3}svg.figure .m{font-size:11px;paint-order:stroke;stroke:var(--bg);stroke-width:3px;stroke-linejoin:round}
`

// axis is the vertical axis of a figure.
type axis struct {
	min, max float64
	log      bool
	label    func(v float64) string
}

// point is one value at one time.
type point struct {
	at time.Duration
	v  float64
}

// figure is one SVG under construction. Everything that is drawn against time goes
// through x, so that all figures of a run lie under each other.
type figure struct {
	title  string
	note   string // right of the title
	end    time.Duration
	height int // of the plotting area
	y      axis
	body   bytes.Buffer
	legend []legend
}

// legend explains one colour, a CSS one.
type legend struct {
	name, colour string
	dash         string
	band         bool
}

func newFigure(title string, end time.Duration, height int) *figure {
	return &figure{title: title, end: max(end, time.Millisecond), height: height}
}

func (f *figure) x(t time.Duration) float64 {
	return left + plotWidth*math.Min(1, math.Max(0, float64(t)/float64(f.end)))
}

// at is where v lies vertically; what is off the axis lies on its end.
func (f *figure) at(v float64) float64 {
	lo, hi := f.y.min, f.y.max
	if f.y.log {
		v, lo, hi = math.Log10(math.Max(v, lo)), math.Log10(lo), math.Log10(hi)
	}
	return top + float64(f.height)*(1-math.Min(1, math.Max(0, (v-lo)/(hi-lo))))
}

func (f *figure) printf(format string, args ...any) { fmt.Fprintf(&f.body, format, args...) }

func (f *figure) text(x, y float64, class, anchor, s string) {
	f.printf(`<text x="%s" y="%s" class="%s" text-anchor="%s">%s</text>`, px(x), px(y), class, anchor, html.EscapeString(s))
}

func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// bands shades the intervals in which faults were active.
func (f *figure) bands(faults []history.Fault, colours map[string]string) {
	named := map[string]bool{}
	for _, x := range faults {
		from, to := f.x(x.Start), f.x(x.End)
		f.printf(`<rect class="band" style="fill:%s" x="%s" y="%d" width="%s" height="%d"><title>%s</title></rect>`,
			colours[x.Name], px(from), top, px(math.Max(1, to-from)), f.height, html.EscapeString(x.Name+" "+x.Value))
		if !named[x.Name] {
			named[x.Name] = true
			f.legend = append(f.legend, legend{name: x.Name, colour: colours[x.Name], band: true})
		}
	}
}

// marks draws a line where a phase of the run began.
func (f *figure) marks(h *history.History) {
	last := math.Inf(-1)
	for _, name := range []string{history.PhaseHeal, history.PhaseRecovered, history.PhaseFinal} {
		t, ok := h.Mark(name)
		if !ok {
			continue
		}
		x := f.x(t)
		f.printf(`<line class="mark" x1="%[1]s" x2="%[1]s" y1="%[2]d" y2="%[3]d"><title>%[4]s</title></line>`, px(x), top, top+f.height, name)
		if x-last > 62 { // or the words run into each other
			f.text(x, top-4, "m", "middle", name)
			last = x
		}
	}
}

// grid draws both axes: the lines first, so that data lies upon them.
func (f *figure) grid(ticks []float64) {
	for _, v := range ticks {
		y := f.at(v)
		f.printf(`<line class="grid" x1="%d" x2="%d" y1="%[3]s" y2="%[3]s"/>`, left, left+plotWidth, px(y))
		f.text(left-8, y+4, "", "end", f.y.label(v))
	}
	f.timeAxis()
}

func (f *figure) timeAxis() {
	bottom := top + f.height
	f.printf(`<line class="axis" x1="%d" x2="%d" y1="%[3]d" y2="%[3]d"/>`, left, left+plotWidth, bottom)
	step := timeStep(f.end)
	for t := time.Duration(0); t <= f.end; t += step {
		x := f.x(t)
		f.printf(`<line class="axis" x1="%[1]s" x2="%[1]s" y1="%[2]d" y2="%[3]d"/>`, px(x), bottom, bottom+4)
		f.text(x, float64(bottom)+17, "", "middle", clock(t))
	}
}

// line draws points as one line. A point that is NaN breaks it.
func (f *figure) line(name, colour, dash string, points []point) {
	var d []byte
	pen := byte('M')
	for i, p := range points {
		if math.IsNaN(p.v) {
			pen = 'M'
			continue
		}
		d = append(d, pen)
		d = append(append(append(d, px(f.x(p.at))...), ' '), px(f.at(p.v))...)
		if alone := pen == 'M' && (i+1 == len(points) || math.IsNaN(points[i+1].v)); alone {
			d = append(d, "h2"...)
		}
		pen = 'L'
	}
	f.printf(`<path class="line" style="stroke:%s" stroke-dasharray="%s" d="%s"/>`, colour, dash, d)
	f.legend = append(f.legend, legend{name: name, colour: colour, dash: dash})
}

// dots draws each point as a dot, all of them in one path.
func (f *figure) dots(name, colour string, points []point) {
	var d []byte
	for _, p := range points {
		d = append(append(append(append(d, 'M'), px(f.x(p.at))...), ' '), px(f.at(p.v))...)
		d = append(d, "h0"...)
	}
	f.printf(`<path class="dots" style="stroke:%s" d="%s"/>`, colour, d)
	f.legend = append(f.legend, legend{name: name, colour: colour})
}

// svg ends the figure. With alone it carries its style, to be a file of its own.
func (f *figure) svg(alone bool) []byte {
	keys, lines := f.keys(top + f.height + axisHeight + 14)
	height := top + f.height + axisHeight + lines*legendLine + 6
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox="0 0 %d %d" width="100%%" role="img" aria-label="%s">`,
		figureWidth, height, html.EscapeString(f.title))
	if alone {
		fmt.Fprintf(&out, "<style>%s</style>", style)
	}
	fmt.Fprintf(&out, `<text class="t" x="%d" y="18">%s</text>`, 8, html.EscapeString(f.title))
	if f.note != "" {
		fmt.Fprintf(&out, `<text class="m" x="%d" y="18" text-anchor="end">%s</text>`, figureWidth-right, html.EscapeString(f.note))
	}
	out.Write(f.body.Bytes())
	out.Write(keys)
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// keys draws the legend from y on and returns how many lines it took.
func (f *figure) keys(y int) ([]byte, int) {
	if len(f.legend) == 0 {
		return nil, 0
	}
	var out bytes.Buffer
	const char = 6.6 // roughly the width of one at 12 pixels
	x, lines := float64(left), 1
	for _, l := range f.legend {
		width := 22 + char*float64(len([]rune(l.name))) + 16
		if x+width > figureWidth-right && x > left {
			x, y, lines = left, y+legendLine, lines+1
		}
		if l.band {
			fmt.Fprintf(&out, `<rect class="band" style="fill:%s;fill-opacity:.38" x="%s" y="%d" width="14" height="12" rx="2"/>`, l.colour, px(x), y-5)
		} else {
			fmt.Fprintf(&out, `<path class="line" style="stroke:%s;stroke-width:3" stroke-dasharray="%s" d="M%s %dh14"/>`, l.colour, l.dash, px(x), y+1)
		}
		fmt.Fprintf(&out, `<text x="%s" y="%d">%s</text>`, px(x+20), y+5, html.EscapeString(l.name))
		x += width
	}
	return out.Bytes(), lines
}

// timeStep is the distance between the labels of a time axis: at most ten of them.
func timeStep(end time.Duration) time.Duration {
	for _, unit := range []struct {
		of    time.Duration
		steps []time.Duration
	}{
		{time.Millisecond, []time.Duration{1, 2, 5, 10, 20, 50, 100, 200, 500}}, {time.Second, []time.Duration{1, 2, 5, 10, 15, 30}},
		{time.Minute, []time.Duration{1, 2, 5, 10, 15, 30}}, {time.Hour, []time.Duration{1, 2, 4, 6, 12}},
	} {
		for _, s := range unit.steps {
			if end <= 10*s*unit.of {
				return s * unit.of
			}
		}
	}
	return (end/10 + 24*time.Hour - 1).Truncate(24 * time.Hour)
}

// clock is t as an axis shows it: "250 ms", "40 s", "1:30 min", "2:15 h".
func clock(t time.Duration) string {
	switch {
	case t == 0:
		return "0"
	case t%time.Second != 0:
		return t.String()
	case t < 2*time.Minute && t%time.Minute != 0:
		return fmt.Sprintf("%d s", t/time.Second)
	case t < time.Hour && t%time.Minute == 0:
		return fmt.Sprintf("%d min", t/time.Minute)
	case t < time.Hour:
		return fmt.Sprintf("%d:%02d min", t/time.Minute, t%time.Minute/time.Second)
	}
	return fmt.Sprintf("%d:%02d h", t/time.Hour, t%time.Hour/time.Minute)
}

// linear is an axis from 0 to max and its ticks, at round numbers.
func linear(most float64, label func(float64) string) (axis, []float64) {
	if !(most > 0) { // also NaN
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, m := range []float64{1, 2, 5, 10} {
		if most/(m*step) <= 5 {
			step *= m
			break
		}
	}
	var ticks []float64
	n := math.Ceil(most/step - 1e-9)
	for i := 0.0; i <= n; i++ {
		ticks = append(ticks, i*step)
	}
	return axis{max: n * step, label: label}, ticks
}

// decades is a logarithmic axis of durations in seconds around lo and hi.
func decades(lo, hi float64) (axis, []float64) {
	if !(lo > 0) || !(hi > 0) {
		lo, hi = 1e-3, 1
	}
	from, to := math.Floor(math.Log10(lo)+1e-9), math.Ceil(math.Log10(hi)-1e-9)
	if to <= from {
		to = from + 1
	}
	var ticks []float64
	for e := from; e <= to; e++ {
		ticks = append(ticks, math.Pow(10, e))
	}
	return axis{min: ticks[0], max: ticks[len(ticks)-1], log: true, label: seconds}, ticks
}

// seconds is a duration in seconds as an axis shows it.
func seconds(v float64) string {
	short := func(v float64, unit string) string { return strconv.FormatFloat(v, 'g', 3, 64) + " " + unit }
	switch {
	case v < 1e-6:
		return short(v*1e9, "ns")
	case v < 0.999e-3:
		return short(v*1e6, "µs")
	case v < 0.999:
		return short(v*1e3, "ms")
	case v < 1000:
		return short(v, "s")
	}
	return strconv.FormatFloat(v, 'f', 0, 64) + " s"
}
