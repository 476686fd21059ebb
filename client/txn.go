package client

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fulcrum"
	"fulcrum/consistency"
)

// Txn is a transaction: if every comparison in If holds, the operations of Then run in
// order, else those of Else, in one step that nobody sees half of. An operation that
// cannot be done, or whose own condition does not hold, undoes all: then Client.Txn
// fails (with fulcrum.ErrConflict for a condition). All keys must be in one shard: in a
// hash-sharded keyspace, give them a common {tag}.
type Txn struct {
	If   []Compare
	Then []Op
	Else []Op
}

// Compare is one comparison; WhenExists and the others make them.
type Compare struct {
	key    string
	target string
	op     string
	value  []byte
	at     fulcrum.Version
}

// WhenExists holds where a value stands.
func WhenExists(key string) Compare { return Compare{key: key, target: "exists", op: "="} }

// WhenAbsent holds where none does.
func WhenAbsent(key string) Compare { return Compare{key: key, target: "exists", op: "!="} }

// WhenVersion compares the key's version, the zero one where no value stands; op is
// one of = != < >.
func WhenVersion(key, op string, v fulcrum.Version) Compare {
	return Compare{key: key, target: "version", op: op, at: v}
}

// WhenValue compares the key's value byte by byte; op is one of = != < >. Where no value
// stands only != holds.
func WhenValue(key, op string, value []byte) Compare {
	return Compare{key: key, target: "value", op: op, value: value}
}

// Op is one operation of a transaction; OpGet and the others make them.
type Op struct {
	op      string
	key     string
	value   []byte
	given   bool // there is a value
	ttl     time.Duration
	keepTTL bool
	only    string // absent, present, version or value
	at      fulcrum.Version
	expect  []byte
}

// OpGet reads a key.
func OpGet(key string) Op { return Op{op: "get", key: key} }

// OpPut writes a value.
func OpPut(key string, value []byte) Op { return Op{op: "put", key: key, value: value, given: true} }

// OpDelete removes a key; one that is not there is no error.
func OpDelete(key string) Op { return Op{op: "delete", key: key} }

// OpIncr adds to the decimal integer at a key; a missing one counts as 0.
func OpIncr(key string, delta int64) Op {
	return Op{op: "incr", key: key, value: strconv.AppendInt(nil, delta, 10), given: true}
}

// OpAppend puts tail behind the value at a key.
func OpAppend(key string, tail []byte) Op {
	return Op{op: "append", key: key, value: tail, given: true}
}

// OpExpire makes a key expire d after it takes effect; 0: never. The key must be
// there, or the transaction is undone.
func OpExpire(key string, d time.Duration) Op {
	if d == 0 {
		return Op{op: "persist", key: key}
	}
	return Op{op: "expire", key: key, ttl: d}
}

// TTL makes an OpPut expire after d.
func (o Op) TTL(d time.Duration) Op { o.ttl = d; return o }

// KeepTTL makes an OpPut leave the key's expiry as it is.
func (o Op) KeepTTL() Op { o.keepTTL = true; return o }

// IfAbsent undoes the transaction where a value stands at the operation's key.
func (o Op) IfAbsent() Op { o.only = "absent"; return o }

// IfPresent undoes the transaction where none does.
func (o Op) IfPresent() Op { o.only = "present"; return o }

// IfVersion undoes the transaction unless the key's value has version v.
func (o Op) IfVersion(v fulcrum.Version) Op { o.only, o.at = "version", v; return o }

// IfValue undoes the transaction unless the key holds expect.
func (o Op) IfValue(expect []byte) Op { o.only, o.expect = "value", expect; return o }

// TxnResult says which branch ran, with one element for each of its operations.
type TxnResult struct {
	Succeeded bool // Then ran
	Results   []OpResult
	Receipt   consistency.Receipt
}

// OpResult is what became of one operation.
type OpResult struct {
	Key      string
	Found    bool            // a value stood there before the operation
	Value    []byte          // OpGet, OpIncr
	Length   int             // OpAppend: of the whole value
	Version  fulcrum.Version // of what stands there behind the operation
	ExpireAt time.Time       // zero: never
}

// Txn runs a transaction. It needs a mode that has them; others answer fulcrum.ErrMode.
func (c *Client) Txn(ctx context.Context, keyspace string, t Txn, opts ...CallOption) (TxnResult, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	o := c.call(opts)
	body, err := json.Marshal(wireTxn(t))
	if err != nil {
		return TxnResult{}, fulcrum.Errorf(fulcrum.CodeInvalid, "transaction: %w", err)
	}
	rq := request{op: "txn", method: http.MethodPost, path: []string{"v1", "txn", keyspace}, keyspace: keyspace, body: body,
		query: o.values(), header: make(http.Header), attempts: o.attempts, read: t.onlyReads()}
	if err := c.name(&rq, o); err != nil {
		return TxnResult{}, err
	}
	targets, err := c.targets(ctx, o, func() []string { return c.route(ctx, keyspace, t.firstKey(), false, o.level) })
	if err != nil {
		return TxnResult{}, err
	}
	a, err := c.inSession(ctx, rq, o.session, targets)
	if err != nil {
		return TxnResult{Receipt: a.receipt}, harmless(rq, err)
	}
	return decodeTxn(a)
}

// harmless makes an unknown outcome of what only reads what it is: no answer.
func harmless(rq request, err error) error {
	var e *fulcrum.Error
	if !rq.read || !Unknown(err) || !errors.As(err, &e) {
		return err
	}
	plain := *e
	plain.Code, plain.Maybe = fulcrum.CodeUnavailable, false
	return &plain
}

func (t Txn) onlyReads() bool {
	writes := func(o Op) bool { return o.op != "get" }
	return !slices.ContainsFunc(t.Then, writes) && !slices.ContainsFunc(t.Else, writes)
}

// firstKey is some key of t: all are in one shard.
func (t Txn) firstKey() string {
	for _, ops := range [][]Op{t.Then, t.Else} {
		if len(ops) > 0 {
			return ops[0].key
		}
	}
	if len(t.If) > 0 {
		return t.If[0].key
	}
	return ""
}

// The transaction as POST /v1/txn takes it.
type txnJSON struct {
	If   []compareJSON `json:"if,omitempty"`
	Then []opJSON      `json:"then,omitempty"`
	Else []opJSON      `json:"else,omitempty"`
}

type compareJSON struct {
	Key      string  `json:"key"`
	Target   string  `json:"target"`
	Op       string  `json:"op"`
	Version  *string `json:"version,omitempty"`
	Value    *string `json:"value,omitempty"`
	Encoding string  `json:"encoding,omitempty"`
}

type opJSON struct {
	Op       string  `json:"op"`
	Key      string  `json:"key"`
	Value    *string `json:"value,omitempty"`
	TTL      string  `json:"ttl,omitempty"`
	KeepTTL  bool    `json:"keep_ttl,omitempty"`
	If       any     `json:"if,omitempty"`
	Encoding string  `json:"encoding,omitempty"`
}

func wireTxn(t Txn) txnJSON {
	var out txnJSON
	for _, c := range t.If {
		out.If = append(out.If, c.wire())
	}
	for _, o := range t.Then {
		out.Then = append(out.Then, o.wire())
	}
	for _, o := range t.Else {
		out.Else = append(out.Else, o.wire())
	}
	return out
}

func (c Compare) wire() compareJSON {
	say, encoding := speller([]byte(c.key), c.value)
	out := compareJSON{Key: say([]byte(c.key)), Target: c.target, Op: c.op, Encoding: encoding}
	switch c.target {
	case "version":
		v := c.at.String()
		out.Version = &v
	case "value":
		v := say(c.value)
		out.Value = &v
	}
	return out
}

func (o Op) wire() opJSON {
	say, encoding := speller([]byte(o.key), o.value, o.expect)
	out := opJSON{Op: o.op, Key: say([]byte(o.key)), KeepTTL: o.keepTTL, Encoding: encoding}
	if o.ttl != 0 {
		out.TTL = o.ttl.String()
	}
	if o.given {
		v := say(o.value)
		if o.op == "incr" {
			v = string(o.value) // digits, whatever the encoding
		}
		out.Value = &v
	}
	switch o.only {
	case "absent", "present":
		out.If = o.only
	case "version":
		out.If = map[string]string{"version": o.at.String()}
	case "value":
		out.If = map[string]string{"value": say(o.expect)}
	}
	return out
}

// speller says how bytes are written: as they are, or all in base64 when one of them is
// not UTF-8.
func speller(parts ...[]byte) (say func([]byte) string, encoding string) {
	for _, p := range parts {
		if !utf8.Valid(p) {
			return base64.StdEncoding.EncodeToString, "base64"
		}
	}
	return func(b []byte) string { return string(b) }, ""
}

func decodeTxn(a answer) (TxnResult, error) {
	var in struct {
		Succeeded bool
		Results   []struct {
			Key      string
			Found    bool
			Value    string
			Length   int
			Version  fulcrum.Version
			Encoding string
			ExpireAt int64 `json:"expire_at"`
		}
	}
	out := TxnResult{Receipt: a.receipt}
	if err := json.Unmarshal(a.body, &in); err != nil {
		e := fulcrum.Errorf(fulcrum.CodeUnknown, "the answer to a transaction that was run: %w", err)
		return out, e
	}
	out.Succeeded, out.Results = in.Succeeded, make([]OpResult, len(in.Results))
	for i, r := range in.Results {
		if r.Encoding == "base64" {
			for _, s := range []*string{&r.Key, &r.Value} {
				b, err := base64.StdEncoding.DecodeString(*s)
				if err != nil {
					return out, fulcrum.Errorf(fulcrum.CodeUnknown, "the answer to a transaction that was run: %w", err)
				}
				*s = string(b)
			}
		}
		out.Results[i] = OpResult{Key: r.Key, Found: r.Found, Value: []byte(r.Value), Length: r.Length, Version: r.Version}
		if r.ExpireAt != 0 {
			out.Results[i].ExpireAt = time.UnixMilli(r.ExpireAt)
		}
	}
	return out, nil
}

// single runs one operation that changes a key's value, for Incr and Append of calls
// with a request id: an Update is many requests, and one id names one.
func (c *Client) single(ctx context.Context, keyspace string, op Op, opts []CallOption) (OpResult, consistency.Receipt, error) {
	ops := []Op{op}
	if ttl := c.call(opts).ttl; ttl != 0 {
		ops = append(ops, OpExpire(op.key, ttl))
	}
	res, err := c.Txn(ctx, keyspace, Txn{Then: ops}, opts...)
	if err == nil && len(res.Results) != len(ops) {
		err = fulcrum.Errorf(fulcrum.CodeUnknown, "%d results for %d operations", len(res.Results), len(ops))
	}
	if err != nil {
		return OpResult{}, res.Receipt, err
	}
	res.Receipt.Version = cmp.Or(res.Results[len(ops)-1].Version, res.Receipt.Version)
	return res.Results[0], res.Receipt, nil
}

// notInteger gives an error of the node's evaluation back its identity, which JSON does
// not carry.
func notInteger(err error) error {
	var e *fulcrum.Error
	if errors.As(err, &e) && e.Code == fulcrum.CodeInvalid && strings.Contains(e.Detail, fulcrum.ErrNotInteger.Error()) {
		known := *fulcrum.Errorf(fulcrum.CodeInvalid, "%w", fulcrum.ErrNotInteger)
		known.Op, known.Node, known.Detail, known.Hint = e.Op, e.Node, e.Detail, e.Hint
		return &known
	}
	return err
}
