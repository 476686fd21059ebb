package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/history"
)

//go:embed index.tmpl
var indexTemplate string

// page is what index.tmpl shows.
type page struct {
	Name     string
	Style    template.CSS
	Class    string // "valid", "invalid", "unknown"
	Verdict  string
	Sentence string
	About    []pair
	Promises []pair
	Tiles    []pair
	Checks   []checkRow
	Faults   template.HTML
	Steps    []faultRow
	Cut      string // says what Steps leave out
	Figures  []template.HTML
	Repro    string
	Plan     []string
	Files    []pair
}

type pair struct{ Name, Text string }

type checkRow struct {
	Name, Class, Word, Detail, Stats, More string
	Anomalies                              []anomalyRow
}

type anomalyRow struct {
	Kind, Key, Detail string
	Ops               []int
}

type faultRow struct {
	Name, Value, From, To, Hits string
	Colour                      template.CSS
}

// mostFaultRows bounds the table of faults; the figure above it has them all.
const mostFaultRows = 200

// index writes the page that a person opens first. It needs no other file and no network.
func index(w io.Writer, run *Run, p *plots, drawings []drawing) error {
	t, err := template.New("index").Parse(indexTemplate)
	if err != nil {
		return err
	}
	class, word := verdict(run.Judgement.Verdict)
	pg := page{
		Name: run.Name, Style: style, Class: class, Verdict: word, Sentence: sentence(run),
		About: about(run), Promises: promises(run.Meta.Spec), Tiles: tiles(run),
		Faults: template.HTML(p.faultRows().svg(false)), Repro: run.Repro, Plan: run.Meta.Plan, Files: files(run),
	}
	for _, r := range run.Judgement.Results {
		pg.Checks = append(pg.Checks, check(r))
	}
	for i, f := range p.faults {
		if i == mostFaultRows {
			pg.Cut = fmt.Sprintf("The first %d of %s.", mostFaultRows, count(len(p.faults)))
			break
		}
		hits := "not known"
		if f.Hits >= 0 {
			hits = count(int(f.Hits))
		}
		pg.Steps = append(pg.Steps, faultRow{f.Name, f.Value, at(f.Start), at(f.End), hits, template.CSS(p.colours[f.Name])})
	}
	for _, d := range drawings {
		pg.Figures = append(pg.Figures, template.HTML(d.fig.svg(false)))
	}
	return t.Execute(w, pg)
}

func verdict(v checker.Verdict) (class, word string) {
	switch v {
	case checker.Valid:
		return "valid", "Valid"
	case checker.Invalid:
		return "invalid", "Invalid"
	}
	return "unknown", "Unknown"
}

// sentence says what the verdict means for this run.
func sentence(run *Run) string {
	var failed, open []string
	anomalies := 0
	for _, r := range run.Judgement.Results {
		switch r.Verdict {
		case checker.Invalid:
			failed = append(failed, r.Check)
			anomalies += max(r.Found, len(r.Anomalies))
		case checker.Unknown:
			open = append(open, r.Check+" ("+r.Detail+")")
		}
	}
	switch run.Judgement.Verdict {
	case checker.Valid:
		return fmt.Sprintf("Every promise was kept: %s, %s.", plural(len(run.Judgement.Results), "check"), plural(len(run.History.Ops), "operation"))
	case checker.Invalid:
		return fmt.Sprintf("A promise was broken: %s found by %s.", anomalyCount(anomalies), strings.Join(failed, ", "))
	}
	if len(run.Judgement.Results) == 0 {
		return "No check was made, so nothing is proved."
	}
	return "Not decided, and that is no pass: " + strings.Join(open, "; ") + "."
}

func anomalyCount(n int) string {
	if n == 1 {
		return "1 anomaly,"
	}
	return count(n) + " anomalies,"
}

func about(run *Run) []pair {
	m := run.Meta
	world := "real processes"
	if m.Sim {
		world = "simulated, in virtual time"
	}
	all := []pair{
		{"Workload", m.Workload}, {"Mode", m.Mode}, {"Write level", m.Write}, {"Read level", m.Read}, {"Nemesis", strings.Join(m.Nemeses, ", ")},
		{"Nodes", strings.Join(m.Nodes, ", ")}, {"World", world}, {"Seed", fmt.Sprint(m.Seed)},
		{"Started", m.Started.UTC().Format("2006-01-02 15:04:05 UTC")}, {"Version", strings.TrimSpace(m.Version + " " + m.Commit)},
	}
	return slices.DeleteFunc(all, func(p pair) bool { return p.Text == "" })
}

// promises is what the promise table says of the run's levels, in every mode it was in.
func promises(s checker.Spec) []pair {
	modes := s.Modes
	if len(modes) == 0 {
		modes = []consistency.Mode{s.Mode}
	}
	var out []pair
	for _, m := range modes {
		for _, a := range []struct {
			access consistency.Access
			level  consistency.Level
		}{{consistency.Write, s.Write}, {consistency.Read, s.Read}} {
			p, err := consistency.Lookup(m, a.access, a.level)
			text := p.Guarantee
			if err != nil {
				text = err.Error()
			}
			level := a.level
			if level.Kind == consistency.Default {
				level.Kind = p.Kind
			}
			if row := (pair{fmt.Sprintf("%s, %s at %s", m, a.access, level), text}); !slices.Contains(out, row) {
				out = append(out, row)
			}
		}
	}
	return out
}

// tiles are the figures that one looks for first.
func tiles(run *Run) []pair {
	h := run.History
	var n [len(outcomeWords)]int
	var latency []float64
	for i := range h.Ops {
		op := &h.Ops[i]
		n[op.Outcome]++
		if op.Outcome == history.OK {
			latency = append(latency, (op.Return - op.Invoke).Seconds())
		}
	}
	slices.Sort(latency)
	q := func(q float64) string {
		if v := quantile(latency, q); !math.IsNaN(v) {
			return round(time.Duration(v * float64(time.Second)))
		}
		return "-"
	}
	out := []pair{
		{"operations", count(len(h.Ops))}, {"ok", percent(float64(n[history.OK]), len(h.Ops))}, {"unknown", count(n[history.Info])}, {"failed", count(n[history.Fail])},
		{"latency, median", q(0.5)}, {"latency, 0.99", q(0.99)}, {"of run", round(h.End())}, {"faults", count(len(h.Faults()))},
	}
	heal, ok1 := h.Mark(history.PhaseHeal)
	if back, ok2 := h.Mark(history.PhaseRecovered); ok1 && ok2 {
		out = append(out, pair{"to recover", round(back - heal)})
	}
	return out
}

func check(r checker.Result) checkRow {
	class, word := verdict(r.Verdict)
	row := checkRow{Name: r.Check, Class: class, Word: word, Detail: r.Detail}
	var stats []string
	figures := finite(r.Stats)
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		stats = append(stats, stat(name, figures[name]))
	}
	row.Stats = strings.Join(stats, " · ")
	for _, a := range r.Anomalies {
		row.Anomalies = append(row.Anomalies, anomalyRow(a))
	}
	if left := r.Found - len(r.Anomalies); left > 0 && len(r.Anomalies) > 0 {
		row.More = "and " + count(left) + " more"
	}
	return row
}

// stat is one figure of a check; names that end in _seconds are durations.
func stat(name string, v float64) string {
	if short, ok := strings.CutSuffix(name, "_seconds"); ok && v >= 0 {
		if v == 0 {
			return strings.ReplaceAll(short, "_", " ") + " 0 s"
		}
		return strings.ReplaceAll(short, "_", " ") + " " + seconds(v)
	}
	text := fmt.Sprintf("%.4g", v)
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		text = count(int(v))
	}
	return strings.ReplaceAll(name, "_", " ") + " " + text
}

// files lists what lies beside the page.
func files(run *Run) []pair {
	out := []pair{
		{"timeline.html", "every operation as a bar, a column for each client"},
		{historyFile, "the whole history, for `fulcrum jepsen check`"}, {ednFile, "the same for Jepsen's tools and elle-cli"},
		{resultsFile, "what each check found"}, {"results.edn", "the same for Jepsen's tools"}, {testFile, "seed, plan, flags and the checksum of the history"},
	}
	if run.Linear != nil {
		out = slices.Insert(out, 1, pair{linearFile, "the first key that failed, drawn by porcupine"})
	}
	if run.Repro != "" {
		out = append(out, pair{reproFile, "runs it again"})
	}
	for _, node := range slices.Sorted(maps.Keys(run.NodeLogs)) {
		path := logsFolder + "/" + fileName(node) + ".log"
		size := ""
		if info, err := os.Stat(run.NodeLogs[node]); err == nil {
			size = fmt.Sprintf(", %s KB", count(int(info.Size()+1023)/1024))
		}
		out = append(out, pair{path, "the log of " + node + size})
	}
	return out
}
