package history

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"io"
	"strconv"
	"unicode/utf8"

	"fulcrum/consistency"
)

// The names of outcomes and phases in files.
var (
	outcomeNames = [...]string{Info: "info", OK: "ok", Fail: "fail"}
	phaseNames   = [...]string{Main: "main", Final: "final"}
)

func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return "outcome(" + strconv.Itoa(int(o)) + ")"
}

// nemesisProcess stands where an operation has the number of its process.
const nemesisProcess = "nemesis"

// WriteJSONL writes h as JSON lines, one object for each step by time: an operation is
// its "invoke" and then its "ok", "fail" or "info", under Jepsen's names for what Jepsen
// knows. ReadJSONL reads it back and nothing is lost, the order of Ops included. Times
// and durations are nanoseconds. A history that breaks the rules of Op is refused with
// fulcrum.CodeInternal; what the writer returns is returned as it is.
func WriteJSONL(w io.Writer, h *History) error {
	out := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	index := 0
	err := h.steps(func(s step) error {
		line = append(line[:0], `{"index":`...)
		line = strconv.AppendInt(line, int64(index), 10)
		index++
		switch {
		case s.op < 0:
			line = appendEvent(line, &h.Events[s.event])
		case s.end:
			line = appendCompletion(line, &h.Ops[s.op])
		default:
			line = appendInvoke(line, &h.Ops[s.op])
		}
		line = append(line, "}\n"...)
		_, err := out.Write(line)
		return err
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

func appendInvoke(b []byte, op *Op) []byte {
	b = appendInt(b, "time", int64(op.Invoke))
	b = append(b, `,"type":"invoke"`...)
	b = appendHead(b, op)
	b = appendInt(b, "client", int64(op.Client))
	if op.Session != 0 {
		b = appendInt(b, "session", int64(op.Session))
	}
	b = appendBool(b, "token", op.Token)
	if op.Phase != Main {
		b = appendText(b, "phase", phaseNames[op.Phase])
	}
	b = appendOptional(b, "node", string(op.Node))
	if op.Level != (consistency.Level{}) {
		b = appendText(b, "level", op.Level.String())
	}
	if !op.Expect.IsZero() {
		b = appendText(b, "expect", op.Expect.String())
	}
	if op.TTL != 0 {
		b = appendInt(b, "ttl", int64(op.TTL))
	}
	return b
}

// appendHead appends what both lines of an operation say. A Read and a Scan have their
// value only when they are over.
func appendHead(b []byte, op *Op) []byte {
	b = appendInt(b, "process", int64(op.Process))
	b = appendText(b, "f", string(op.F))
	b = appendOptional(b, "key", op.Key)
	if !op.F.Mutates() {
		return b
	}
	return appendText(b, "value", op.Value)
}

func appendCompletion(b []byte, op *Op) []byte {
	b = appendInt(b, "time", int64(op.Return))
	b = appendText(b, "type", op.Outcome.String())
	b = appendHead(b, op)
	if !op.F.Mutates() {
		if op.Found || op.Value != "" {
			b = appendText(b, "value", op.Value)
		} else {
			b = append(b, `,"value":null`...)
		}
	}
	b = appendBool(b, "found", op.Found)
	if op.Elements != nil {
		b = appendElements(b, op.Elements)
	}
	if !op.Version.IsZero() {
		b = appendText(b, "version", op.Version.String())
	}
	if op.Given != (consistency.Level{}) {
		b = appendText(b, "given", op.Given.String())
	}
	if op.Given != (consistency.Level{}) || op.Mode != 0 {
		b = appendText(b, "mode", op.Mode.String())
	}
	if op.Staleness != -1 {
		b = appendInt(b, "staleness", int64(op.Staleness))
	}
	if op.Acks != 0 {
		b = appendInt(b, "acks", int64(op.Acks))
	}
	if op.Epoch != 0 {
		b = strconv.AppendUint(append(b, `,"epoch":`...), uint64(op.Epoch), 10)
	}
	b = appendOptional(b, "code", string(op.Code))
	return appendOptional(b, "error", op.Error)
}

func appendElements(b []byte, elements []Element) []byte {
	b = append(b, `,"elements":[`...)
	for i, e := range elements {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"key":`...)
		b = appendString(b, e.Key)
		b = appendText(b, "value", e.Value)
		if !e.Version.IsZero() {
			b = appendText(b, "version", e.Version.String())
		}
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendEvent(b []byte, e *Event) []byte {
	b = appendInt(b, "time", int64(e.Time))
	b = append(b, `,"type":"info","process":"nemesis"`...)
	b = appendText(b, "f", e.F)
	b = appendOptional(b, "fault", e.Fault)
	b = appendOptional(b, "value", e.Value)
	if e.Hits != 0 {
		b = appendInt(b, "hits", e.Hits)
	}
	return appendOptional(b, "error", e.Error)
}

func appendInt(b []byte, name string, v int64) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	return strconv.AppendInt(b, v, 10)
}

func appendBool(b []byte, name string, v bool) []byte {
	if !v {
		return b
	}
	return append(append(append(b, `,"`...), name...), `":true`...)
}

func appendOptional(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	return appendText(b, name, v)
}

func appendText(b []byte, name, v string) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	return appendString(b, v)
}

// appendString appends s as a JSON string; what is no UTF-8, as {"base64": "..."}: a
// replica with a broken disk may well answer with bytes that are no text.
func appendString(b []byte, s string) []byte {
	switch {
	case plain(s):
		return append(append(append(b, '"'), s...), '"')
	case utf8.ValidString(s):
		quoted, _ := json.Marshal(s) // a string always has a JSON form
		return append(b, quoted...)
	}
	b = append(b, `{"base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, []byte(s))
	return append(b, `"}`...)
}
