package jepsen

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/jepsen-lite/workload"
)

// Test says what to run. The zero value of a field means its default.
type Test struct {
	Workload string
	Nemeses  []string

	Mode        consistency.Mode
	Write, Read consistency.Level // the mode's defaults; in a run that switches, levels that all modes have
	Modes       []consistency.Mode
	ShardBy     string // hash
	Shards      int    // 2
	Replicas    int    // one on every node, up to 5
	Durability  string // fsync
	NoTokens    bool   // sessions forget their tokens: to see what that breaks

	Nodes       int           // 3
	Time        time.Duration // while the nemesis is at work; 60 s
	Rate        float64       // operations a second of all clients together; 0: as fast as they go, 100 in simulation
	Concurrency int           // clients; 5
	OpTimeout   time.Duration // 5 s
	Recovery    time.Duration // how long a mended cluster may take to answer everywhere; 2 min
	Settle      time.Duration // how long replicas may then take to agree; 1 min
	Quiet, Busy time.Duration // mean pause between faults, and their mean length; 0: the nemesis' own

	Seed uint64
	Sim  bool
	Torn int // sim: percent of unsynced data that a kill leaves nevertheless
}

// MarshalJSON writes what is known of t under the names of the flags, times as 1m30s.
func (t Test) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name        string            `json:"name"`
		Workload    string            `json:"workload"`
		Nemeses     []string          `json:"nemesis,omitempty"`
		Mode        consistency.Mode  `json:"keyspace_mode"`
		Write       consistency.Level `json:"write_level"`
		Read        consistency.Level `json:"read_level"`
		ShardBy     string            `json:"shard_by,omitempty"`
		Shards      int               `json:"shards,omitempty"`
		Replicas    int               `json:"replicas,omitempty"`
		Durability  string            `json:"durability,omitempty"`
		NoTokens    bool              `json:"drop_tokens,omitempty"`
		Nodes       int               `json:"nodes,omitempty"`
		Time        fulcrum.Duration  `json:"time,omitempty"`
		Rate        float64           `json:"rate,omitempty"`
		Concurrency int               `json:"concurrency,omitempty"`
		OpTimeout   fulcrum.Duration  `json:"op_timeout,omitempty"`
		Recovery    fulcrum.Duration  `json:"recovery,omitempty"`
		Quiet       fulcrum.Duration  `json:"quiet,omitempty"`
		Busy        fulcrum.Duration  `json:"busy,omitempty"`
		Seed        uint64            `json:"seed"`
		Sim         bool              `json:"sim"`
		Torn        int               `json:"torn,omitempty"`
	}{t.Name(), t.Workload, t.Nemeses, t.Mode, t.Write, t.Read, t.ShardBy, t.Shards, t.Replicas, t.Durability, t.NoTokens, t.Nodes, fulcrum.Duration(t.Time), t.Rate, t.Concurrency,
		fulcrum.Duration(t.OpTimeout), fulcrum.Duration(t.Recovery), fulcrum.Duration(t.Quiet), fulcrum.Duration(t.Busy), t.Seed, t.Sim, t.Torn})
}

// Defaults that Command leaves out.
const (
	opTimeout = 5 * time.Second
	recovery  = 2 * time.Minute
)

// switches reports whether the mode of the keyspace is changed in the run.
func (t *Test) switches() bool {
	return t.Workload == "switch" || t.switchesNamed()
}

// Fill sets defaults, and then says everything that is wrong with t, each with what
// there is instead.
func (t *Test) Fill() error {
	w, err := workload.Find(t.Workload)
	if err != nil {
		return err
	}
	t.Nemeses = slices.DeleteFunc(t.Nemeses, func(n string) bool { return n == "" || n == "none" })
	if t.Workload == "switch" && !t.switchesNamed() {
		t.Nemeses = append(t.Nemeses, "switch")
	}
	t.Modes = []consistency.Mode{t.Mode}
	if t.switches() {
		t.Modes = consistency.Modes[:]
		if t.Write == (consistency.Level{}) && t.Read == (consistency.Level{}) {
			t.Write, t.Read = consistency.L(consistency.Linearizable), consistency.L(consistency.Linearizable)
		}
	}
	write, read := consistency.Defaults(t.Mode)
	if t.Write == (consistency.Level{}) {
		t.Write = write
	}
	if t.Read == (consistency.Level{}) {
		t.Read = read
	}
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&t.Time, time.Minute)
	set(&t.OpTimeout, opTimeout)
	set(&t.Recovery, recovery)
	set(&t.Settle, time.Minute)
	for p, to := range map[*int]int{&t.Nodes: 3, &t.Concurrency: 5, &t.Shards: 2} {
		if *p == 0 {
			*p = to
		}
	}
	if t.Replicas == 0 {
		t.Replicas = min(t.Nodes, 5)
	}
	if t.Rate == 0 && t.Sim {
		t.Rate = 100
	}
	errs := []error{w.Fits(t.setup(nil))}
	for _, n := range t.Nemeses {
		_, err := nemesis.Find(n)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, t.ranges()...)...)
}

func (t *Test) switchesNamed() bool { return slices.ContainsFunc(t.Nemeses, nemesis.Switches) }

func (t *Test) ranges() (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fulcrum.Errorf(fulcrum.CodeInvalid, format, args...))
	}
	if t.Nodes < 1 || t.Nodes > 9 {
		bad("%d nodes: want 1 to 9", t.Nodes)
	}
	if t.Concurrency < 1 || t.Concurrency > 1000 {
		bad("concurrency %d: want 1 to 1000 clients", t.Concurrency)
	}
	if t.Rate < 0 || t.Rate > 1e6 {
		bad("rate %v: want operations a second, up to 1000000, or 0 for no limit", t.Rate)
	}
	for name, d := range map[string]time.Duration{"time": t.Time, "op-timeout": t.OpTimeout, "recovery": t.Recovery, "settle": t.Settle} {
		if d <= 0 || d > 1000*time.Hour {
			bad("%s %v: want more than 0 and at most 1000h", name, d)
		}
	}
	if t.Torn < 0 || t.Torn > 100 {
		bad("torn %d: want 0 to 100 percent", t.Torn)
	}
	for name, d := range map[string]time.Duration{"quiet": t.Quiet, "busy": t.Busy} {
		if d < 0 || d > 1000*time.Hour {
			bad("%s %v: want 0 to 1000h", name, d)
		}
	}
	if t.Shards < 1 || t.Shards > 1024 {
		bad("%d shards: want 1 to 1024", t.Shards)
	}
	if t.Replicas < 1 {
		bad("%d replicas: want 1 or more", t.Replicas)
	}
	for name, x := range map[string]struct {
		value string
		of    []string
	}{"sharding": {t.ShardBy, []string{"hash", "range", "zone"}}, "durability": {t.Durability, []string{"fsync", "interval", "memory"}}} {
		if x.value != "" && !slices.Contains(x.of, x.value) {
			bad("unknown %s %q: use one of %s", name, x.value, strings.Join(x.of, ", "))
		}
	}
	if t.Replicas > t.Nodes {
		bad("%d replicas on %d nodes: want at most one a node", t.Replicas, t.Nodes)
	}
	return errs
}

func (t *Test) setup(nodes []fulcrum.NodeID) workload.Setup {
	return workload.Setup{Modes: t.Modes, Write: t.Write, Read: t.Read, Nodes: nodes, Keyspace: keyspace, Clients: t.Concurrency, Seed: t.Seed}
}

// Spec is what the checkers are told that t claims, and what of plan they must allow
// for; plan may be nil.
func (t *Test) Spec(plan *nemesis.Plan) checker.Spec {
	var skew time.Duration
	if plan != nil {
		for _, s := range plan.Steps {
			for _, f := range s.Faults {
				skew = max(skew, time.Duration(f.Skew).Abs())
			}
		}
	}
	return checker.Spec{Skew: skew, Workload: t.Workload, Mode: t.Mode, Modes: t.Modes, Write: t.Write, Read: t.Read, Replicas: t.Replicas, Tokens: !t.NoTokens, Nemeses: t.Nemeses}
}

// Name says what is tested, as one word that is fit for a folder.
func (t *Test) Name() string {
	nemeses := strings.Join(t.Nemeses, "+")
	if nemeses == "" {
		nemeses = "none"
	}
	return strings.ReplaceAll(fmt.Sprintf("%s_%s_%s-%s_%s", t.Workload, t.Mode, t.Write, t.Read, nemeses), ":", "-")
}

// Command is the command line that repeats t: the same workload, faults at the same
// times, and the same seeds. In simulation the order in which goroutines run is not
// repeated, so a rare interleaving may need several tries.
func (t *Test) Command() string {
	var b strings.Builder
	b.WriteString("fulcrum jepsen run")
	for _, f := range t.flags() {
		b.WriteString(" --" + f.name)
		if f.value != "true" {
			b.WriteString(" " + f.value)
		}
	}
	return b.String()
}

// Flags is the same by name, for test.json.
func (t *Test) Flags() map[string]string {
	out := map[string]string{}
	for _, f := range t.flags() {
		out[f.name] = f.value
	}
	return out
}

type flag struct{ name, value string }

// flags are those that say what t is; those at their default are left out, but for
// what everybody asks of a run.
func (t *Test) flags() (out []flag) {
	arg := func(name string, v any, wanted bool) {
		if wanted {
			out = append(out, flag{name, fmt.Sprint(v)})
		}
	}
	arg("workload", t.Workload, true)
	arg("nemesis", strings.Join(t.Nemeses, ","), len(t.Nemeses) > 0)
	arg("keyspace-mode", t.Mode, true)
	arg("write-level", t.Write, true)
	arg("read-level", t.Read, true)
	arg("time", t.Time, true)
	arg("rate", t.Rate, true)
	arg("concurrency", t.Concurrency, true)
	arg("nodes", t.Nodes, true)
	arg("replicas", t.Replicas, true)
	arg("shards", t.Shards, true)
	arg("shard-by", t.ShardBy, t.ShardBy != "")
	arg("durability", t.Durability, t.Durability != "")
	arg("drop-tokens", true, t.NoTokens)
	arg("torn", t.Torn, t.Torn != 0)
	arg("quiet", t.Quiet, t.Quiet != 0)
	arg("busy", t.Busy, t.Busy != 0)
	arg("op-timeout", t.OpTimeout, t.OpTimeout != opTimeout)
	arg("recovery", t.Recovery, t.Recovery != recovery)
	arg("seed", t.Seed, true)
	arg("sim", true, t.Sim)
	return out
}
