package history

import (
	"bufio"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"fulcrum"
)

// WriteEDN writes h as Jepsen's history.edn, one map a line, for Jepsen's own checkers
// and for elle-cli. Its steps and indexes are those of WriteJSONL.
//
// Values have the shape that the checker of the workload wants:
//   - of a key: [key value] as jepsen.independent does, [key [old new]] for a cas, nil
//     where nothing stands. A delete writes nil. Values that are decimal are numbers.
//   - of a list: transactions, [[:append key value]] and [[:r key [values]]] (elle's
//     list-append); other transactions in the same form, with :w for what is put or deleted;
//   - of a set: the element's key, and a read's keys in a vector (set-full); where there
//     are several sets, both behind the set's prefix, again as jepsen.independent does.
//     A scan of a history without sets is a :scan of [prefix [[key value] ...]].
func WriteEDN(w io.Writer, h *History) error {
	return newEDN(h).write(w, h)
}

func (e *edn) write(w io.Writer, h *History) error {
	out := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	index := int64(0)
	err := h.steps(func(s step) error {
		switch {
		case s.op < 0:
			line = e.event(line[:0], &h.Events[s.event])
		case e.alone != "" && e.object(&h.Ops[s.op]) != e.alone:
			return nil
		default:
			line = e.op(line[:0], &h.Ops[s.op], s.end)
		}
		line = append(line, ", :index "...)
		line = strconv.AppendInt(line, index, 10)
		line = append(line, "}\n"...)
		index++
		_, err := out.Write(line)
		return err
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// edn is what must be known of the whole history to write one line of it.
type edn struct {
	lists    map[string]bool   // keys that were appended to
	counters map[string]bool   // keys that were added to
	sets     map[string]bool   // prefixes that were scanned, when elements were added; nil when none was
	old      map[written]value // what a cas expected to find
	alone    string            // the only object to write, whose name its values then lack; "": all
}

type written struct {
	key     string
	version fulcrum.Version
}

type value struct {
	text string
	live bool
}

func newEDN(h *History) *edn {
	e := &edn{lists: map[string]bool{}, counters: map[string]bool{}, old: map[written]value{}}
	added, scanned := false, map[string]bool{}
	for i := range h.Ops {
		switch op := &h.Ops[i]; op.F {
		case Append:
			e.lists[op.Key] = true
		case Incr:
			e.counters[op.Key] = true
		case Add:
			added = true
		case Scan:
			scanned[op.Key] = true
		case CAS:
			e.old[written{op.Key, op.Expect}] = value{}
		}
	}
	if added {
		e.sets = scanned
	}
	if len(e.old) == 0 {
		return e
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		at := written{op.Key, op.Version}
		if _, asked := e.old[at]; asked && !op.Version.IsZero() && op.Outcome != Fail {
			e.old[at] = value{op.Value, op.F == Write || op.F == CAS || op.F == Read && op.Found}
		}
	}
	return e
}

func (e *edn) event(b []byte, ev *Event) []byte {
	b = append(b, "{:type :info, :f :"...)
	b = AppendKeyword(b, ev.F+"-"+ev.Fault)
	b = append(b, ", :value "...)
	if ev.Value == "" {
		b = append(b, "nil"...)
	} else {
		b = AppendEDN(b, ev.Value)
	}
	if ev.F == "stop" && ev.Hits >= 0 {
		b = strconv.AppendInt(append(b, ", :hits "...), ev.Hits, 10)
	}
	if ev.Error != "" {
		b = AppendEDN(append(b, ", :error "...), ev.Error)
	}
	return strconv.AppendInt(append(b, ", :process :nemesis, :time "...), int64(ev.Time), 10)
}

func (e *edn) op(b []byte, op *Op, end bool) []byte {
	kind, at := "invoke", op.Invoke
	if end {
		kind, at = op.Outcome.String(), op.Return
	}
	b = append(append(b, "{:type :"...), kind...)
	b = append(b, ", :f :"...)
	b = append(b, e.name(op)...)
	b = append(b, ", :value "...)
	b = e.value(b, op, end && op.Outcome == OK)
	b = strconv.AppendInt(append(b, ", :process "...), int64(op.Process), 10)
	b = strconv.AppendInt(append(b, ", :time "...), int64(at), 10)
	b = AppendEDN(append(b, ", :node "...), string(op.Node))
	if end && (op.Code != "" || op.Error != "") {
		code := op.Code
		if code == "" {
			code = fulcrum.CodeUnknown
		}
		b = AppendKeyword(append(b, ", :error [:"...), string(code))
		b = AppendEDN(append(b, ' '), op.Error)
		b = append(b, ']')
	}
	return b
}

// name is what the checkers of Jepsen call op.
func (e *edn) name(op *Op) string {
	switch {
	case op.F == Append || op.F == Txn || op.F == Read && e.lists[op.Key]:
		return "txn"
	case op.F == Delete:
		return "write"
	case op.F == Incr:
		return "add"
	case op.F == Scan && e.sets != nil:
		return "read"
	}
	return string(op.F)
}

// object is the register, the counter or the set that op is about; "" where a checker wants
// the operations of all objects together.
func (e *edn) object(op *Op) string {
	switch op.F {
	case Write, CAS, Delete, Incr:
		return op.Key
	case Read:
		if !e.lists[op.Key] {
			return op.Key
		}
	case Add:
		return e.setOf(op.Key)
	case Scan:
		if e.sets != nil {
			return op.Key
		}
	}
	return ""
}

// value appends op's value, behind the name of its object where there are several. What
// was read is known only when it was answered.
func (e *edn) value(b []byte, op *Op, answered bool) []byte {
	switch {
	case op.F == Txn:
		return appendTxn(b, op, answered)
	case op.F == Append:
		b = AppendEDN(append(b, "[[:append "...), op.Key)
		return append(appendValue(append(b, ' '), op.Value), "]]"...)
	case op.F == Read && e.lists[op.Key]:
		b = AppendEDN(append(b, "[[:r "...), op.Key)
		return append(appendList(append(b, ' '), op.Value, answered), "]]"...)
	case e.alone != "", op.F == Add && len(e.sets) < 2, op.F == Scan && len(e.sets) == 1:
		return e.plain(b, op, answered)
	}
	object := op.Key
	if op.F == Add {
		object = e.setOf(op.Key)
	}
	b = append(AppendEDN(append(b, '['), object), ' ')
	return append(e.plain(b, op, answered), ']')
}

// plain appends op's value alone.
func (e *edn) plain(b []byte, op *Op, answered bool) []byte {
	switch {
	case op.F == Add:
		return appendValue(b, op.Key)
	case op.F == Scan && answered:
		return e.elements(b, op.Elements)
	case op.F == CAS:
		b = append(b, '[')
		if old := e.old[written{op.Key, op.Expect}]; old.live {
			b = appendValue(b, old.text)
		} else {
			b = append(b, "nil"...)
		}
		return append(appendValue(append(b, ' '), op.Value), ']')
	case op.F == Read && answered && !op.Found && e.counters[op.Key]:
		return append(b, '0') // a counter that is not there yet; Jepsen's cannot compare nil
	case op.F == Scan, op.F == Delete, op.F == Read && (!answered || !op.Found):
		return append(b, "nil"...)
	}
	return appendValue(b, op.Value)
}

// setOf is the set that an element belongs to: the longest prefix that was scanned.
func (e *edn) setOf(key string) string {
	for n := len(key); n > 0; n-- {
		if e.sets[key[:n]] {
			return key[:n]
		}
	}
	return ""
}

func (e *edn) elements(b []byte, elements []Element) []byte {
	b = append(b, '[')
	for i, el := range elements {
		if i > 0 {
			b = append(b, ' ')
		}
		if e.sets != nil {
			b = appendValue(b, el.Key)
			continue
		}
		b = append(AppendEDN(append(b, '['), el.Key), ' ')
		b = append(appendValue(b, el.Value), ']')
	}
	return append(b, ']')
}

// appendList appends a list as Append made it: each value with a comma behind it.
func appendList(b []byte, list string, answered bool) []byte {
	if !answered {
		return append(b, "nil"...)
	}
	b = append(b, '[')
	first := true
	for v := range strings.SplitSeq(strings.TrimSuffix(list, ","), ",") {
		if list == "" {
			break
		}
		if !first {
			b = append(b, ' ')
		}
		first = false
		b = appendValue(b, v)
	}
	return append(b, ']')
}

// appendValue appends v as a number when it is the usual form of one.
func appendValue(b []byte, v string) []byte {
	if n, err := strconv.ParseInt(v, 10, 64); err == nil && strconv.FormatInt(n, 10) == v {
		return append(b, v...)
	}
	return AppendEDN(b, v)
}

// AppendEDN appends s as an EDN string. A byte that is no UTF-8 becomes U+FFFD and its
// two hexadecimal digits: EDN knows no other.
func AppendEDN(b []byte, s string) []byte {
	b = append(b, '"')
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case r == utf8.RuneError && n == 1:
			b = append(utf8.AppendRune(b, r), hex[s[0]>>4], hex[s[0]&15])
		case r < ' ' || r == 0x7f:
			b = append(b, `\u00`...)
			b = append(b, hex[r>>4], hex[r&15])
		default:
			b = append(b, s[:n]...)
		}
		s = s[n:]
	}
	return append(b, '"')
}

const hex = "0123456789abcdef"

// AppendKeyword appends s as an EDN keyword without its colon, with a dash for every character that may not stand in a
// keyword.
func AppendKeyword(b []byte, s string) []byte {
	for _, r := range s {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.*+!?", r)) {
			b = append(b, byte(r))
		} else {
			b = append(b, '-')
		}
	}
	return b
}
