package history

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// maxLineBytes bounds one line: a scan of a whole keyspace is long, garbage is longer.
const maxLineBytes = 256 << 20

// ReadJSONL reads what WriteJSONL wrote. A file that was cut off, edited by hand or is
// something else altogether gives a *fulcrum.Error of CodeInvalid that names the line
// and what is wrong with it.
func ReadJSONL(r io.Reader) (*History, error) {
	in := newLines(r)
	p := parser{h: &History{}, open: map[int]opened{}, gone: map[int]int{}, names: map[string]string{}, levels: map[string]consistency.Level{}}
	for {
		b, err := in.read()
		if err == io.EOF {
			if err = p.finish(); err == nil {
				return p.h, nil
			}
		} else if err == nil {
			var l line
			if err = l.parse(b); err == nil {
				err = p.add(&l, in.number)
			}
		}
		if err != nil {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "history: line %d: %w", in.number, err).
				WithHint("history.jsonl was cut off or edited, or is another file: take it from the run's folder, or repeat the run")
		}
	}
}

// lines splits a stream into lines.
type lines struct {
	in     *bufio.Reader
	long   []byte // holds a line that is longer than in's buffer
	number int    // of the line, from 1
}

func newLines(r io.Reader) *lines { return &lines{in: bufio.NewReaderSize(r, 64<<10)} }

// read returns the next line without its newline. What follows the last newline is a
// line that was cut off.
func (l *lines) read() ([]byte, error) {
	l.long = l.long[:0]
	l.number++
	for {
		b, err := l.in.ReadSlice('\n')
		switch {
		case err == nil && len(l.long) == 0:
			return b[:len(b)-1], nil
		case len(l.long)+len(b) > maxLineBytes:
			return nil, fmt.Errorf("longer than %d bytes", maxLineBytes)
		case err == nil:
			l.long = append(l.long, b...)
			return l.long[:len(l.long)-1], nil
		case err == bufio.ErrBufferFull:
			l.long = append(l.long, b...)
		case err == io.EOF && len(l.long)+len(b) == 0:
			return nil, io.EOF
		case err == io.EOF:
			return nil, fmt.Errorf("the last line is cut off, it has no newline: %q", clip(append(l.long, b...)))
		default:
			return nil, err
		}
	}
}

// clip shortens what an error quotes.
func clip(b []byte) []byte {
	const most = 80
	if len(b) <= most {
		return b
	}
	return append(slices.Clone(b[:most]), "..."...)
}

// parser pairs lines to operations. Invariant: open holds the processes that are in an
// operation, gone those that may never act again.
type parser struct {
	h     *History
	open  map[int]opened
	gone  map[int]int // process -> the line of its unknown outcome
	last  int64       // time of the line before
	count int64       // lines so far
	names map[string]string
	// levels that were read: there are few, and each has to be parsed
	levels map[string]consistency.Level
}

type opened struct{ op, line int }

func (p *parser) add(l *line, number int) error {
	switch {
	case !l.hasIndex || !l.hasTime || len(l.kind) == 0 || len(l.process) == 0:
		return errors.New("index, time, type or process is missing")
	case l.index != p.count:
		return fmt.Errorf("index is %d and should be %d: lines were lost, added or moved", l.index, p.count)
	case l.time < p.last:
		return fmt.Errorf("time goes back from %d to %d", p.last, l.time)
	}
	p.count, p.last = p.count+1, l.time
	if string(l.process) == strconv.Quote(nemesisProcess) {
		return p.event(l)
	}
	process, err := strconv.Atoi(string(l.process))
	if err != nil || process < 0 {
		return fmt.Errorf("process %s: want a number or %q", clip(l.process), nemesisProcess)
	}
	if len(l.fault) > 0 || l.hits != 0 {
		return errors.New("fault and hits belong to the nemesis")
	}
	if string(l.kind) == "invoke" {
		return p.invoke(l, process, number)
	}
	outcome := slices.Index(outcomeNames[:], string(l.kind))
	if outcome < 0 {
		return fmt.Errorf("unknown type %q: want invoke, ok, fail or info", l.kind)
	}
	return p.complete(l, process, number, Outcome(outcome))
}

func (p *parser) event(l *line) error {
	if string(l.kind) != "info" {
		return fmt.Errorf("type %q: events of the nemesis are of type info", l.kind)
	}
	if f := string(l.f); f != "start" && f != "stop" && f != "phase" {
		return fmt.Errorf("unknown f %q of the nemesis: want start, stop or phase", f)
	}
	p.h.Events = append(p.h.Events, Event{
		Time: time.Duration(l.time), F: p.name(l.f), Fault: p.name(l.fault), Value: string(l.value), Hits: l.hits, Error: string(l.error),
	})
	return nil
}

func (p *parser) invoke(l *line, process, number int) error {
	if at, ok := p.gone[process]; ok {
		return fmt.Errorf("process %d acts again after its unknown outcome in line %d", process, at)
	}
	if o, ok := p.open[process]; ok {
		return fmt.Errorf("process %d is still in the %s of line %d", process, p.h.Ops[o.op].F, o.line)
	}
	f := F(p.name(l.f))
	if !slices.Contains(operations[:], f) {
		return fmt.Errorf("unknown f %q: want one of %s", f, operations)
	}
	phase := 0
	if len(l.phase) > 0 {
		if phase = slices.Index(phaseNames[:], string(l.phase)); phase < 0 {
			return fmt.Errorf("unknown phase %q: want one of %s", l.phase, phaseNames)
		}
	}
	level, err := p.level(l.level)
	if err != nil {
		return err
	}
	expect, err := version(l.expect)
	if err != nil {
		return err
	}
	p.open[process] = opened{len(p.h.Ops), number}
	p.h.Ops = append(p.h.Ops, Op{
		Process: process, Client: int(l.client), Session: int(l.session), Token: l.token, Phase: Phase(phase), F: f,
		Node: fulcrum.NodeID(p.name(l.node)), Level: level, Key: p.name(l.key), Value: string(l.value),
		Expect: expect, TTL: time.Duration(l.ttl), Invoke: time.Duration(l.time),
	})
	return nil
}

var operations = [...]F{Read, Write, CAS, Delete, Add, Incr, Append, Scan, Pair, Watch, Txn}

func (p *parser) complete(l *line, process, number int, outcome Outcome) error {
	o, ok := p.open[process]
	if !ok {
		return fmt.Errorf("process %d completes (%s) what it did not invoke", process, l.kind)
	}
	delete(p.open, process)
	op := &p.h.Ops[o.op]
	if op.F != F(l.f) || op.Key != string(l.key) || op.F.Mutates() && op.Value != string(l.value) {
		return fmt.Errorf("it completes %s %q and line %d invoked %s %q: f, key or value was changed", l.f, l.key, o.line, op.F, op.Key)
	}
	if outcome == Info {
		p.gone[process] = number
	}
	op.Return, op.Outcome = time.Duration(l.time), outcome
	if !op.F.Mutates() {
		op.Value = string(l.value)
	}
	op.Found, op.Acks, op.Epoch, op.Code, op.Error = l.found, int(l.acks), fulcrum.Epoch(l.epoch), fulcrum.Code(p.name(l.code)), string(l.error)
	op.Staleness = -1
	if l.hasStaleness {
		op.Staleness = time.Duration(l.staleness)
	}
	return p.reply(op, l)
}

// reply fills in what has a text form of its own.
func (p *parser) reply(op *Op, l *line) (err error) {
	if op.Version, err = version(l.version); err != nil {
		return err
	}
	if op.Given, err = p.level(l.given); err != nil {
		return err
	}
	if len(l.mode) > 0 {
		if op.Mode, err = consistency.ParseMode(string(l.mode)); err != nil {
			return err
		}
	}
	if l.elements == nil {
		return nil
	}
	op.Elements = make([]Element, len(l.elements))
	for i, e := range l.elements {
		v, err := version([]byte(e.Version))
		if err != nil {
			return err
		}
		op.Elements[i] = Element{Key: p.name([]byte(e.Key)), Value: string(e.Value), Version: v}
	}
	return nil
}

func version(s []byte) (fulcrum.Version, error) {
	if len(s) == 0 {
		return fulcrum.Version{}, nil
	}
	return fulcrum.ParseVersion(string(s))
}

func (p *parser) level(s []byte) (consistency.Level, error) {
	if l, ok := p.levels[string(s)]; ok {
		return l, nil
	}
	l, err := consistency.ParseLevel(string(s))
	if err == nil {
		p.levels[string(s)] = l
	}
	return l, err
}

// name returns s, one string for all that are equal: a million operations share few
// keys and nodes.
func (p *parser) name(s []byte) string {
	if n, ok := p.names[string(s)]; ok {
		return n
	}
	n := string(s)
	p.names[n] = n
	return n
}

func (p *parser) finish() error {
	first := -1
	for process, o := range p.open {
		if first < 0 || o.line < p.open[first].line {
			first = process
		}
	}
	if first >= 0 {
		return fmt.Errorf("the file ends and process %d is still in its operation of line %d", first, p.open[first].line)
	}
	return nil
}
