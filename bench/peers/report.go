package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"fulcrum/bench/figures"
)

// Report is a whole run. Names are stable; fields are only ever added.
type Report struct {
	Began    time.Time         `json:"began"`
	Command  string            `json:"command"`
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Nodes    int               `json:"nodes"`
	Keys     int               `json:"keys"`
	Size     string            `json:"value_size"`
	Duration string            `json:"duration"`
	Repeats  int               `json:"repeats"`
	Rows     []*Row            `json:"rows"`
}

// Row is one system at one contest and number of clients.
type Row struct {
	Case    string          `json:"case"`
	Clients int             `json:"clients"`
	System  string          `json:"system"`
	Label   string          `json:"label"`
	Ours    bool            `json:"ours"` // what the others are compared with
	Goal    float64         `json:"goal,omitempty"`
	Samples []sample        `json:"samples"`
	Ratio   *figures.Spread `json:"ratio,omitempty"` // of ours to this, in operations a second
}

func newReport(s *settings) *Report {
	return &Report{Began: time.Now().UTC().Truncate(time.Second), Machine: figures.Machine(), Versions: map[string]string{}, Nodes: s.nodes, Keys: s.keys,
		Size: s.size, Duration: s.duration.String(), Repeats: s.repeats}
}

// add notes a measurement.
func (r *Report) add(m measurement, got sample) {
	row := r.row(m.contest, m.clients, m.label)
	if row == nil {
		row = &Row{Case: m.contest, Clients: m.clients, System: m.system, Label: m.label, Ours: m.place == 0, Goal: m.goals[m.clients]}
		r.Rows = append(r.Rows, row)
	}
	row.Samples = append(row.Samples, got)
	if ours := r.ours(row); ours != nil && !row.Ours {
		row.Ratio = figures.Ratio(ours.Samples, row.Samples, sample.ops)
	}
}

func (r *Report) row(name string, clients int, label string) *Row {
	for _, row := range r.Rows {
		if row.Case == name && row.Clients == clients && row.Label == label {
			return row
		}
	}
	return nil
}

// ours is the row that another one is compared with.
func (r *Report) ours(other *Row) *Row {
	for _, row := range r.Rows {
		if row.Ours && row.Case == other.Case && row.Clients == other.Clients {
			return row
		}
	}
	return nil
}

var heads = []string{"case", "clients", "system", "ops/s (min-max)", "p50", "p99", "CPU s / 1,000 ops", "ratio [min-max]", "goal"}

// cells are a row of the table.
func (r *Report) cells(row *Row) []string {
	ops := figures.SpreadOf(row.Samples, sample.ops)
	us := func(of func(sample) int64) string {
		return figures.Millis(int64(figures.SpreadOf(row.Samples, func(s sample) float64 { return float64(of(s)) }).Median))
	}
	cpu := figures.SpreadOf(row.Samples, func(s sample) float64 { return s.CPU }).Median
	ratio, goal := "", ""
	if row.Ratio != nil {
		ratio = fmt.Sprintf("%.2fx [%.2f-%.2f]", row.Ratio.Median, row.Ratio.Min, row.Ratio.Max)
	}
	if row.Goal > 0 && row.Ratio != nil {
		verdict := "missed"
		if row.Ratio.Median >= row.Goal {
			verdict = "met"
		}
		goal = fmt.Sprintf("%gx: %s", row.Goal, verdict)
	}
	failed := int64(0)
	for _, s := range row.Samples {
		failed += s.Failed
	}
	label := row.Label
	if failed > 0 {
		label += fmt.Sprintf(" (%d failed)", failed)
	}
	return []string{row.Case, fmt.Sprint(row.Clients), label, fmt.Sprintf("%s (%s-%s)", figures.Thousands(ops.Median), figures.Thousands(ops.Min), figures.Thousands(ops.Max)),
		us(func(s sample) int64 { return s.P50 }), us(func(s sample) int64 { return s.P99 }), fmt.Sprintf("%.3f", cpu), ratio, goal}
}

func (r *Report) print(w io.Writer, output string) error {
	switch output {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	case "markdown":
		_, err := io.WriteString(w, r.markdown())
		return err
	}
	for _, line := range r.about() {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(heads, "\t")))
	for _, row := range r.Rows {
		fmt.Fprintln(t, strings.Join(r.cells(row), "\t"))
	}
	return t.Flush()
}

// about says what was measured, when and on what.
func (r *Report) about() []string {
	var versions []string
	for _, name := range []string{fulcrumNode, etcd, redis, redisSync} {
		if v := r.Versions[name]; v != "" {
			versions = append(versions, v)
		}
	}
	return []string{
		fmt.Sprintf("%s, on %s.", r.Began.Format(time.DateOnly), r.Machine),
		fmt.Sprintf("%s. %d nodes each on loopback, %d keys, values of %s bytes; %d repeats in turns, %s each.", strings.Join(slices.Compact(versions), ", "), r.Nodes, r.Keys, r.Size, r.Repeats, r.Duration),
		fmt.Sprintf("Ratios are fulcrum's operations a second over that line's. Made by: %s", r.Command),
	}
}

func (r *Report) markdown() string {
	var rows [][]string
	for _, row := range r.Rows {
		rows = append(rows, r.cells(row))
	}
	return strings.Join(r.about(), "\n") + "\n\n" + figures.Table(heads, rows)
}

// insert writes the table into a document, between the two comments of that name.
func (r *Report) insert(path, name string) error {
	if path == "" {
		return nil
	}
	return figures.Insert(path, name, r.markdown())
}

func join(n []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(n), " ", ", "), "[]")
}
