package report

import (
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/history"
)

func TestEveryFigureIsShadedAndSaysByWhat(t *testing.T) {
	run := sample(2, 2000)
	for _, d := range newPlots(&run).all() {
		svg := string(d.fig.svg(true))
		if n := strings.Count(svg, `<rect class="band" style="fill:var(--f0)" `); n != 1 {
			t.Errorf("%s: the partition is shaded %d times", d.file, n)
		}
		for _, name := range []string{"partition-halves", "kill-one", "delay"} {
			if !strings.Contains(svg, `">`+name+"</text>") {
				t.Errorf("%s: the legend does not name %s", d.file, name)
			}
		}
	}
}

// TestShadingLiesOverItsTime checks a fault from a quarter to a half of the run.
func TestShadingLiesOverItsTime(t *testing.T) {
	run := Run{History: &history.History{Events: []history.Event{
		{Time: 25, F: "start", Fault: "kill"}, {Time: 50, F: "stop", Fault: "kill"}, {Time: 100 * time.Millisecond, F: "phase", Fault: "end"}}}}
	for i := range run.History.Events[:2] {
		run.History.Events[i].Time *= time.Millisecond
	}
	f := newFigure("x", run.History.End(), 100)
	f.bands(run.History.Faults(), map[string]string{"kill": "red"})
	want := `x="` + px(left+plotWidth/4) + `" y="34" width="` + px(plotWidth/4) + `"`
	if got := f.body.String(); !strings.Contains(got, want) {
		t.Errorf("want %s in %s", want, got)
	}
}

func TestAFaultWhoseBiteIsNotKnownSaysSo(t *testing.T) {
	run := sample(2, 100)
	if svg := string(newPlots(&run).faultRows().svg(false)); !strings.Contains(svg, "1 time, bit 8,123 times") {
		t.Error("the partition's bites are not on the figure")
	}
	run.History.Events[2].F = "forgot" // never stopped: nobody counted
	if svg := string(newPlots(&run).faultRows().svg(false)); !strings.Contains(svg, "1 time, not known whether it bit") {
		t.Error("a fault that was never stopped seems to have been counted")
	}
}

func TestFiguresSayWhatTheRunWas(t *testing.T) {
	run := sample(42, 4000)
	figures := map[string]string{}
	for _, d := range newPlots(&run).all() {
		figures[d.file] = string(d.fig.svg(false))
	}
	stale, reads := staleReads(run.History)
	if len(stale) == 0 || reads == 0 {
		t.Fatal("the sample has no stale read")
	}
	for file, wants := range map[string][]string{
		"staleness.svg":         {" reads were stale"},
		"availability.svg":      {">n1<", ">n5<", ">100 %<"},
		"rate.svg":              {">read ok<", ">write ok<", ">write unknown<", ">write failed<"},
		"latency-quantiles.svg": {">0.5<", ">0.95<", ">0.99<", ">max<", ">100 ms<"},
		"latency-raw.svg":       {">ok<", ">unknown<", ">failed<"},
	} {
		for _, want := range wants {
			if !strings.Contains(figures[file], want) {
				t.Errorf("%s lacks %q", file, want)
			}
		}
	}
	run.Meta.Spec.Read = consistency.Level{Kind: consistency.Bounded, Bound: 2 * time.Second}
	if svg := string(newPlots(&run).staleness().svg(false)); !strings.Contains(svg, ">the bound, 2s<") {
		t.Error("staleness.svg lacks the bound")
	}
}

func TestDotsAreThinnedAndPeaksStay(t *testing.T) {
	points := make([]point, 100_000)
	for i := range points {
		points[i] = point{time.Duration(i), 1}
	}
	points[54_321].v = 9
	got := slowest(points, mostDots)
	peak := 0.0
	for _, p := range got {
		peak = max(peak, p.v)
	}
	if len(got) > mostDots || len(got) < mostDots/2 || peak != 9 {
		t.Errorf("%d points with a peak of %v", len(got), peak)
	}
	if same := slowest(points[:10], 10); len(same) != 10 {
		t.Errorf("few points became %d", len(same))
	}
	run := sample(9, 30_000)
	svg := string(newPlots(&run).latencyRaw().svg(false))
	if n := strings.Count(svg, "h0"); n > mostDots+2 || n < mostDots/2 || !strings.Contains(svg, "of 30,000 operations") {
		t.Errorf("%d dots, or the figure does not say that there are fewer", n)
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for q, want := range map[float64]float64{0.5: 50, 0.95: 95, 0.99: 99, 1: 100, 0: 1} {
		if got := quantile(hundred, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if !math.IsNaN(quantile(nil, 0.5)) {
		t.Error("of nothing there is no quantile")
	}
}

func TestAxes(t *testing.T) {
	for _, c := range []struct{ most, top, step float64 }{{7, 8, 2}, {100, 100, 20}, {333, 400, 100}, {0.03, 0.03, 0.01}, {0, 1, 0.2}, {math.NaN(), 1, 0.2}} {
		a, ticks := linear(c.most, seconds)
		if math.Abs(a.max-c.top) > 1e-9 || math.Abs(ticks[1]-c.step) > 1e-9 || len(ticks) > 7 {
			t.Errorf("up to %v: ticks %v", c.most, ticks)
		}
	}
	a, ticks := decades(0.0015, 0.9)
	if len(ticks) != 4 || a.label(a.min) != "1 ms" || a.label(a.max) != "1 s" {
		t.Errorf("decades %v", ticks)
	}
	f := newFigure("", time.Second, 100)
	f.y = a
	if top, mid := f.at(5), f.at(math.Sqrt(a.min*a.max)); top != f.at(1) || math.Abs(mid-(34+50)) > 1e-9 {
		t.Errorf("above the axis lies at %v, its middle at %v", top, mid)
	}
	for end, want := range map[time.Duration]string{time.Second: "100ms", 60 * time.Second: "10 s", 10 * time.Minute: "1 min", 3 * time.Hour: "30 min", 50 * time.Hour: "6:00 h", 900 * time.Hour: "96:00 h"} {
		if step := timeStep(end); clock(step) != want || end/step > 10 {
			t.Errorf("%v has a label every %s, want %s", end, clock(step), want)
		}
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		count(0): "0", count(999): "999", count(1000): "1,000", count(-1234567): "-1,234,567",
		plural(1, "fault"): "1 fault", plural(2000, "fault"): "2,000 faults",
		round(1_843_210): "1.84ms", round(27*time.Second + 345*time.Millisecond): "27.3s", round(3 * time.Minute): "3m", round(3*time.Minute + 20*time.Second): "3m20s",
		round(2*time.Hour + 55*time.Minute + 3*time.Second): "2h55m", round(0): "0s",
		percent(99_999, 100_000): "99.99 %", percent(3, 3): "100 %", percent(0, 0): "-", percent(1, 3): "33.33 %",
		fileName("../a b/ü"): "-a-b--", fileName(""): "run", fileName("..."): "run", fileName("register-1.5+x_Y"): "register-1.5+x_Y",
		clock(90 * time.Second): "90 s", clock(5*time.Minute + 30*time.Second): "5:30 min", seconds(1e-4): "100 µs", seconds(0.25): "250 ms", seconds(5000): "5000 s",
		stat("recovery_seconds", 2.4): "recovery 2.4 s", stat("stale_reads", 1234): "stale reads 1,234", stat("share", 0.123456): "share 0.1235",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestTheTimelineIsCapped has more operations than fit, and an anomaly near the end: it
// must be on the page.
func TestTheTimelineIsCapped(t *testing.T) {
	run := sample(4, 25_000)
	run.Judgement.Results[0].Anomalies = []checker.Anomaly{{Kind: "x", Ops: []int{24_000, 23_500}}}
	var page strings.Builder
	if err := timeline(&page, &run); err != nil {
		t.Fatal(err)
	}
	bars := regexp.MustCompile(`<a id="op(\d+)" class="([a-z ]+)"`).FindAllStringSubmatch(page.String(), -1)
	bad := 0
	for _, b := range bars {
		if strings.HasSuffix(b[2], " bad") {
			bad++
		}
	}
	if len(bars) != mostBars || bad != 2 || !strings.Contains(page.String(), "10,000 of 25,000 operations") {
		t.Errorf("%d bars, %d of them marked", len(bars), bad)
	}
	run = sample(4, 200)
	page.Reset()
	if err := timeline(&page, &run); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(page.String(), "<a id=\"op"); n != 200 || strings.Contains(page.String(), "capped") {
		t.Errorf("%d bars of 200", n)
	}
}

func TestTheIndexTellsTheStory(t *testing.T) {
	_, dir := write(t, sample(42, 1000))
	b, err := os.ReadFile(filepath.Join(dir, "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`class="banner invalid"><b>Invalid</b>`, "23 anomalies, found by linearizable", "quorum, write at one", "it may be stale, without bound",
		"stale-read</b> of <code>r2</code>", `<a href="timeline.html#op70">op 70</a>`, "<code>r&lt;0&gt;</code>", "and 21 more", "background:var(--f1)", "8,123",
		"--sim --seed 42", `<a href="history.edn">`, "12s partition-halves n1 n2 | n3 n4 n5", "partition-halves, kill-one, delay",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("index.html lacks %s", want)
		}
	}
	if n := strings.Count(string(b), "<svg"); n != 6 {
		t.Errorf("index.html has %d figures, want 6", n)
	}
}

func TestTheVerdictInASentence(t *testing.T) {
	run := sample(1, 10)
	run.Judgement = checker.Judgement{Verdict: checker.Valid, Results: []checker.Result{{Check: "a", Verdict: checker.Valid}}}
	if got := sentence(&run); got != "Every promise was kept: 1 check, 10 operations." {
		t.Error(got)
	}
	run.Judgement = checker.Judgement{Results: []checker.Result{{Check: "a", Verdict: checker.Valid}, {Check: "bite", Detail: "it did nothing"}}}
	if got := sentence(&run); got != "Not decided, and that is no pass: bite (it did nothing)." {
		t.Error(got)
	}
	run.Judgement = checker.Judgement{}
	if got := sentence(&run); got != "No check was made, so nothing is proved." {
		t.Error(got)
	}
}

func TestResultsInEDN(t *testing.T) {
	j := checker.Judgement{Verdict: checker.Invalid, Results: []checker.Result{
		{Check: "set", Verdict: checker.Invalid, Detail: `said "no"`, Found: 2, Anomalies: []checker.Anomaly{{Kind: "lost element", Key: "k", Detail: "d", Ops: []int{1, 2}}, {Kind: "x"}},
			Stats: map[string]float64{"b_seconds": 0.5, "a": 3, "bad": math.NaN()}},
		{Check: "bite"}}}
	want := `{:valid? false,
 :set {:valid? false,
  :detail "said \"no\"",
  :found 2,
  :anomalies [{:kind :lost-element, :key "k", :detail "d", :ops [1 2]}
              {:kind :x, :key "", :detail "", :ops []}],
  :stats {:a 3, :b_seconds 0.5}},
 :bite {:valid? :unknown,
  :detail "",
  :found 0,
  :anomalies [],
  :stats {}}}
`
	if got := string(appendResults(nil, j)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
