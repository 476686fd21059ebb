package history

import (
	"reflect"
	"strings"
	"testing"
)

func TestTxnText(t *testing.T) {
	for _, b := range []TxnBody{
		{},
		{Then: []TxnOp{{TxnGet, "log", ""}}},
		{If: []TxnOp{{TxnIs, "r", "1.2"}, {TxnAbsent, "s", ""}}, Then: []TxnOp{{TxnPut, "r", "3"}, {TxnCreate, "r", "4"}, {TxnAppend, "log", "5"}, {TxnIncr, "n", "-6"}, {TxnDelete, "r", ""}}, Else: []TxnOp{{TxnGet, "r", ""}}},
	} {
		got, err := ParseTxn(b.String())
		if err != nil || !reflect.DeepEqual(got, b) {
			t.Errorf("%q reads as %+v, %v", b.String(), got, err)
		}
	}
	for _, s := range []string{"", "get a", "|get|", "|get a b|", "|put a|", "|is a b|", "get a||", "|frob a|", "|get |", "|get a|get a|", "|put a b c|"} {
		if b, err := ParseTxn(s); err == nil {
			t.Errorf("%q reads as %+v", s, b)
		}
	}
	if !(TxnBody{Else: []TxnOp{{TxnDelete, "a", ""}}}).Writes() || (TxnBody{Then: []TxnOp{{TxnGet, "a", ""}}}).Writes() {
		t.Error("Writes is wrong")
	}
}

func TestEDNOfTransactions(t *testing.T) {
	op := Op{F: Txn, Key: "{g}", Value: "is r x|append log 7;get log;put r 3;incr n 2;delete r|get log;get r", Return: 1, Outcome: OK, Found: true,
		Elements: []Element{{Key: "log"}, {Key: "log", Value: "6,7,"}, {Key: "r"}, {Key: "n", Value: "4"}, {Key: "r"}}}
	other := op
	other.Process, other.Found, other.Elements = 1, false, []Element{{Key: "log", Value: "6,"}, {Key: "r", Value: "9"}}
	broken := op
	broken.Process, broken.Value = 2, "nonsense"
	got := ednOf(t, &History{Ops: []Op{op, other, broken}})
	for _, want := range []string{
		`:invoke, :f :txn, :value [[:append "{g}log" 7] [:r "{g}log" nil] [:w "{g}r" 3] [:incr "{g}n" 2] [:w "{g}r" nil]]`,
		`:ok, :f :txn, :value [[:append "{g}log" 7] [:r "{g}log" [6 7]] [:w "{g}r" 3] [:incr "{g}n" 2] [:w "{g}r" nil]]`,
		`:ok, :f :txn, :value [[:r "{g}log" [6]] [:r "{g}r" 9]]`, `:f :txn, :value "nonsense"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %s in\n%s", want, got)
		}
	}
}
