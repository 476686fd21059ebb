// Package figures is what the programs that measure have in common: medians with their
// spread, what the machine is, and tables that go into a document.
package figures

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Spread is the median of some figures, the least and the greatest.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// SpreadOf is that of one figure of each sample.
func SpreadOf[S any](samples []S, of func(S) float64) Spread {
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

// Ratio compares the medians of two series of samples that were taken in turns; its
// least and greatest are those of single turns. Nil: there is nothing to compare with.
func Ratio[S any](ours, others []S, of func(S) float64) *Spread {
	o, t := SpreadOf(ours, of), SpreadOf(others, of)
	if t.Median == 0 {
		return nil
	}
	s := &Spread{Median: o.Median / t.Median}
	for i := range min(len(ours), len(others)) {
		if of(others[i]) == 0 {
			continue
		}
		one := of(ours[i]) / of(others[i])
		if s.Min == 0 || one < s.Min {
			s.Min = one
		}
		s.Max = max(s.Max, one)
	}
	return s
}

// Machine says what the figures were made on.
func Machine() string {
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

// Table is one in Markdown.
func Table(heads []string, rows [][]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(heads, " | "), strings.Repeat("---|", len(heads)))
	for _, cells := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

// Insert writes text into the document at path, between its comments
//
//	<!-- NAME: anything -->
//	<!-- end of NAME -->
//
// in the place of what was there.
func Insert(path, name, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	whole, err := Between(string(b), name, text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(whole), 0o644)
}

// Between is Insert for a document in memory.
func Between(doc, name, text string) (string, error) {
	begin, end := "<!-- "+name+":", "<!-- end of "+name+" -->"
	from, to := strings.Index(doc, begin), strings.Index(doc, end)
	if from < 0 || to < from {
		return "", fmt.Errorf("there is no %q with %q below it", begin, end)
	}
	from += strings.IndexByte(doc[from:], '\n') + 1
	return doc[:from] + "\n" + text + "\n" + doc[to:], nil
}

// Millis writes microseconds as a duration that is read at a glance.
func Millis(us int64) string {
	d := time.Duration(us) * time.Microsecond
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

// Thousands writes a number as 12,345.
func Thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
