package checker

import (
	"fmt"
	"slices"
	"strings"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// Judge runs every check of s.Checks on h. The verdict is the worst of theirs, but that
// porcupine is a cross-check: it counts where it says invalid, and keys that are too
// large for it are no reason for doubt.
func Judge(h *history.History, s Spec) Judgement {
	j := Judgement{Verdict: Valid}
	for _, c := range s.Checks() {
		r := c.Run(h, s)
		j.Results = append(j.Results, r)
		if r.Check != porcupineName || r.Verdict == Invalid {
			j.Verdict = Worst(j.Verdict, r.Verdict)
		}
	}
	return j
}

const porcupineName = "porcupine"

// Worst returns the verdict of two together: invalid if either is, else unknown if
// either is.
func Worst(a, b Verdict) Verdict {
	switch {
	case a == Invalid || b == Invalid:
		return Invalid
	case a == Unknown || b == Unknown:
		return Unknown
	}
	return Valid
}

func (v Verdict) String() string {
	switch v {
	case Valid:
		return "valid"
	case Invalid:
		return "invalid"
	}
	return "unknown"
}

// MarshalText writes the form of String.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the form of String.
func (v *Verdict) UnmarshalText(b []byte) error {
	for _, known := range []Verdict{Unknown, Valid, Invalid} {
		if string(b) == known.String() {
			*v = known
			return nil
		}
	}
	return fmt.Errorf("unknown verdict %q: use valid, invalid or unknown", b)
}

// Checks lists what a run must pass: what every run must, what its workload shows, and
// what the promise table gives at its levels in all of its modes.
func (s Spec) Checks() []Check {
	checks := []Check{WellFormed(), Enough(), Bite(), Available()}
	c, err := contractOf(s)
	if err != nil {
		return append(checks, unpromised(err))
	}
	switch s.Workload {
	case "set", "durability":
		checks = append(checks, Set())
	case "switch":
		checks = append(append(checks, s.registers(c)...), Set())
	case "counter", "once":
		checks = append(checks, Counter())
	case "append":
		checks = append(checks, Lists())
	case "watch":
		checks = append(checks, Watches())
	case "txn":
		checks = append(checks, Transactions())
	case "ttl":
		checks = append(checks, TTL())
	case "delete":
		checks = append(append(checks, s.registers(c)...), Deletes())
	default:
		checks = append(checks, s.registers(c)...)
	}
	return append(checks, Converge())
}

// registers lists the checks of keys that are written, deleted and read whole.
func (s Spec) registers(c contract) []Check {
	var checks []Check
	switch {
	case c.linear:
		checks = append(checks, Linearizable(), Porcupine(Limits{}))
	case c.bounded:
		checks = append(checks, Staleness(c.bound))
	}
	if s.Workload == "staleness" && !(c.bounded && !c.linear) {
		checks = append(checks, Staleness(0)) // for the figures, and what receipts claim
	}
	if c.overlap && !c.linear {
		checks = append(checks, quorumReadsAt(s))
	}
	if c.session && (s.Workload == "session" || s.Read.Kind == consistency.Session) {
		checks = append(checks, sessionsIn(c))
	}
	if c.prefix && !c.linear {
		checks = append(checks, Prefix())
	}
	if c.durable {
		return append(checks, Durable())
	}
	return append(checks, Loss())
}

// quorumReadsAt is QuorumReads with the defaults of mode quorum put in for levels that
// the run left to the keyspace.
func quorumReadsAt(s Spec) Check {
	c := QuorumReads()
	write, read := consistency.Defaults(consistency.Quorum)
	if s.Write.Kind == consistency.Default {
		s.Write = write
	}
	if s.Read.Kind == consistency.Default {
		s.Read = read
	}
	return Check{Name: c.Name, Run: func(h *history.History, _ Spec) Result { return c.Run(h, s) }}
}

// boundedAsAsked is Staleness with the bound of the run's read level, if it has one.
func boundedAsAsked() Check {
	return Check{Name: consistency.CheckBounded, Run: func(h *history.History, s Spec) Result { return Staleness(s.Read.Bound).Run(h, s) }}
}

// sessionsIn is Sessions for runs in which clocks may order the writes. There a
// session's write can be older than what the session has seen, when it goes to a node
// whose clock is behind: that is the documented loss of last-writer-wins, not a broken
// session. Such writes are left out, and counted in lww_overwritten_in_session.
//
// Where a read need not ask a replica that took the session's own write, which is so in
// mode quorum at weak levels of writes, the session need not see that write, either: only
// its reads are judged, and what it missed is counted in own_writes_missed.
func sessionsIn(c contract) Check {
	name := consistency.CheckSession
	return Check{Name: name, Run: func(h *history.History, s Spec) Result {
		n := 0
		if !c.ordered {
			h, n = withoutOverwritten(h)
		}
		r := sessions(h, c.own)
		if !c.ordered {
			r.Stats["lww_overwritten_in_session"] = float64(n)
		}
		return r
	}}
}

// withoutOverwritten takes out of their sessions the writes that are older than what
// their session had seen of the key. h itself stays as it is.
func withoutOverwritten(h *history.History) (*history.History, int) {
	type place struct {
		session int
		key     string
	}
	seen := map[place]fulcrum.Version{}
	out, n := h, 0
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Session == 0 || op.Outcome != history.OK || op.Version.IsZero() {
			continue
		}
		at := place{op.Session, op.Key}
		if newest := seen[at]; newest.Less(op.Version) {
			seen[at] = op.Version
			continue
		}
		if !changed(op) {
			continue
		}
		if n++; n == 1 {
			out = &history.History{Ops: slices.Clone(h.Ops), Events: h.Events}
		}
		out.Ops[i].Session = 0
	}
	return out, n
}

// unpromised is the check of a run at levels that no mode of it offers.
func unpromised(err error) Check {
	return Check{Name: "promise", Run: func(*history.History, Spec) Result {
		return Result{Check: "promise", Verdict: Unknown, Detail: err.Error()}
	}}
}

// All lists every check there is, each under its name.
func All() []Check {
	return []Check{WellFormed(), Enough(), Bite(), Available(), Linearizable(), Porcupine(Limits{}),
		boundedAsAsked(), QuorumReads(), Sessions(), Prefix(), Durable(), Loss(), LostWrites(), Set(), Counter(), Lists(), Transactions(), Deletes(), TTL(), Watches(), Converge()}
}

// ByName returns the check of that name; its error lists the names.
func ByName(name string) (Check, error) {
	var names []string
	for _, c := range All() {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return Check{}, fmt.Errorf("unknown check %q: use one of %s", name, strings.Join(names, ", "))
}
