package history

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"fulcrum"
)

func ednOf(t *testing.T, h *History) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteEDN(&b, h); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestEDNOfARegister(t *testing.T) {
	want := `{:type :info, :f :phase-main, :value nil, :process :nemesis, :time 5, :index 0}
{:type :invoke, :f :write, :value ["x" 1], :process 0, :time 10, :node "n1", :index 1}
{:type :info, :f :start-partition-halves, :value "n1 | n2 n3", :process :nemesis, :time 20, :index 2}
{:type :invoke, :f :read, :value ["x" nil], :process 1, :time 30, :node "n2", :index 3}
{:type :ok, :f :write, :value ["x" 1], :process 0, :time 30, :node "n1", :index 4}
{:type :ok, :f :read, :value ["x" 1], :process 1, :time 40, :node "n2", :index 5}
{:type :invoke, :f :cas, :value ["x" [1 "two"]], :process 0, :time 50, :node "n1", :index 6}
{:type :info, :f :stop-partition-halves, :value nil, :hits 7, :process :nemesis, :time 55, :index 7}
{:type :invoke, :f :write, :value ["y" nil], :process 2, :time 60, :node "n3", :index 8}
{:type :info, :f :cas, :value ["x" [1 "two"]], :process 0, :time 60, :node "n1", :error [:unknown "no \"answer\"\n"], :index 9}
{:type :fail, :f :write, :value ["y" nil], :process 2, :time 70, :node "n3", :index 10}
`
	if got := ednOf(t, small()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestEDNOfCollections checks the shapes that elle and Jepsen's set and counter checkers
// read.
func TestEDNOfCollections(t *testing.T) {
	one := func(op Op) *History {
		op.Return, op.Outcome, op.Found = 1, OK, true
		return &History{Ops: []Op{op}}
	}
	with := func(h *History, op Op) *History {
		op.Process, op.Invoke, op.Return, op.Outcome, op.Found = len(h.Ops), 2, 3, OK, true
		return &History{Ops: append(slices.Clone(h.Ops), op)}
	}
	appendOne := one(Op{F: Append, Key: "l", Value: "7"})
	addOne := one(Op{F: Add, Key: "e1", Value: "x"})
	elements := []Element{{Key: "p1", Value: "a"}, {Key: "p2", Value: "2"}}
	for name, c := range map[string]struct {
		h    *History
		want []string
	}{
		"append":     {appendOne, []string{`:invoke, :f :txn, :value [[:append "l" 7]]`}},
		"list":       {with(appendOne, Op{F: Read, Key: "l", Value: "7,x y,"}), []string{`:invoke, :f :txn, :value [[:r "l" nil]]`, `:ok, :f :txn, :value [[:r "l" [7 "x y"]]]`}},
		"empty list": {with(appendOne, Op{F: Read, Key: "l"}), []string{`:ok, :f :txn, :value [[:r "l" []]]`}},
		"other key":  {with(appendOne, Op{F: Read, Key: "m", Value: "7,"}), []string{`:ok, :f :read, :value ["m" "7,"]`}},
		"set":        {with(addOne, Op{F: Scan, Key: "p", Elements: elements}), []string{`:f :add, :value "e1"`, `:invoke, :f :read, :value nil`, `:ok, :f :read, :value ["p1" "p2"]`}},
		"two sets": {with(with(one(Op{F: Add, Key: "p1", Value: "x"}), Op{F: Scan, Key: "p", Elements: elements}), Op{Process: 2, F: Scan, Key: "q"}),
			[]string{`:f :add, :value ["p" "p1"]`, `:invoke, :f :read, :value ["p" nil]`, `:ok, :f :read, :value ["p" ["p1" "p2"]]`, `:ok, :f :read, :value ["q" []]`}},
		"scan":         {one(Op{F: Scan, Key: "p", Elements: elements}), []string{`:invoke, :f :scan, :value ["p" nil]`, `:ok, :f :scan, :value ["p" [["p1" "a"] ["p2" 2]]]`}},
		"counter":      {one(Op{F: Incr, Key: "c", Value: "-5"}), []string{`:f :add, :value ["c" -5]`}},
		"no number":    {one(Op{F: Write, Key: "c", Value: "007"}), []string{`["c" "007"]`}},
		"absent":       {one(Op{F: CAS, Key: "c", Value: "1"}), []string{`:f :cas, :value ["c" [nil 1]]`}},
		"of tombstone": {with(one(Op{F: Delete, Key: "c", Version: fulcrum.Version{Time: 4}}), Op{F: CAS, Key: "c", Value: "1", Expect: fulcrum.Version{Time: 4}}), []string{`:f :cas, :value ["c" [nil 1]]`}},
	} {
		got := ednOf(t, c.h)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: want %s in\n%s", name, want, got)
			}
		}
	}
}

// One object alone has the values that checkers of one object read, such as those of
// elle-cli: cas-register, counter, set-full.
func TestEDNOfOneObject(t *testing.T) {
	h := &History{
		Events: []Event{{Time: 0, F: "phase", Fault: "main", Hits: -1}},
		Ops: []Op{
			{Process: 0, F: Write, Key: "x", Value: "1", Invoke: 1, Return: 2, Outcome: OK, Version: fulcrum.Version{Time: 4}},
			{Process: 0, F: Write, Key: "y", Value: "9", Invoke: 3, Return: 4, Outcome: OK},
			{Process: 0, F: CAS, Key: "x", Value: "2", Expect: fulcrum.Version{Time: 4}, Invoke: 5, Return: 6, Outcome: Fail},
			{Process: 0, F: Read, Key: "x", Value: "1", Found: true, Invoke: 7, Return: 8, Outcome: OK},
			{Process: 0, F: Read, Key: "c", Invoke: 9, Return: 10, Outcome: OK},
			{Process: 0, F: Incr, Key: "c", Value: "3", Invoke: 11, Return: 12, Outcome: OK},
			{Process: 0, F: Add, Key: "s/1", Value: "a", Invoke: 13, Return: 14, Outcome: OK},
			{Process: 0, F: Scan, Key: "s/", Elements: []Element{{Key: "s/1", Value: "a"}}, Invoke: 15, Return: 16, Outcome: OK},
			{Process: 0, F: Scan, Key: "t/", Invoke: 17, Return: 18, Outcome: OK},
			{Process: 0, F: Append, Key: "l", Value: "1", Invoke: 19, Return: 20, Outcome: OK},
			{Process: 0, F: Read, Key: "l", Value: "1,", Found: true, Invoke: 21, Return: 22, Outcome: OK},
		},
	}
	if got, want := Objects(h), []string{"c", "s/", "t/", "x", "y"}; !slices.Equal(got, want) {
		t.Errorf("objects %q, want %q", got, want)
	}
	start := "{:type :info, :f :phase-main, :value nil, :process :nemesis, :time 0, :index 0}\n"
	for object, want := range map[string]string{
		"x": `{:type :invoke, :f :write, :value 1, :process 0, :time 1, :node "", :index 1}
{:type :ok, :f :write, :value 1, :process 0, :time 2, :node "", :index 2}
{:type :invoke, :f :cas, :value [1 2], :process 0, :time 5, :node "", :index 3}
{:type :fail, :f :cas, :value [1 2], :process 0, :time 6, :node "", :index 4}
{:type :invoke, :f :read, :value nil, :process 0, :time 7, :node "", :index 5}
{:type :ok, :f :read, :value 1, :process 0, :time 8, :node "", :index 6}
`,
		"c": `{:type :invoke, :f :read, :value nil, :process 0, :time 9, :node "", :index 1}
{:type :ok, :f :read, :value 0, :process 0, :time 10, :node "", :index 2}
{:type :invoke, :f :add, :value 3, :process 0, :time 11, :node "", :index 3}
{:type :ok, :f :add, :value 3, :process 0, :time 12, :node "", :index 4}
`,
		"s/": `{:type :invoke, :f :add, :value "s/1", :process 0, :time 13, :node "", :index 1}
{:type :ok, :f :add, :value "s/1", :process 0, :time 14, :node "", :index 2}
{:type :invoke, :f :read, :value nil, :process 0, :time 15, :node "", :index 3}
{:type :ok, :f :read, :value ["s/1"], :process 0, :time 16, :node "", :index 4}
`,
	} {
		var b bytes.Buffer
		if err := WriteObjectEDN(&b, h, object); err != nil || b.String() != start+want {
			t.Errorf("%s: %v, got\n%s\nwant\n%s", object, err, b.String(), start+want)
		}
	}
}

func TestEDNStrings(t *testing.T) {
	for s, want := range map[string]string{
		"":             `""`,
		"plain ü":      `"plain ü"`,
		"a\"b\\c":      `"a\"b\\c"`,
		"\n\r\t":       `"\n\r\t"`,
		"\x00\x1f\x7f": `"\u0000\u001f\u007f"`,
		"x\xffy":       "\"x\ufffdffy\"",
	} {
		if got := string(AppendEDN(nil, s)); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
	if got := string(AppendKeyword(nil, "start-a b:c/ü")); got != "start-a-b-c--" {
		t.Errorf("keyword %s", got)
	}
}
