package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
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
	Case    string   `json:"case"`
	Clients int      `json:"clients"`
	System  string   `json:"system"`
	Label   string   `json:"label"`
	Ours    bool     `json:"ours"` // what the others are compared with
	Goal    float64  `json:"goal,omitempty"`
	Samples []sample `json:"samples"`
	Ratio   *Spread  `json:"ratio,omitempty"` // of ours to this, in operations a second
}

// Spread is a median, and the least and most of all repeats.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func newReport(s *settings) *Report {
	return &Report{Began: time.Now().UTC().Truncate(time.Second), Machine: machine(), Versions: map[string]string{}, Nodes: s.nodes, Keys: s.keys,
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
		row.Ratio = ratioOf(ours.Samples, row.Samples)
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

// ratioOf compares medians; the spread is that of the repeats, each with its own rival.
func ratioOf(ours, others []sample) *Spread {
	ops := func(s sample) float64 { return s.OpsPerSec }
	o, t := spreadOf(ours, ops), spreadOf(others, ops)
	if t.Median == 0 {
		return nil
	}
	s := &Spread{Median: o.Median / t.Median}
	for i := range min(len(ours), len(others)) {
		if others[i].OpsPerSec == 0 {
			continue
		}
		one := ours[i].OpsPerSec / others[i].OpsPerSec
		if s.Min == 0 || one < s.Min {
			s.Min = one
		}
		s.Max = max(s.Max, one)
	}
	return s
}

func spreadOf(samples []sample, of func(sample) float64) Spread {
	if len(samples) == 0 {
		return Spread{}
	}
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = of(s)
	}
	slices.Sort(v)
	mid := len(v) / 2
	median := v[mid]
	if len(v)%2 == 0 {
		median = (v[mid-1] + v[mid]) / 2
	}
	return Spread{median, v[0], v[len(v)-1]}
}

// machine says what the figures were made on.
func machine() string {
	model := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := runtime.GOOS
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel += " " + strings.TrimSpace(string(b))
	}
	memory := ""
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		memory = fmt.Sprintf(", %d GiB", (uint64(info.Totalram)*uint64(info.Unit)+1<<29)>>30)
	}
	return fmt.Sprintf("%d cores (%s)%s, %s, %s", runtime.NumCPU(), model, memory, kernel, runtime.Version())
}

var heads = []string{"case", "clients", "system", "ops/s (min-max)", "p50", "p99", "CPU s / 1,000 ops", "ratio [min-max]", "goal"}

// cells are a row of the table.
func (r *Report) cells(row *Row) []string {
	ops := spreadOf(row.Samples, func(s sample) float64 { return s.OpsPerSec })
	us := func(of func(sample) int64) string {
		return millis(int64(spreadOf(row.Samples, func(s sample) float64 { return float64(of(s)) }).Median))
	}
	cpu := spreadOf(row.Samples, func(s sample) float64 { return s.CPU }).Median
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
	return []string{row.Case, fmt.Sprint(row.Clients), label, fmt.Sprintf("%s (%s-%s)", thousands(ops.Median), thousands(ops.Min), thousands(ops.Max)),
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
	var b strings.Builder
	for _, line := range r.about() {
		b.WriteString(line + "\n")
	}
	fmt.Fprintf(&b, "\n| %s |\n|%s\n", strings.Join(heads, " | "), strings.Repeat("---|", len(heads)))
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r.cells(row), " | "))
	}
	return b.String()
}

// insert writes the table into a document, between the two comments of that name.
func (r *Report) insert(path, name string) error {
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := between(string(b), name, r.markdown())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

func between(text, name, table string) (string, error) {
	begin, end := "<!-- "+name+":", "<!-- end of "+name+" -->"
	from := strings.Index(text, begin)
	to := strings.Index(text, end)
	if from < 0 || to < from {
		return "", fmt.Errorf("there is no %q with %q below it", begin, end)
	}
	from += strings.IndexByte(text[from:], '\n') + 1
	return text[:from] + "\n" + table + "\n" + text[to:], nil
}

func millis(us int64) string {
	d := time.Duration(us) * time.Microsecond
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

// thousands writes a number as 12,345.
func thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func join(n []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(n), " ", ", "), "[]")
}
