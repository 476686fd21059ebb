package history

import (
	"fmt"
	"strings"
)

// TxnOp is one part of a transaction: a condition, or an operation, on one key of its
// group.
type TxnOp struct {
	Kind  string // one of the constants below
	Key   string // behind Op.Key
	Value string // put, create, append, incr: the argument; is: what must stand there
}

// The kinds of conditions and operations. Create is a put that undoes the whole
// transaction where something stands.
const (
	TxnIs     = "is"     // condition: the key holds Value
	TxnAbsent = "absent" // condition: the key holds nothing

	TxnGet    = "get"
	TxnPut    = "put"
	TxnCreate = "create"
	TxnAppend = "append"
	TxnIncr   = "incr"
	TxnDelete = "delete"
)

// TxnBody is what a transaction asks for: if all conditions hold Then is done in order,
// else Else, in one step. It stands in Op.Value as text. Op.Found says that Then was
// done, and Op.Elements has one element for each operation done, with what a get or an
// incr answered.
type TxnBody struct {
	If, Then, Else []TxnOp
}

// Writes reports whether b can change anything.
func (b TxnBody) Writes() bool {
	for _, ops := range [][]TxnOp{b.Then, b.Else} {
		for _, o := range ops {
			if o.Kind != TxnGet {
				return true
			}
		}
	}
	return false
}

// String is the form that ParseTxn reads: "is r 1.2|put r 3.4;get log|get log".
func (b TxnBody) String() string {
	var parts []string
	for _, ops := range [][]TxnOp{b.If, b.Then, b.Else} {
		words := make([]string, len(ops))
		for i, o := range ops {
			words[i] = strings.TrimSuffix(o.Kind+" "+o.Key+" "+o.Value, " ")
		}
		parts = append(parts, strings.Join(words, ";"))
	}
	return strings.Join(parts, "|")
}

// ParseTxn reads what String wrote.
func ParseTxn(s string) (TxnBody, error) {
	var b TxnBody
	parts := strings.Split(s, "|")
	if len(parts) != 3 {
		return b, fmt.Errorf("transaction %q: want three parts", s)
	}
	for i, to := range []*[]TxnOp{&b.If, &b.Then, &b.Else} {
		if parts[i] == "" {
			continue
		}
		for word := range strings.SplitSeq(parts[i], ";") {
			o, err := parseTxnOp(strings.Split(word, " "), i == 0)
			if err != nil {
				return b, fmt.Errorf("transaction %q: %q: %w", s, word, err)
			}
			*to = append(*to, o)
		}
	}
	return b, nil
}

func parseTxnOp(w []string, condition bool) (TxnOp, error) {
	want := 0 // words
	switch w[0] {
	case TxnIs:
		want = 3
	case TxnAbsent:
		want = 2
	case TxnGet, TxnDelete:
		want = -2
	case TxnPut, TxnCreate, TxnAppend, TxnIncr:
		want = -3
	}
	if !condition {
		want = -want
	}
	if len(w) != want || w[1] == "" {
		return TxnOp{}, fmt.Errorf("no such condition or operation")
	}
	o := TxnOp{Kind: w[0], Key: w[1]}
	if len(w) == 3 {
		o.Value = w[2]
	}
	return o, nil
}

// appendTxn appends a transaction as elle has them: [[:r key value] [:append key value]
// ...]; of an answered one those operations that were done. Lists are vectors.
func appendTxn(b []byte, op *Op, answered bool) []byte {
	body, err := ParseTxn(op.Value)
	if err != nil {
		return AppendEDN(b, op.Value)
	}
	ops := body.Then
	if answered && !op.Found {
		ops = body.Else
	}
	lists := map[string]bool{}
	for _, o := range append(body.Then[:len(body.Then):len(body.Then)], body.Else...) {
		lists[o.Key] = lists[o.Key] || o.Kind == TxnAppend
	}
	b = append(b, '[')
	for i, o := range ops {
		if i > 0 {
			b = append(b, ' ')
		}
		read := ""
		if answered && i < len(op.Elements) {
			read = op.Elements[i].Value
		}
		b = append(append(append(b, "[:"...), ednKind(o.Kind)...), ' ')
		b = append(AppendEDN(b, op.Key+o.Key), ' ')
		switch {
		case o.Kind == TxnGet && (lists[o.Key] || strings.HasSuffix(read, ",")):
			b = appendList(b, read, answered)
		case o.Kind == TxnGet && read == "", o.Kind == TxnDelete:
			b = append(b, "nil"...)
		case o.Kind == TxnGet:
			b = appendValue(b, read)
		default:
			b = appendValue(b, o.Value)
		}
		b = append(b, ']')
	}
	return append(b, ']')
}

func ednKind(kind string) string {
	switch kind {
	case TxnGet:
		return "r"
	case TxnPut, TxnCreate, TxnDelete:
		return "w"
	}
	return kind
}
