package report

import (
	"bufio"
	"cmp"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// mostBars is how many operations the timeline shows at most, as Jepsen's does.
const mostBars = 10_000

// The size of the timeline's parts, in pixels.
const (
	rowPixels    = 12
	gutterPixels = 90
	columnPixels = 136
	headPixels   = 34
)

// moment is a start or an end on the timeline. Each has a row of its own: operations
// that overlap do so on the page, and idle time takes no room.
type moment struct {
	at    time.Duration
	order int // at the same instant: starts, events, ends
	op    int // -1: an event
	event int
}

// timeline writes a page with a column for each client and a bar for each operation,
// from the one that started first on; where anomalies were found, around the first.
func timeline(w io.Writer, run *Run) error {
	out := bufio.NewWriter(w)
	h, bad := run.History, badOps(run)
	from := 0
	if len(h.Ops) > mostBars {
		for op := range bad {
			from = max(from, len(h.Ops)-op) // counted from the end, so that the first anomaly wins
		}
		if from > 0 {
			from = max(0, len(h.Ops)-from-mostBars/4)
		}
		from = min(from, len(h.Ops)-mostBars)
	}
	ops := h.Ops[from:min(from+mostBars, len(h.Ops))]
	clients := columns(ops)
	said := count(len(ops)) + " operations"
	if len(ops) < len(h.Ops) {
		said = fmt.Sprintf("%s of %s operations, from number %s on (the page is capped; history.jsonl has all)", count(len(ops)), count(len(h.Ops)), count(from))
	}
	moments := moments(h, from, ops)
	fmt.Fprintf(out, timelineHead, html.EscapeString(run.Name), style, rowPixels, columnPixels-8, headPixels, html.EscapeString(run.Name), said, len(clients)*columnPixels+6)
	for c, x := range clients {
		fmt.Fprintf(out, `<b class="h" style="left:%dpx">client %d</b>`, x, c)
	}
	fmt.Fprintf(out, `</div><div class="body" style="height:%dpx;width:%dpx">`, (len(moments)+4)*rowPixels, gutterPixels+len(clients)*columnPixels+320)
	bars(out, run, ops, from, moments, clients, bad)
	fmt.Fprint(out, "\n</div>\n")
	return out.Flush()
}

// badOps are the operations that show an anomaly.
func badOps(run *Run) map[int]bool {
	bad := map[int]bool{}
	for _, r := range run.Judgement.Results {
		for _, a := range r.Anomalies {
			for _, op := range a.Ops {
				if op >= 0 && op < len(run.History.Ops) {
					bad[op] = true
				}
			}
		}
	}
	return bad
}

// columns gives each client its place from the left.
func columns(ops []history.Op) map[int]int {
	x := map[int]int{}
	for i := range ops {
		x[ops[i].Client] = 0
	}
	var sorted []int
	for c := range x {
		sorted = append(sorted, c)
	}
	slices.Sort(sorted)
	for i, c := range sorted {
		x[c] = gutterPixels + i*columnPixels
	}
	return x
}

func moments(h *history.History, from int, ops []history.Op) []moment {
	if len(ops) == 0 {
		return nil
	}
	var out []moment
	last := ops[0].Invoke
	for i := range ops {
		out = append(out, moment{ops[i].Invoke, 0, from + i, 0}, moment{ops[i].Return, 2, from + i, 0})
		last = max(last, ops[i].Return)
	}
	for i, e := range h.Events {
		if e.Time >= ops[0].Invoke && e.Time <= last {
			out = append(out, moment{e.Time, 1, -1, i})
		}
	}
	slices.SortStableFunc(out, func(a, b moment) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.order, b.order)) })
	return out
}

// bars writes what stands at each moment: an operation at its end, when both are known.
func bars(out *bufio.Writer, run *Run, ops []history.Op, from int, moments []moment, clients map[int]int, bad map[int]bool) {
	h := run.History
	colours := newPlots(run).colours
	begun := make([]int, len(ops))
	open := map[string]int{} // fault -> the row where it began
	shade := func(name string, a, b int) {
		fmt.Fprintf(out, `<i class="f" style="top:%dpx;height:%dpx;background:%s"></i>`, a*rowPixels, (b-a)*rowPixels, colours[name])
	}
	for row, m := range moments {
		if row%8 == 0 {
			fmt.Fprintf(out, `<i class="t" style="top:%dpx">%s</i>`, row*rowPixels, at(m.at))
		}
		switch {
		case m.op < 0:
			e := &h.Events[m.event]
			if start, ok := open[e.Fault]; ok && e.F == "stop" {
				shade(e.Fault, start, row)
				delete(open, e.Fault)
			} else if e.F == "start" {
				open[e.Fault] = row
			}
			fmt.Fprintf(out, "\n"+`<i class="e" style="top:%dpx"><span>%s</span></i>`, row*rowPixels, html.EscapeString(strings.TrimSpace(e.F+" "+e.Fault+" "+e.Value)))
		case m.order == 0:
			begun[m.op-from] = row
		default:
			op, top := &ops[m.op-from], begun[m.op-from]
			class := op.Outcome.String()
			if bad[m.op] {
				class += " bad"
			}
			fmt.Fprintf(out, "\n"+`<a id="op%d" class="%s" style="left:%dpx;top:%dpx;height:%dpx" title="%s">%s</a>`, m.op, class,
				clients[op.Client], top*rowPixels, max(1, row-top)*rowPixels-1, html.EscapeString(describe(m.op, op)), html.EscapeString(brief(op)))
		}
	}
	for name, start := range open {
		shade(name, start, len(moments))
	}
}

// brief is what fits on a bar.
func brief(op *history.Op) string {
	s := string(op.F) + " " + op.Key
	switch {
	case op.F == history.Scan || op.F == history.Watch:
		s += fmt.Sprintf(" → %d", len(op.Elements))
	case op.F == history.Read && op.Outcome == history.OK && op.Found:
		s += " → " + op.Value
	case op.F == history.Read && op.Outcome == history.OK:
		s += " → nil"
	case op.F != history.Read && op.F != history.Delete:
		s += " " + op.Value
	}
	if r := []rune(s); len(r) > 40 {
		s = string(r[:39]) + "…"
	}
	return s
}

// describe is what a bar says when the pointer rests on it.
func describe(i int, op *history.Op) string {
	s := fmt.Sprintf("op %d, process %d, %s\n%s\nasked %s", i, op.Process, outcomeWords[op.Outcome], brief(op), op.Node)
	if op.Level != (consistency.Level{}) {
		s += " at level " + op.Level.String()
	}
	s += fmt.Sprintf("\n%s to %s (%s)", at(op.Invoke), at(op.Return), round(op.Return-op.Invoke))
	if !op.Expect.IsZero() {
		s += "\nexpected version " + op.Expect.String()
	}
	if !op.Version.IsZero() {
		s += "\nversion " + op.Version.String()
	}
	if op.Code != "" || op.Error != "" {
		s += "\n" + strings.TrimSpace(string(op.Code)+" "+op.Error)
	}
	return s
}

const timelineHead = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%s: timeline</title>
<style>%s
body{margin:0;background:var(--bg);color:var(--fg);font:13px/1.4 system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
header{padding:14px 18px;border-bottom:1px solid var(--grid)}header b{font-size:17px;margin-right:12px}header span{color:var(--soft)}
.key a{position:static;display:inline-block;width:auto;padding:0 6px;height:14px;margin-right:6px}
a,i.t{font:9.5px/%[3]dpx ui-monospace,Menlo,Consolas,monospace}
a{position:absolute;z-index:1;width:%[4]dpx;overflow:hidden;white-space:nowrap;border-radius:2px;padding:0 3px;box-sizing:border-box;color:var(--fg);text-decoration:none}
a:hover,a:target{outline:2px solid var(--fg);z-index:3}
a.ok{background:color-mix(in srgb,var(--ok) 26%%,var(--bg))}a.info{background:color-mix(in srgb,var(--info) 42%%,var(--bg))}
a.fail{background:color-mix(in srgb,var(--fail) 24%%,var(--bg))}a.bad{box-shadow:inset 0 0 0 2px var(--fail);z-index:2}
.heads{position:sticky;top:0;height:%[5]dpx;background:var(--bg);z-index:5;border-bottom:1px solid var(--grid)}.h{position:absolute;top:8px;white-space:nowrap}
.body{position:relative;margin-top:8px}i{position:absolute;font-style:normal}
i.t{left:0;width:80px;text-align:right;color:var(--soft)}i.f{left:90px;right:0;opacity:.09}
i.e{left:90px;right:0;border-top:1px dashed var(--soft);height:0}i.e span{position:absolute;left:%[8]dpx;top:1px;white-space:nowrap;color:var(--soft);font-size:11px}
</style>
<header><b>%[6]s</b><span>%[7]s. Time runs down; rows are moments, not seconds. Rest the pointer on a bar for more.</span>
<div class="key"><a class="ok">ok</a><a class="info">unknown</a><a class="fail">failed</a><a class="ok bad">part of an anomaly</a> <a href="index.html" style="text-decoration:underline">the report</a></div></header>
<div class="heads">`
