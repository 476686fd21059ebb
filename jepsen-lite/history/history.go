// Package history is what a run leaves behind to be judged: every operation of every
// client with its outcome, and every step of the nemesis. It is pure data; file.go
// writes and reads it as Jepsen does (history.edn) and as JSON lines.
//
// Start reading at Op. There are three outcomes, and they are never mixed up: OK
// happened between Invoke and Return; Fail did not happen and never will; Info may
// have happened, at any time from Invoke on, even after Return.
package history

import (
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// F is what an operation does, under Jepsen's own names where it has one.
type F string

// The operations.
const (
	Read   F = "read"   // one key
	Write  F = "write"  // one key, blind
	CAS    F = "cas"    // writes Value where the key still has version Expect (the zero Version: where it is absent)
	Delete F = "delete" // one key, blind
	Add    F = "add"    // an element of a set: writes a key of its own, blind
	Incr   F = "incr"   // adds the decimal Value to a counter, atomically
	Append F = "append" // puts Value and a comma behind a list, atomically
	Scan   F = "scan"   // reads all keys with prefix Key; what it found is Elements
	Txn    F = "txn"    // a transaction on keys that begin with Key; Value is a TxnBody
	Pair   F = "pair"   // writes Value to two new keys, Key+PairOne and Key+PairTwo, in one step
	Watch  F = "watch"  // for a while, what changes under prefix Key behind the position Value
)

// What is behind the Key of a Pair.
const (
	PairOne = "/1"
	PairTwo = "/2"
)

// Mutates reports whether f may change something.
func (f F) Mutates() bool { return f != Read && f != Scan && f != Watch }

// Outcome is what is known of an operation.
type Outcome uint8

// The outcomes, Jepsen's :ok, :fail and :info.
const (
	Info Outcome = iota // unknown; the zero value on purpose: what nobody filled in proves nothing
	OK
	Fail
)

// Phase says in which part of a run an operation was made.
type Phase uint8

// The phases.
const (
	Main  Phase = iota // while the nemesis is at work
	Final              // after everything was healed and settled
)

// Element is one key of a Scan, or one change that a Watch tells: without a Value the key
// was removed, and without a Key a batch ends here, at position Value.
type Element struct {
	Key     string
	Value   string
	Version fulcrum.Version
}

// Op is one operation of one client.
//
// Times are since the start of the run, by one monotonic clock that all clients
// share. Invoke <= Return. For Info, Return is when the client gave up waiting and
// bounds nothing.
type Op struct {
	Process int   // a logical process: one operation at a time, and none after an Info
	Client  int   // the client thread that plays it: 0 ...
	Session int   // operations of one session follow each other; 0: none
	Token   bool  // the session's token was sent along
	Phase   Phase //
	F       F     //
	Node    fulcrum.NodeID
	Level   consistency.Level // asked for
	Given   consistency.Level // given, as the receipt says; zero when there was none

	Key      string
	Value    string          // Write, CAS, Add, Incr, Append, Pair, Txn: the argument. Watch: the position, if any. Read: what stood there
	Found    bool            // Read: a live value stood there. CAS: it was applied (an OK CAS always). Txn: Then was done
	Expect   fulcrum.Version // CAS
	Elements []Element       // Scan, Watch, Txn

	// Version is that of what was written or read, as the reply said; zero when it
	// said none. A Read that found nothing has the version of the tombstone, if the
	// replica still had one.
	Version fulcrum.Version

	TTL       time.Duration // Write, CAS: the value expires so long after it took effect; 0: never
	Staleness time.Duration // the receipt's claim of how old the answer may be; negative: none
	Acks      int
	Mode      consistency.Mode // in which the request was served, as the receipt says
	Epoch     fulcrum.Epoch

	Invoke, Return time.Duration
	Outcome        Outcome
	Code           fulcrum.Code // of the error, when not OK
	Error          string
}

// Event is one step of the nemesis, or a mark of the run itself.
type Event struct {
	Time  time.Duration
	F     string // "start", "stop": of a fault; "phase": the run's own marks
	Fault string // which fault: "partition-halves", "kill-one" ... ; of a phase, its name
	Value string // what exactly was done, for people
	Hits  int64  // stop: how often the fault was seen to act; negative: not known
	Error string // why it could not be done
}

// Marks of the run, Event.Fault of those with F "phase".
const (
	PhaseMain      = "main"      // clients begin
	PhaseHeal      = "heal"      // the nemesis has ended and everything is being mended
	PhaseRecovered = "recovered" // every node answers again
	PhaseFinal     = "final"     // final reads begin
	PhaseEnd       = "end"
)

// History is one run. Ops are in the order of their Invoke, Events in that of Time.
type History struct {
	Ops    []Op
	Events []Event
}

// Fault is one interval in which a fault was active.
type Fault struct {
	Name       string
	Value      string
	Start, End time.Duration
	Hits       int64
}

// Faults pairs the starts and stops of the events. A fault that was not stopped ends
// with the run.
func (h *History) Faults() []Fault {
	var out []Fault
	open := map[string]int{}
	for _, e := range h.Events {
		switch e.F {
		case "start":
			open[e.Fault] = len(out)
			out = append(out, Fault{Name: e.Fault, Value: e.Value, Start: e.Time, End: h.End(), Hits: -1})
		case "stop":
			if i, ok := open[e.Fault]; ok {
				out[i].End, out[i].Hits = e.Time, e.Hits
				delete(open, e.Fault)
			}
		}
	}
	return out
}

// Mark returns the time of the first mark of that name, and whether there is one.
func (h *History) Mark(name string) (time.Duration, bool) {
	for _, e := range h.Events {
		if e.F == "phase" && e.Fault == name {
			return e.Time, true
		}
	}
	return 0, false
}

// End is when the last thing of the run happened.
func (h *History) End() time.Duration {
	var end time.Duration
	for i := range h.Ops {
		end = max(end, h.Ops[i].Return)
	}
	if n := len(h.Events); n > 0 {
		end = max(end, h.Events[n-1].Time)
	}
	return end
}
