package history

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// random makes a history that keeps the rules: clients take turns at will, unknown
// outcomes end their process, and times often collide as they do in virtual time.
func random(rnd *rand.Rand, ops int) *History {
	h := &History{}
	const clients = 5
	process := [clients]int{}
	free := [clients]time.Duration{}
	next := clients
	for c := range process {
		process[c] = c
	}
	texts := []string{"", "a", "17", "k/ü", "line\nbreak \"quoted\" \\", "\x00\x7f", "\xff\xfebroken", "<&>\u2028", "\ufffd"}
	pick := func() string { return texts[rnd.IntN(len(texts))] }
	levels := []consistency.Level{{}, consistency.L(consistency.QuorumOf), {Kind: consistency.Bounded, Bound: 1500 * time.Millisecond}}
	v := func() fulcrum.Version {
		return fulcrum.Version{Time: uint64(rnd.IntN(3)) * 77, Actor: uint32(rnd.IntN(2))}
	}
	now := time.Duration(0)
	for range ops {
		c := rnd.IntN(clients)
		now = max(now+time.Duration(rnd.IntN(3)), free[c])
		op := Op{
			Process: process[c], Client: c, Session: rnd.IntN(3), Token: rnd.IntN(2) == 0, Phase: Phase(rnd.IntN(2)), F: operations[rnd.IntN(len(operations))],
			Node: fulcrum.NodeID(pick()), Level: levels[rnd.IntN(3)], Given: levels[rnd.IntN(3)], Key: pick(), Value: pick(), Found: rnd.IntN(2) == 0,
			Expect: v(), Version: v(), TTL: time.Duration(rnd.IntN(2)), Staleness: time.Duration(rnd.IntN(4) - 2), Acks: rnd.IntN(3),
			Mode: consistency.Modes[rnd.IntN(3)], Epoch: fulcrum.Epoch(rnd.Uint64()), Invoke: now, Return: now + time.Duration(rnd.IntN(6)),
			Outcome: Outcome(rnd.IntN(3)), Code: fulcrum.Code(pick()), Error: pick(),
		}
		for range rnd.IntN(3) {
			op.Elements = append(op.Elements, Element{pick(), pick(), v()})
		}
		if op.F == Scan && op.Elements == nil {
			op.Elements = []Element{}
		}
		free[c] = op.Return
		if op.Outcome == Info {
			process[c], next = next, next+1
		}
		h.Ops = append(h.Ops, op)
		if rnd.IntN(10) == 0 {
			h.Events = append(h.Events, Event{now, []string{"start", "stop", "phase"}[rnd.IntN(3)], pick(), pick(), int64(rnd.IntN(4) - 1), pick()})
		}
	}
	return h
}

func encode(t testing.TB, h *History) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteJSONL(&b, h); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestNothingIsLostInAFile(t *testing.T) {
	for seed := range uint64(200) {
		h := random(rand.New(rand.NewPCG(seed, 1)), int(seed))
		text := encode(t, h)
		back, err := ReadJSONL(strings.NewReader(text))
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		for i := range h.Ops {
			if !reflect.DeepEqual(h.Ops[i], back.Ops[i]) {
				t.Fatalf("seed %d: op %d was\n%+v\nand came back as\n%+v", seed, i, h.Ops[i], back.Ops[i])
			}
		}
		if !reflect.DeepEqual(h.Events, back.Events) || len(h.Ops) != len(back.Ops) {
			t.Fatalf("seed %d: events\n%+v\ncame back as\n%+v", seed, h.Events, back.Events)
		}
	}
}

// small has one write, one read that overlaps it, and an unknown cas.
func small() *History {
	v1, v2 := fulcrum.Version{Time: 0x10, Actor: 1}, fulcrum.Version{Time: 0x11, Actor: 1}
	return &History{
		Ops: []Op{
			{Process: 0, F: Write, Node: "n1", Key: "x", Value: "1", Version: v1, Invoke: 10, Return: 30, Outcome: OK, Staleness: -1},
			{Process: 1, F: Read, Node: "n2", Key: "x", Value: "1", Found: true, Version: v1, Invoke: 30, Return: 40, Outcome: OK, Staleness: -1},
			{Process: 0, F: CAS, Node: "n1", Key: "x", Value: "two", Expect: v1, Version: v2, Invoke: 50, Return: 60, Outcome: Info, Staleness: -1, Code: fulcrum.CodeUnknown, Error: "no \"answer\"\n"},
			{Process: 2, F: Delete, Node: "n3", Key: "y", Invoke: 60, Return: 70, Outcome: Fail, Staleness: -1},
		},
		Events: []Event{
			{Time: 5, F: "phase", Fault: PhaseMain},
			{Time: 20, F: "start", Fault: "partition-halves", Value: "n1 | n2 n3"},
			{Time: 55, F: "stop", Fault: "partition-halves", Hits: 7},
		},
	}
}

func TestJSONLinesAreJepsens(t *testing.T) {
	want := `{"index":0,"time":5,"type":"info","process":"nemesis","f":"phase","fault":"main"}
{"index":1,"time":10,"type":"invoke","process":0,"f":"write","key":"x","value":"1","client":0,"node":"n1"}
{"index":2,"time":20,"type":"info","process":"nemesis","f":"start","fault":"partition-halves","value":"n1 | n2 n3"}
{"index":3,"time":30,"type":"invoke","process":1,"f":"read","key":"x","client":0,"node":"n2"}
{"index":4,"time":30,"type":"ok","process":0,"f":"write","key":"x","value":"1","version":"10.1"}
{"index":5,"time":40,"type":"ok","process":1,"f":"read","key":"x","value":"1","found":true,"version":"10.1"}
{"index":6,"time":50,"type":"invoke","process":0,"f":"cas","key":"x","value":"two","client":0,"node":"n1","expect":"10.1"}
{"index":7,"time":55,"type":"info","process":"nemesis","f":"stop","fault":"partition-halves","hits":7}
{"index":8,"time":60,"type":"invoke","process":2,"f":"delete","key":"y","value":"","client":0,"node":"n3"}
{"index":9,"time":60,"type":"info","process":0,"f":"cas","key":"x","value":"two","version":"11.1","code":"unknown","error":"no \"answer\"\n"}
{"index":10,"time":70,"type":"fail","process":2,"f":"delete","key":"y","value":""}
`
	if got := encode(t, small()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestABadFileIsRefused(t *testing.T) {
	good := strings.SplitAfter(strings.TrimSuffix(encode(t, small()), "\n"), "\n")
	good[len(good)-1] += "\n"
	edit := func(line int, old, new string) string {
		l := append([]string(nil), good...)
		if !strings.Contains(l[line-1], old) {
			t.Fatalf("line %d has no %s", line, old)
		}
		l[line-1] = strings.Replace(l[line-1], old, new, 1)
		return strings.Join(l, "")
	}
	all := strings.Join(good, "")
	for name, c := range map[string]struct{ text, want string }{
		"cut in a line":         {all[:len(all)-20], "line 11: the last line is cut off"},
		"only the newline gone": {all[:len(all)-1], "line 11: the last line is cut off"},
		"cut between lines":     {strings.Join(good[:9], ""), "line 10: the file ends and process 0 is still in its operation of line 7"},
		"a line in the middle":  {strings.Join(append(append([]string(nil), good[:4]...), good[5:]...), ""), "line 5: index is 5 and should be 4"},
		"two in a line":         {strings.Replace(all, "}\n", "}", 1), "line 1: more than one object"},
		"broken in two":         {strings.Replace(all, `"f":"write"`, "\n", 1), "line 2: the line is cut off"},
		"unknown f":             {edit(2, `"write"`, `"wirte"`), `line 2: unknown f "wirte": want one of [read write`},
		"unknown type":          {edit(5, `"ok"`, `"okay"`), `line 5: unknown type "okay"`},
		"unknown field":         {edit(2, `"client"`, `"clinet"`), `line 2: unknown field "clinet"`},
		"unknown fault step":    {edit(3, `"start"`, `"begin"`), `line 3: unknown f "begin" of the nemesis`},
		"no invoke":             {edit(5, `"process":0`, `"process":4`), "line 5: process 4 completes (ok) what it did not invoke"},
		"after info":            {edit(11, `"fail","process":2`, `"invoke","process":0`), "line 11: process 0 acts again after its unknown outcome in line 10"},
		"twice at once":         {edit(4, `"process":1`, `"process":0`), "line 4: process 0 is still in the write of line 2"},
		"time":                  {edit(3, `"time":20`, `"time":9`), "line 3: time goes back from 10 to 9"},
		"another key":           {edit(6, `"x"`, `"y"`), `line 6: it completes read "y" and line 4 invoked read "x"`},
		"another value":         {edit(5, `"1"`, `"2"`), "line 5: it completes write"},
		"level":                 {edit(2, `"node"`, `"level":"most","node"`), `line 2: unknown level "most"`},
		"version":               {edit(5, `"10.1"`, `"10"`), `line 5: version "10"`},
		"mode":                  {edit(5, `"version"`, `"mode":"paxos","version"`), `line 5: unknown mode "paxos"`},
		"phase":                 {edit(2, `"node"`, `"phase":"last","node"`), `line 2: unknown phase "last"`},
		"process":               {edit(2, `:0,"f"`, `:"zero","f"`), `line 2: process "zero": want a number`},
		"nothing of a line":     {edit(2, `"time":10,`, ``), "line 2: index, time, type or process is missing"},
		"garbage":               {"PK\x03\x04", "line 1: the last line is cut off"},
		"more garbage":          {"PK\x03\x04\n", "line 1: not a JSON object"},
		"no comma":              {edit(2, `,"f"`, ` "f"`), "line 2: no JSON: want a comma"},
		"no colon":              {edit(2, `"f":`, `"f" `), "line 2: no JSON: want a colon"},
		"no quote":              {edit(2, `"write","key"`, `"write,"key"`), "line 2: no JSON: want a comma"},
		"a number as text":      {edit(2, `"time":10`, `"time":"10"`), `line 2: field "time" is "\"10\""`},
		"a fraction":            {edit(2, `"time":10`, `"time":10.5`), `line 2: field "time" is "10.5"`},
		"no base64":             {edit(2, `"x"`, `{"base64":"?"}`), `line 2: field "key"`},
		"a broken escape":       {edit(2, `"x"`, `"\x"`), `line 2: field "key"`},
		"half an object":        {edit(2, `"x"`, `{"base64":"eA=="`), "line 2: the line is cut off"},
		"elements":              {edit(6, `"found"`, `"elements":[{"kee":1}],"found"`), `line 6: field "elements"`},
		"an empty line":         {good[0] + "\n" + good[1], "line 2: not a JSON object"},
	} {
		h, err := ReadJSONL(strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || h != nil {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if fulcrum.AsError(err).Code != fulcrum.CodeInvalid {
			t.Errorf("%s: code %s", name, fulcrum.AsError(err).Code)
		}
	}
}

// TestEveryCutIsSeen cuts a file at every byte: either it is refused, or it was cut
// between lines where no operation was under way (only a checksum sees that).
func TestEveryCutIsSeen(t *testing.T) {
	all := encode(t, small())
	for n := range len(all) {
		h, err := ReadJSONL(strings.NewReader(all[:n]))
		if err == nil && n > 0 && all[n-1] != '\n' {
			t.Errorf("cut after %d bytes is accepted: %+v", n, h)
		}
	}
}

func TestALongLineIsRead(t *testing.T) {
	h := &History{Ops: []Op{{F: Scan, Key: "p", Outcome: OK, Staleness: -1, Return: 1}}}
	for i := range 20_000 {
		h.Ops[0].Elements = append(h.Ops[0].Elements, Element{Key: fmt.Sprintf("p%d", i)})
	}
	back, err := ReadJSONL(strings.NewReader(encode(t, h)))
	if err != nil || !reflect.DeepEqual(h, back) {
		t.Fatalf("a line of many elements: %v", err)
	}
}

func TestABrokenRecorderIsRefused(t *testing.T) {
	for name, change := range map[string]func(h *History){
		"returned early":   func(h *History) { h.Ops[0].Return = 5 },
		"out of order":     func(h *History) { h.Ops[1].Invoke = 1 },
		"two at once":      func(h *History) { h.Ops[1].Process = 0; h.Ops[1].Invoke = 20 },
		"after an unknown": func(h *History) { h.Ops[3].Process, h.Ops[3].Invoke = 0, 65 },
		"in that instant":  func(h *History) { h.Ops[3].Process = 0 },
		"negative process": func(h *History) { h.Ops[0].Process = -1 },
		"events":           func(h *History) { h.Events[2].Time = 1 },
	} {
		h := small()
		change(h)
		if err := WriteJSONL(io.Discard, h); fulcrum.AsError(err) == nil || fulcrum.AsError(err).Code != fulcrum.CodeInternal {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAFullDiskIsReported(t *testing.T) {
	h := random(rand.New(rand.NewPCG(1, 1)), 2000)
	if err := WriteJSONL(full{}, h); err != errFull {
		t.Errorf("jsonl: %v", err)
	}
	if err := WriteEDN(full{}, h); err != errFull {
		t.Errorf("edn: %v", err)
	}
}

type full struct{}

var errFull = fmt.Errorf("no space")

func (full) Write([]byte) (int, error) { return 0, errFull }

// TestWritingStreams writes many operations and holds nothing of them: a run
// must not need its memory twice.
func TestWritingStreams(t *testing.T) {
	h := &History{Ops: make([]Op, 200_000)}
	for i := range h.Ops {
		at := time.Duration(i) * time.Millisecond
		h.Ops[i] = Op{Process: i % 10, F: Write, Key: "k", Value: "v", Invoke: at, Return: at + 1, Outcome: OK}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := WriteJSONL(io.Discard, h); err != nil {
		t.Fatal(err)
	}
	if err := WriteEDN(io.Discard, h); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 48<<20 {
		t.Errorf("allocated %d MB for 200,000 operations", used>>20)
	}
}

func FuzzReadJSONL(f *testing.F) {
	f.Add(encode(f, small()))
	f.Add(encode(f, random(rand.New(rand.NewPCG(7, 7)), 20)))
	f.Add("{\"index\":0}\n")
	f.Add("[]\n{}")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ReadJSONL(strings.NewReader(text))
		if err != nil {
			return
		}
		again, err := ReadJSONL(strings.NewReader(encode(t, h)))
		if err != nil || !reflect.DeepEqual(h, again) {
			t.Errorf("read and written again it differs: %v", err)
		}
	})
}
