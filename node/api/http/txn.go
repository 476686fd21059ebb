package httpapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"unicode/utf8"

	nethttp "net/http"

	"fulcrum"
	"fulcrum/node/api"
)

// maxTxnBody bounds the body of a transaction; what it may hold is bounded as that of
// any request: fulcrum.MaxOpsPerBatch operations, each value by the node's limit.
const maxTxnBody = 16 << 20

const txnExample = `such as {"if":[{"key":"{u1}seat","target":"exists","op":"!="}],"then":[{"op":"put","key":"{u1}seat","value":"12A"}],"else":[{"op":"get","key":"{u1}seat"}]}`

// txnBody is a transaction in JSON: if every comparison holds the operations of Then
// run in order, else those of Else; one that cannot be done undoes all.
type txnBody struct {
	If   []txnCompare `json:"if,omitempty"`
	Then []txnOp      `json:"then,omitempty"`
	Else []txnOp      `json:"else,omitempty"`
}

// txnCompare is one comparison. Key and value are base64 when Encoding says so, as in a
// scan.
type txnCompare struct {
	Key      string  `json:"key"`
	Target   string  `json:"target"`       // version, value or exists
	Op       string  `json:"op,omitempty"` // = (which it is if left out) != < >
	Version  *string `json:"version,omitempty"`
	Value    *string `json:"value,omitempty"`
	Encoding string  `json:"encoding,omitempty"`
}

// txnOp is one operation. Encoding is about its key, its value and the value of If.
type txnOp struct {
	Op       string     `json:"op"` // one of txnOps
	Key      string     `json:"key"`
	Value    *txnValue  `json:"value,omitempty"`
	TTL      *txnValue  `json:"ttl,omitempty"`      // put, expire
	KeepTTL  bool       `json:"keep_ttl,omitempty"` // put
	Offset   int64      `json:"offset,omitempty"`   // setrange
	If       *txnOnlyIf `json:"if,omitempty"`
	Encoding string     `json:"encoding,omitempty"`
}

// txnValue is a string; a number will do as well, and is taken as it is written.
type txnValue string

func (v *txnValue) UnmarshalJSON(b []byte) error {
	var n json.Number
	if len(b) > 0 && b[0] != '"' && json.Unmarshal(b, &n) == nil {
		*v = txnValue(n)
		return nil
	}
	return json.Unmarshal(b, (*string)(v))
}

// txnOnlyIf is the condition of one operation: "absent", "present", or an object with
// the version or the value that the key must have.
type txnOnlyIf struct {
	word    string
	Version *string `json:"version"`
	Value   *string `json:"value"`
}

func (c *txnOnlyIf) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &c.word)
	}
	type plain txnOnlyIf
	return strictly(b, (*plain)(c))
}

// txnOps are the operations and what may stand beside op, key, if and encoding.
var txnOps = map[string]struct {
	op     fulcrum.Op
	fields string // v: value, t: ttl, k: keep_ttl, o: offset; in upper case: required
}{
	"get":       {fulcrum.OpGet, ""},
	"put":       {fulcrum.OpPut, "Vtk"},
	"delete":    {fulcrum.OpDelete, ""},
	"incr":      {fulcrum.OpAdd, "v"},
	"incrfloat": {fulcrum.OpAddFloat, "V"},
	"append":    {fulcrum.OpAppend, "V"},
	"setrange":  {fulcrum.OpSetRange, "Vo"},
	"expire":    {fulcrum.OpExpire, "T"},
	"persist":   {fulcrum.OpExpire, ""},
}

// txnAnswer says which branch ran, and what became of each of its operations.
type txnAnswer struct {
	Succeeded bool        `json:"succeeded"`
	Results   []txnResult `json:"results"`
}

// txnResult is one operation's: what stands at the key behind it, or, for a delete,
// whether something stood there. Only get, incr and incrfloat show the value.
type txnResult struct {
	Op       string           `json:"op"`
	Key      string           `json:"key"`
	Found    bool             `json:"found"` // a value stood there before
	Value    *string          `json:"value,omitempty"`
	Length   *int             `json:"length,omitempty"` // append, setrange: of the whole value
	Version  *fulcrum.Version `json:"version,omitempty"`
	Encoding string           `json:"encoding,omitempty"`
	ExpireAt int64            `json:"expire_at,omitempty"` // Unix milliseconds
}

// txn answers POST /v1/txn/{keyspace}: 200 whichever branch ran; 412 or the error of an
// operation that undid it all.
func (h *handler) txn(keyspace string) nethttp.HandlerFunc {
	return func(w nethttp.ResponseWriter, r *nethttp.Request) {
		c, _, err := h.call(r, keyspace)
		c.Atomic = true
		if err == nil {
			c.ID, err = idempotencyKey(r)
		}
		var in txnBody
		if err == nil {
			in, err = txnOf(w, r)
		}
		var t api.Txn
		if err == nil {
			t, err = in.parse()
		}
		if err != nil {
			h.failLevel(w, r, keyspace, err)
			return
		}
		reply, rc, err := h.Backend.Txn(r.Context(), c, t)
		receipt(w, rc)
		branch := in.Then
		if err == nil && !reply.Succeeded {
			branch = in.Else
		}
		if err == nil && len(reply.Results) != len(branch) {
			e := fulcrum.Errorf(fulcrum.CodeInternal, "%d results for %d operations", len(reply.Results), len(branch))
			e.Maybe = true
			err = e
		}
		if err != nil {
			h.failWrite(w, r, c, err)
			return
		}
		if !h.undone(w, r, branch, reply.Results) {
			h.reply(w, r, nethttp.StatusOK, txnAnswer{Succeeded: reply.Succeeded, Results: answers(branch, reply.Results)})
		}
	}
}

// txnOf reads the body, strictly.
func txnOf(w nethttp.ResponseWriter, r *nethttp.Request) (in txnBody, err error) {
	b, err := body(w, r, maxTxnBody)
	if err != nil {
		return in, err
	}
	if !utf8.Valid(b) || halfPair(b) { // the decoder would put other bytes in their place
		return in, fulcrum.Errorf(fulcrum.CodeInvalid, "body: not UTF-8").WithHint(`keys and values of other bytes go in base64, with "encoding":"base64" beside them`)
	}
	if err := decode(b, &in); err != nil {
		return in, fulcrum.AsError(err).WithHint("%s", txnExample)
	}
	return in, nil
}

// parse turns in into what the backend takes. Limits on keys and values are the backend's.
func (in txnBody) parse() (api.Txn, error) {
	t := api.Txn{Atomic: true}
	bad := func(list string, i int, err error) (api.Txn, error) {
		return t, fulcrum.Errorf(fulcrum.CodeInvalid, "%s %d: %w", list, i+1, err).WithHint("%s", txnExample)
	}
	if len(in.If)+len(in.Then)+len(in.Else) == 0 {
		return t, fulcrum.Errorf(fulcrum.CodeInvalid, "a transaction without anything in it").WithHint("%s", txnExample)
	}
	for list, n := range map[string]int{"comparisons": len(in.If), "operations in then": len(in.Then), "operations in else": len(in.Else)} {
		if n > fulcrum.MaxOpsPerBatch {
			return t, fulcrum.Errorf(fulcrum.CodeTooLarge, "%d %s, the limit is %d", n, list, fulcrum.MaxOpsPerBatch)
		}
	}
	for i, c := range in.If {
		cmp, err := c.parse()
		if err != nil {
			return bad("comparison", i, err)
		}
		t.If = append(t.If, cmp)
	}
	for i, o := range in.Then {
		w, err := o.parse()
		if err != nil {
			return bad("operation of then", i, err)
		}
		t.Then = append(t.Then, w)
	}
	for i, o := range in.Else {
		w, err := o.parse()
		if err != nil {
			return bad("operation of else", i, err)
		}
		t.Else = append(t.Else, w)
	}
	return t, nil
}

// bytesOf reads a key or a value.
func bytesOf(s, encoding string) ([]byte, error) {
	switch encoding {
	case "":
		return []byte(s), nil
	case "base64":
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return nil, fmt.Errorf("%.40q is no base64: %w", s, err)
		}
		return b, nil
	}
	return nil, fmt.Errorf("encoding %q: want base64 or nothing", encoding)
}

// versionOf reads a version as answers show it; 0 is that of a key that is not there.
func versionOf(s string) (fulcrum.Version, error) {
	if s == "0" {
		return fulcrum.Version{}, nil
	}
	return fulcrum.ParseVersion(s)
}

func (c txnCompare) parse() (fulcrum.Compare, error) {
	var out fulcrum.Compare
	key, err := bytesOf(c.Key, c.Encoding)
	if err == nil {
		err = checkKey(key)
	}
	if err != nil {
		return out, err
	}
	ops := map[string]fulcrum.CompareOp{"": fulcrum.Equal, "=": fulcrum.Equal, "!=": fulcrum.NotEqual, "<": fulcrum.Less, ">": fulcrum.Greater}
	op, ok := ops[c.Op]
	out.Key, out.Op = key, op
	switch {
	case !ok:
		return out, fmt.Errorf("op %q: want = != < or >", c.Op)
	case (c.Version != nil) != (c.Target == "version") || (c.Value != nil) != (c.Target == "value"):
		return out, fmt.Errorf(`target %q: want "version" with a version, "value" with a value, or "exists" with neither`, c.Target)
	case c.Target == "version":
		out.Version, err = versionOf(*c.Version)
	case c.Target == "value":
		out.Target = fulcrum.CompareValue
		out.Value, err = bytesOf(*c.Value, c.Encoding)
	case c.Target != "exists":
		return out, fmt.Errorf(`target %q: want "version", "value" or "exists"`, c.Target)
	case op == fulcrum.Equal: // it exists: its version is not that of nothing
		out.Op = fulcrum.NotEqual
	case op == fulcrum.NotEqual:
		out.Op = fulcrum.Equal
	default:
		return out, fmt.Errorf(`op %q: "exists" takes = (it is there) or != (it is not)`, c.Op)
	}
	return out, err
}

func (o txnOp) parse() (fulcrum.Write, error) {
	kind, ok := txnOps[o.Op]
	w := fulcrum.Write{Op: kind.op, KeepTTL: o.KeepTTL, Offset: o.Offset} // as answerOf needs it:
	w.NoOld, w.NoValue = o.Op != "get", o.Op != "incr" && o.Op != "incrfloat"
	if !ok {
		return w, fmt.Errorf("op %q: want get, put, delete, incr, incrfloat, append, setrange, expire or persist", o.Op)
	}
	if err := o.fits(kind.fields); err != nil {
		return w, err
	}
	var err error
	if w.Key, err = bytesOf(o.Key, o.Encoding); err == nil {
		err = checkKey(w.Key)
	}
	if err != nil {
		return w, err
	}
	switch {
	case o.Value == nil && o.Op == "incr":
		w.Value = []byte("1")
	case o.Value != nil && (w.Op == fulcrum.OpAdd || w.Op == fulcrum.OpAddFloat):
		w.Value = []byte(*o.Value) // digits, whatever the encoding
	case o.Value != nil:
		w.Value, err = bytesOf(string(*o.Value), o.Encoding)
	}
	if err == nil && o.TTL != nil {
		ttl, ttlErr := ttlOf(url.Values{"ttl": {string(*o.TTL)}})
		w.TTL, err = ttl.Milliseconds(), ttlErr // from when it takes effect, by the clock of whoever orders it
	}
	if err == nil && o.If != nil {
		err = o.condition(&w)
	}
	return w, err
}

// fits checks which fields the operation has.
func (o txnOp) fits(fields string) error {
	has := map[rune]bool{'v': o.Value != nil, 't': o.TTL != nil, 'k': o.KeepTTL, 'o': o.Offset != 0}
	names := map[rune]string{'v': "value", 't': "ttl", 'k': "keep_ttl", 'o': "offset"}
	for _, f := range fields {
		lower := f | 0x20
		if f != lower && !has[lower] {
			return fmt.Errorf("%s wants a %s", o.Op, names[lower])
		}
		delete(has, lower)
	}
	for f, given := range has {
		if given {
			return fmt.Errorf("%s takes no %s", o.Op, names[f])
		}
	}
	switch {
	case o.TTL != nil && o.KeepTTL:
		return fmt.Errorf("ttl and keep_ttl at once")
	case o.Op == "get" && o.If != nil:
		return fmt.Errorf("get takes no if")
	case o.Offset < 0:
		return fmt.Errorf("offset %d", o.Offset)
	}
	return nil
}

func (o txnOp) condition(w *fulcrum.Write) (err error) {
	c := o.If
	switch {
	case c.word == "absent":
		w.If = fulcrum.IfAbsent
	case c.word == "present":
		w.If = fulcrum.IfPresent
	case c.word == "" && c.Version != nil && c.Value == nil:
		w.If = fulcrum.IfVersion
		w.At, err = fulcrum.ParseVersion(*c.Version)
	case c.word == "" && c.Version == nil && c.Value != nil:
		w.If = fulcrum.IfValue
		w.Expect, err = bytesOf(*c.Value, o.Encoding)
	default:
		err = fmt.Errorf(`if: want "absent", "present", {"version":"..."} or {"value":"..."}`)
	}
	return err
}

// undone answers for a transaction that an operation has undone: one that failed, or
// whose own condition did not hold. Of such a one the backend gives the culprit alone.
func (h *handler) undone(w nethttp.ResponseWriter, r *nethttp.Request, ops []txnOp, results []fulcrum.Result) bool {
	all := true
	for i := range results {
		all = all && (results[i].Applied || ops[i].Op == "get" && results[i].Err == nil)
		if err := results[i].Err; err != nil {
			e := *fulcrum.AsError(err)
			e.Detail = fmt.Sprintf("operation %d, %s of %.64q: %s; nothing was done", i+1, ops[i].Op, ops[i].Key, e.Detail)
			h.fail(w, r, &e)
			return true
		}
	}
	if all {
		return false
	}
	which := "an operation's own condition"
	for i := range results {
		if ops[i].Op != "get" && !results[i].Applied && (len(results[i].Entry.Key) > 0 || len(ops) == 1) {
			which = fmt.Sprintf("the condition of operation %d, %s of %.64q,", i+1, ops[i].Op, ops[i].Key)
		}
	}
	h.problem(w, r, nethttp.StatusPreconditionFailed, fulcrum.Errorf(fulcrum.CodeConflict, "%s does not hold; nothing was done", which).
		WithHint("conditions in the transaction's own if choose the branch instead"), nil)
	return true
}

func answers(ops []txnOp, results []fulcrum.Result) []txnResult {
	out := make([]txnResult, len(ops))
	for i, o := range ops {
		out[i] = answerOf(o, &results[i])
	}
	return out
}

func answerOf(o txnOp, res *fulcrum.Result) txnResult {
	a := txnResult{Op: o.Op, Found: !res.Old.Version.IsZero()}
	e := res.Entry
	var value []byte
	switch o.Op {
	case "get":
		e, value = res.Old, res.Old.Value
	case "incr", "incrfloat":
		value = e.Value
	case "append", "setrange":
		a.Length = &res.Length
	}
	key, _ := bytesOf(o.Key, o.Encoding) // it was read before
	t, encoding := text(key, value)
	a.Key, a.Encoding = t[0], encoding
	if e.Version.IsZero() {
		return a
	}
	a.Version, a.ExpireAt = &e.Version, e.ExpireAt
	if o.Op == "get" || o.Op == "incr" || o.Op == "incrfloat" {
		a.Value = &t[1]
	}
	return a
}
