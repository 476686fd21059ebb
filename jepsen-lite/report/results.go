package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"fulcrum"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/history"
)

// valid is a verdict in Jepsen's form: true, false or "unknown".
type valid checker.Verdict

func (v valid) MarshalJSON() ([]byte, error) {
	switch checker.Verdict(v) {
	case checker.Valid:
		return []byte("true"), nil
	case checker.Invalid:
		return []byte("false"), nil
	}
	return []byte(`"unknown"`), nil
}

func (v *valid) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		*v = valid(checker.Valid)
	case "false":
		*v = valid(checker.Invalid)
	case `"unknown"`:
		*v = valid(checker.Unknown)
	default:
		return fmt.Errorf(`verdict %s: want true, false or "unknown"`, b)
	}
	return nil
}

// judgement is results.json.
type judgement struct {
	Valid   valid    `json:"valid?"`
	Results []result `json:"results"`
}

type result struct {
	Check     string             `json:"check"`
	Valid     valid              `json:"valid?"`
	Detail    string             `json:"detail,omitempty"`
	Found     int                `json:"found"`
	Anomalies []anomaly          `json:"anomalies,omitempty"`
	Stats     map[string]float64 `json:"stats,omitempty"`
}

type anomaly struct {
	Kind   string `json:"kind"`
	Key    string `json:"key,omitempty"`
	Detail string `json:"detail"`
	Ops    []int  `json:"ops,omitempty"`
}

// results writes results.edn and, as the very last file, results.json: where it stands
// the report is whole.
func results(dir string, j checker.Judgement) error {
	if err := file(dir, "results.edn", 0o644, func(w io.Writer) error { _, err := w.Write(appendResults(nil, j)); return err }); err != nil {
		return err
	}
	out := judgement{Valid: valid(j.Verdict), Results: []result{}}
	for _, r := range j.Results {
		o := result{Check: r.Check, Valid: valid(r.Verdict), Detail: r.Detail, Found: r.Found, Stats: finite(r.Stats)}
		for _, a := range r.Anomalies {
			o.Anomalies = append(o.Anomalies, anomaly(a))
		}
		out.Results = append(out.Results, o)
	}
	return file(dir, resultsFile, 0o644, func(w io.Writer) error { return indented(w, out) })
}

// finite leaves out what JSON has no form for.
func finite(stats map[string]float64) map[string]float64 {
	var out map[string]float64
	for k, v := range stats {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		if out == nil {
			out = map[string]float64{}
		}
		out[k] = v
	}
	return out
}

func readResults(dir string) (checker.Judgement, error) {
	path := filepath.Join(dir, resultsFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return checker.Judgement{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%s is missing: the report was cut off", path).WithHint("repeat the run")
	}
	if err != nil {
		return checker.Judgement{}, err
	}
	var in judgement
	if err := json.Unmarshal(b, &in); err != nil {
		return checker.Judgement{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%s: %w", path, err).WithHint("the file was cut off or edited")
	}
	j := checker.Judgement{Verdict: checker.Verdict(in.Valid)}
	for _, r := range in.Results {
		o := checker.Result{Check: r.Check, Verdict: checker.Verdict(r.Valid), Detail: r.Detail, Found: r.Found, Stats: r.Stats}
		for _, a := range r.Anomalies {
			o.Anomalies = append(o.Anomalies, checker.Anomaly(a))
		}
		j.Results = append(j.Results, o)
	}
	return j, nil
}

// appendResults appends results.edn: a map of :valid? and a map for each check, as
// Jepsen's compose makes them.
func appendResults(b []byte, j checker.Judgement) []byte {
	b = append(append(b, "{:valid? "...), ednVerdict(j.Verdict)...)
	for _, r := range j.Results {
		b = history.AppendKeyword(append(b, ",\n :"...), r.Check)
		b = append(append(b, " {:valid? "...), ednVerdict(r.Verdict)...)
		b = history.AppendEDN(append(b, ",\n  :detail "...), r.Detail)
		b = strconv.AppendInt(append(b, ",\n  :found "...), int64(r.Found), 10)
		b = append(b, ",\n  :anomalies ["...)
		for i, a := range r.Anomalies {
			if i > 0 {
				b = append(b, "\n              "...)
			}
			b = history.AppendKeyword(append(b, "{:kind :"...), a.Kind)
			b = history.AppendEDN(append(b, ", :key "...), a.Key)
			b = history.AppendEDN(append(b, ", :detail "...), a.Detail)
			b = fmt.Appendf(b, ", :ops %v}", a.Ops)
		}
		b = append(b, "],\n  :stats {"...)
		stats := finite(r.Stats)
		for i, name := range slices.Sorted(maps.Keys(stats)) {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = history.AppendKeyword(append(b, ':'), name)
			b = strconv.AppendFloat(append(b, ' '), stats[name], 'g', -1, 64)
		}
		b = append(b, "}}"...)
	}
	return append(b, "}\n"...)
}

func ednVerdict(v checker.Verdict) string {
	switch v {
	case checker.Valid:
		return "true"
	case checker.Invalid:
		return "false"
	}
	return ":unknown"
}
