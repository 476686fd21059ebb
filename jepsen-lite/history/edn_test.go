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
