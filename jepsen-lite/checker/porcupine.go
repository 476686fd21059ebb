package checker

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"

	"github.com/anishathalye/porcupine"
)

// Limits bounds what porcupine is asked: its search is exponential in the operations
// that overlap, and those of unknown outcome overlap everything behind them. The zero
// value of a field means its default.
type Limits struct {
	Ops     int           // of one key; default 500
	Unknown int           // of one key's mutations, of unknown outcome; default 5
	Timeout time.Duration // for one key; default 1s
	Total   time.Duration // for all keys; default 5s
}

func (l Limits) orDefault() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Ops, 500)
	def(&l.Unknown, 5)
	if l.Timeout <= 0 {
		l.Timeout = time.Second
	}
	if l.Total <= 0 {
		l.Total = 5 * time.Second
	}
	return l
}

// Porcupine is the slow check: it searches an order for the operations of each key
// (Wing & Gong 1993, Lowe 2017) and believes no version, but to learn which value a
// CAS expected. Keys beyond the limits are counted in the figure keys_unknown; it is
// unknown when no key is within them.
func Porcupine(l Limits) Check {
	return Check{Name: "porcupine", Run: func(h *history.History, s Spec) Result {
		l := l.orDefault()
		t := newTally("porcupine")
		keys := byKey(h, func(op *history.Op) bool {
			return op.F != history.Scan && (op.F.Mutates() || judged(op, s))
		})
		began := time.Now()
		var decided, undecided int
		var reason string
		for k, key := range keys.names {
			verdict, why := Unknown, "no time was left"
			if time.Since(began) < l.Total {
				verdict, why = slowly(h, keys.ops(k), l)
			}
			switch verdict {
			case Invalid:
				t.add("not-linearizable", key, nil, "key %q: no order of its operations explains every answer", key)
				decided++
			case Valid:
				decided++
			default:
				undecided++
				reason = why
			}
		}
		t.stats["keys"], t.stats["keys_unknown"] = float64(decided+undecided), float64(undecided)
		if decided == 0 {
			t.unknown("none of %d keys could be decided: %s", undecided, reason)
		}
		return t.result("%d of %d keys are linearizable, without believing versions; the others are too large", decided, decided+undecided)
	}}
}

// slowly decides one key, or says why not.
func slowly(h *history.History, ops []int32, l Limits) (Verdict, string) {
	l = l.orDefault()
	if len(ops) > l.Ops {
		return Unknown, fmt.Sprintf("%d operations, the limit is %d", len(ops), l.Ops)
	}
	calls, why := callsOf(h, ops, valuesOf(h, ops))
	if why != "" {
		return Unknown, why
	}
	if n := open(calls); n > l.Unknown {
		return Unknown, fmt.Sprintf("%d operations of unknown outcome, the limit is %d", n, l.Unknown)
	}
	switch porcupine.CheckOperationsTimeout(cell(absentValue), calls, l.Timeout) {
	case porcupine.Ok:
		return Valid, ""
	case porcupine.Illegal:
		return Invalid, ""
	}
	return Unknown, "not decided within " + l.Timeout.String()
}

func open(calls []porcupine.Operation) int {
	n := 0
	for _, c := range calls {
		if c.Return == math.MaxInt64 {
			n++
		}
	}
	return n
}

// Values are numbered, which is quicker than strings.
const (
	anyValue    int32 = -1 // not known yet: the state before a cut-out part of a history
	absentValue int32 = 0
)

// call is the input of one operation on a cell, with its answer in it.
type call struct {
	f       history.F
	value   int32 // written, or read
	expect  int32 // CAS
	applied bool  // CAS: not refused
	unknown bool  // whether it happened
	text    string
}

// values numbers the values of a key, and says of them what callsOf must know.
type values struct {
	id      map[string]int32
	at      map[fulcrum.Version]int32 // the value of each version that was written or read
	seen    map[int32]bool            // what an answer or a condition shows
	refused bool                      // some CAS was
}

func valuesOf(h *history.History, ops []int32) values {
	v := values{id: map[string]int32{}, at: map[fulcrum.Version]int32{{}: absentValue}, seen: map[int32]bool{}}
	for _, i := range ops {
		op := &h.Ops[i]
		v.refused = v.refused || op.F == history.CAS && op.Outcome == history.OK && !op.Found
		read := op.F == history.Read && op.Outcome == history.OK && op.Found
		if read {
			v.seen[v.number(op.Value)] = true
		}
		if !op.Version.IsZero() && (read || changed(op) && op.F != history.Delete) {
			v.at[op.Version] = v.number(op.Value)
		}
	}
	for _, i := range ops {
		if n, ok := v.at[h.Ops[i].Expect]; ok && h.Ops[i].F == history.CAS {
			v.seen[n] = true
		}
	}
	return v
}

func (v values) number(value string) int32 {
	if _, ok := v.id[value]; !ok {
		v.id[value] = int32(len(v.id)) + 1
	}
	return v.id[value]
}

// callsOf makes porcupine's operations from those of one key, of which ops may be a
// part, or says why they cannot be put without versions.
func callsOf(h *history.History, ops []int32, v values) (calls []porcupine.Operation, why string) {
	clients := map[int]int{}
	for _, i := range ops {
		op := &h.Ops[i]
		if op.Outcome == history.Fail || op.F == history.Read && op.Outcome != history.OK {
			continue
		}
		c, useful, why := v.call(op)
		if why != "" {
			return nil, why
		}
		if !useful {
			continue
		}
		if _, ok := clients[op.Process]; !ok {
			clients[op.Process] = len(clients)
		}
		end := int64(op.Return)
		if c.unknown {
			end = math.MaxInt64
		}
		calls = append(calls, porcupine.Operation{ClientId: clients[op.Process], Input: c, Call: int64(op.Invoke), Return: end})
	}
	return calls, ""
}

// call is one operation's call, whether it can matter, or why it cannot be made.
func (v values) call(op *history.Op) (c call, useful bool, why string) {
	c = call{f: op.F, applied: op.Outcome != history.OK || op.Found, unknown: op.Outcome != history.OK, text: string(op.F) + " " + op.Value}
	switch {
	case !registerLike(op.F):
		return c, false, string(op.F) + " is no operation of a register"
	case op.TTL > 0:
		return c, false, "values with a TTL go without an operation"
	case op.F == history.Read && !op.Found:
		c.value, c.text = absentValue, "read nothing"
	case op.F == history.Delete:
		c.value, c.text = absentValue, "delete"
	default:
		c.value = v.number(op.Value)
	}
	// What nobody saw need not have happened, if nothing wants another state.
	if c.unknown && c.value != absentValue && !v.seen[c.value] && !v.refused {
		return c, false, ""
	}
	if op.F == history.CAS {
		expect, ok := v.at[op.Expect]
		if !ok && !c.applied {
			return c, false, "" // one refusal less: weaker, never wrong
		}
		if !ok {
			return c, false, "a CAS expected a version whose value no answer shows"
		}
		c.expect = expect
	}
	return c, true, ""
}

// cell is the model: one value, or none.
func cell(start int32) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return start },
		Step: func(state, input, _ any) (bool, any) {
			s, c := state.(int32), input.(call)
			switch {
			case c.f == history.Read:
				return s == c.value || s == anyValue, c.value
			case c.f == history.CAS && c.unknown && s != c.expect:
				return true, s // it was refused
			case c.f == history.CAS && c.applied:
				return s == c.expect || s == anyValue, c.value
			case c.f == history.CAS:
				return s != c.expect, s
			}
			return true, c.value
		},
		Hash: func(state any) uint64 { return uint64(uint32(state.(int32))) * 0x9e3779b97f4a7c15 },
		DescribeOperation: func(input, _ any) string {
			if c := input.(call); c.f == history.CAS && !c.applied {
				return c.text + ", refused"
			}
			return input.(call).text
		},
		DescribeState: func(state any) string {
			switch s := state.(int32); s {
			case anyValue:
				return "anything"
			case absentValue:
				return "absent"
			default:
				return fmt.Sprintf("value %d", s)
			}
		},
	}
}

// drawn is how many operations LinearHTML shows.
const drawn = 200

// LinearHTML draws what porcupine found out about one key, as a page that needs no
// network. Of a long history it shows the operations up to the end of the first
// anomaly that Linearizable finds, before which the key may have been anything. It is
// an error when the key has nothing that can be drawn.
func LinearHTML(h *history.History, key string) ([]byte, error) {
	keys := byKey(h, func(op *history.Op) bool { return op.Key == key && op.F != history.Scan })
	if len(keys.names) == 0 {
		return nil, fmt.Errorf("draw key %q: the history has no operation on it", key)
	}
	ops, start := keys.ops(0), absentValue
	values := valuesOf(h, ops)
	if len(ops) > drawn {
		ops, start = cutOut(h, key, ops), anyValue
	}
	calls, why := callsOf(h, ops, values)
	if why == "" && len(calls) == 0 {
		why = "none of its operations were answered"
	}
	if why != "" {
		return nil, fmt.Errorf("draw key %q: %s", key, why)
	}
	model := cell(start)
	_, info := porcupine.CheckOperationsVerbose(model, calls, 5*time.Second)
	var page bytes.Buffer
	if err := porcupine.Visualize(model, info, &page); err != nil {
		return nil, fmt.Errorf("draw key %q: %w", key, err)
	}
	return page.Bytes(), nil
}

// cutOut takes the operations of a long history that are worth looking at.
func cutOut(h *history.History, key string, ops []int32) []int32 {
	r := &register{h: h, t: newTally("")}
	if r.load(key, ops); r.t.found == 0 {
		r.linear()
	}
	last := never
	var shown []int
	if r.t.found > 0 {
		shown, last = r.t.anomalies[0].Ops, atStart
		for _, i := range shown {
			last = max(last, h.Ops[i].Invoke)
		}
	}
	to := slices.IndexFunc(ops, func(i int32) bool { return h.Ops[i].Invoke > last })
	if to < 0 {
		to = len(ops)
	}
	from := max(0, to-drawn)
	part := slices.Clone(ops[from:to])
	for _, i := range shown {
		if !slices.Contains(part, int32(i)) {
			part = append(part, int32(i))
		}
	}
	slices.Sort(part)
	return part
}
