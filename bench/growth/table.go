package main

import (
	"fmt"

	"fulcrum/bench/figures"
)

// sample is what one measurement gave.
type sample struct {
	Ops    float64 `json:"ops_per_second,omitempty"`
	P50    float64 `json:"p50_us,omitempty"`
	P99    float64 `json:"p99_us,omitempty"`
	CPU    float64 `json:"server_cpu_us_per_op,omitempty"`
	Value  float64 `json:"value,omitempty"`
	Failed int64   `json:"failed,omitempty"`
}

// goal is what is wanted of a row: a part of the first point's rate, at most so many times
// its median latency, or at most a figure. Zero: nothing is.
type goal struct {
	kept, grown, most float64
}

// row is one point of a series, and what was done there.
type row struct {
	Series  string   `json:"series"`
	Point   string   `json:"point"`
	Do      string   `json:"do"`
	Samples []sample `json:"samples"`

	goal  goal
	first *row // the same at the first point
}

// row finds or makes one.
func (m *meter) row(point, do string, g goal) *row {
	r := &row{Series: m.series.name, Point: point, Do: do, goal: g}
	for _, other := range m.rows {
		if other.Do != do {
			continue
		}
		if other.Point == point {
			return other
		}
		if r.first == nil {
			r.first = other
		}
	}
	m.rows = append(m.rows, r)
	return r
}

func (s sample) ops() float64   { return s.Ops }
func (s sample) p50() float64   { return s.P50 }
func (s sample) p99() float64   { return s.P99 }
func (s sample) cpu() float64   { return s.CPU }
func (s sample) value() float64 { return s.Value }

// verdict compares a row with its goal.
func (r *row) verdict() (against, goal string) {
	is := func(met bool, format string, args ...any) string {
		if met {
			return fmt.Sprintf(format, args...) + ": met"
		}
		return fmt.Sprintf(format, args...) + ": missed"
	}
	if r.goal.most > 0 {
		return "", is(figures.SpreadOf(r.Samples, sample.value).Median < r.goal.most, "under %g", r.goal.most)
	}
	if r.first == nil {
		return "", ""
	}
	of := sample.ops
	if r.goal.grown > 0 {
		of = sample.p50
	}
	ratio := figures.Ratio(r.Samples, r.first.Samples, of)
	if ratio == nil {
		return "", ""
	}
	against = fmt.Sprintf("%.2fx [%.2f-%.2f]", ratio.Median, ratio.Min, ratio.Max)
	switch {
	case r.goal.kept > 0:
		goal = is(ratio.Median >= r.goal.kept, "%g of the rate", r.goal.kept)
	case r.goal.grown > 0:
		goal = is(ratio.Median <= r.goal.grown, "%g of the latency", r.goal.grown)
	}
	return against, goal
}

func table(rows []*row) string {
	heads := []string{"what grows", "", "operation", "ops/s (min-max)", "p50", "p99", "CPU µs / op", "against the first [min-max]", "goal"}
	var cells [][]string
	for _, r := range rows {
		against, goal := r.verdict()
		value := figures.SpreadOf(r.Samples, sample.value)
		if value.Max > 0 {
			cells = append(cells, []string{r.Series, r.Point, r.Do, fmt.Sprintf("%.2f (%.2f-%.2f)", value.Median, value.Min, value.Max), "", "", "", "", goal})
			continue
		}
		ops := figures.SpreadOf(r.Samples, sample.ops)
		us := func(of func(sample) float64) string {
			return figures.Millis(int64(figures.SpreadOf(r.Samples, of).Median))
		}
		do := r.Do
		failed := int64(0)
		for _, s := range r.Samples {
			failed += s.Failed
		}
		if failed > 0 {
			do += fmt.Sprintf(" (%d failed)", failed)
		}
		cells = append(cells, []string{r.Series, r.Point, do, fmt.Sprintf("%s (%s-%s)", figures.Thousands(ops.Median), figures.Thousands(ops.Min), figures.Thousands(ops.Max)),
			us(sample.p50), us(sample.p99), fmt.Sprintf("%.0f", figures.SpreadOf(r.Samples, sample.cpu).Median), against, goal})
	}
	return figures.Table(heads, cells)
}
