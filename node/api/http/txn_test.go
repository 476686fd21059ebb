package httpapi

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"fulcrum"
)

// seed puts keys with versions that the test can name: those of the answers.
func seed(t *testing.T, n *node, pairs ...string) map[string]string {
	t.Helper()
	versions := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		w := n.ask(t, "PUT /v1/kv/cp/"+pairs[i], pairs[i+1])
		if w.Code != 204 {
			t.Fatalf("PUT %s: %d", pairs[i], w.Code)
		}
		versions[pairs[i]] = strings.Trim(w.Header().Get("ETag"), `"`)
	}
	return versions
}

func (n *node) value(t *testing.T, key string) string {
	t.Helper()
	w := n.ask(t, "GET /v1/kv/cp/"+key, "")
	if w.Code == 404 {
		return "-"
	}
	return w.Body.String()
}

func txnAsk(t *testing.T, n *node, body string, headers ...string) (txnAnswer, string) {
	t.Helper()
	w := n.ask(t, "POST /v1/txn/cp", body, headers...)
	var a txnAnswer
	if w.Code != 200 {
		t.Fatalf("%s\n%d %s", body, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	if w.Header().Get(headerReceipt) == "" || w.Header().Get(headerSession) == "" {
		t.Errorf("no receipt or session: %v", w.Header())
	}
	return a, w.Body.String()
}

func TestTxnComparisons(t *testing.T) {
	n := newNode(t)
	v := seed(t, n, "k", "m")
	older := fmt.Sprintf("%x.1", 1)
	for _, c := range []struct {
		compare string
		holds   bool
	}{
		{`{"key":"k","target":"exists"}`, true}, {`{"key":"k","target":"exists","op":"!="}`, false},
		{`{"key":"x","target":"exists"}`, false}, {`{"key":"x","target":"exists","op":"!="}`, true},
		{`{"key":"k","target":"version","version":"` + v["k"] + `"}`, true}, {`{"key":"k","target":"version","op":"!=","version":"` + v["k"] + `"}`, false},
		{`{"key":"k","target":"version","op":">","version":"` + older + `"}`, true}, {`{"key":"k","target":"version","op":"<","version":"` + older + `"}`, false},
		{`{"key":"x","target":"version","op":"=","version":"0"}`, true}, {`{"key":"k","target":"version","op":">","version":"0"}`, true},
		{`{"key":"k","target":"value","value":"m"}`, true}, {`{"key":"k","target":"value","op":"<","value":"n"}`, true}, {`{"key":"k","target":"value","op":">","value":"n"}`, false},
		{`{"key":"k","target":"value","op":"!=","value":"m"}`, false}, {`{"key":"x","target":"value","value":""}`, false}, {`{"key":"x","target":"value","op":"!=","value":""}`, true},
		{`{"key":"aw==","target":"value","value":"bQ==","encoding":"base64"}`, true},
		{`{"key":"k","target":"exists"},{"key":"x","target":"exists"}`, false},
	} {
		a, _ := txnAsk(t, n, `{"if":[`+c.compare+`],"then":[{"op":"get","key":"k"}],"else":[{"op":"get","key":"x"},{"op":"get","key":"k"}]}`)
		if a.Succeeded != c.holds || len(a.Results) != map[bool]int{true: 1, false: 2}[c.holds] {
			t.Errorf("%s: %+v, want %v", c.compare, a, c.holds)
		}
	}
}

func TestTxnOperations(t *testing.T) {
	n := newNode(t)
	seed(t, n, "k", "old", "%FF", "\xfe")
	_, got := txnAsk(t, n, `{"then":[
		{"op":"get","key":"k"},{"op":"put","key":"k","value":"new","ttl":"10s"},{"op":"get","key":"k"},{"op":"put","key":"k","value":"newer","keep_ttl":true},{"op":"persist","key":"k"},
		{"op":"incr","key":"n"},{"op":"incr","key":"n","value":5},{"op":"incr","key":"n","value":"-1"},{"op":"incrfloat","key":"f","value":1.5},
		{"op":"append","key":"k","value":"est"},{"op":"setrange","key":"k","value":"N","offset":0},{"op":"get","key":"none"},{"op":"delete","key":"none"},{"op":"delete","key":"n"},
		{"op":"expire","key":"k","ttl":"90"},{"op":"put","key":"/w==","value":"/Q==","encoding":"base64","if":{"value":"/g=="}},{"op":"get","key":"/w==","encoding":"base64"},
		{"op":"put","key":"new","value":"1","if":"absent"},{"op":"put","key":"new","value":"2","if":"present"}]}`)
	var a struct{ Results []map[string]any }
	if err := json.Unmarshal([]byte(got), &a); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range a.Results {
		if v, ok := r["version"].(string); ok {
			if _, err := fulcrum.ParseVersion(v); err != nil {
				t.Error(err)
			}
			r["version"] = "v"
		}
		b, _ := json.Marshal(r)
		lines = append(lines, string(b))
	}
	want := `{"found":true,"key":"k","op":"get","value":"old","version":"v"}
{"expire_at":1700000010000,"found":true,"key":"k","op":"put","version":"v"}
{"expire_at":1700000010000,"found":true,"key":"k","op":"get","value":"new","version":"v"}
{"expire_at":1700000010000,"found":true,"key":"k","op":"put","version":"v"}
{"found":true,"key":"k","op":"persist","version":"v"}
{"found":false,"key":"n","op":"incr","value":"1","version":"v"}
{"found":true,"key":"n","op":"incr","value":"6","version":"v"}
{"found":true,"key":"n","op":"incr","value":"5","version":"v"}
{"found":false,"key":"f","op":"incrfloat","value":"1.5","version":"v"}
{"found":true,"key":"k","length":8,"op":"append","version":"v"}
{"found":true,"key":"k","length":8,"op":"setrange","version":"v"}
{"found":false,"key":"none","op":"get"}
{"found":false,"key":"none","op":"delete","version":"v"}
{"found":true,"key":"n","op":"delete","version":"v"}
{"expire_at":1700000090000,"found":true,"key":"k","op":"expire","version":"v"}
{"encoding":"base64","found":true,"key":"/w==","op":"put","version":"v"}
{"encoding":"base64","found":true,"key":"/w==","op":"get","value":"/Q==","version":"v"}
{"found":false,"key":"new","op":"put","version":"v"}
{"found":true,"key":"new","op":"put","version":"v"}`
	if all := strings.Join(lines, "\n"); all != want {
		t.Errorf("got\n%s\nwant\n%s", all, want)
	}
	if v := n.value(t, "k"); v != "Newerest" {
		t.Errorf("k is %q", v)
	}
}

// An operation that cannot be done undoes all, and the answer names it.
func TestTxnUndone(t *testing.T) {
	n := newNode(t)
	seed(t, n, "word", "abc", "k", "old")
	for _, c := range []struct {
		op     string
		status int
		detail string
	}{
		{`{"op":"incr","key":"word"}`, 400, `operation 2, incr of "word": value is not an integer or out of range; nothing was done`},
		{`{"op":"put","key":"word","value":"x","if":"absent"}`, 412, `the condition of operation 2, put of "word", does not hold; nothing was done`},
		{`{"op":"put","key":"word","value":"x","if":{"version":"1.1"}}`, 412, `the condition of operation 2, put of "word",`},
		{`{"op":"put","key":"word","value":"x","if":{"value":"xyz"}}`, 412, `the condition of operation 2,`},
		{`{"op":"delete","key":"none","if":"present"}`, 412, `the condition of operation 2, delete of "none", does not hold; nothing was done`},
		{`{"op":"expire","key":"none","ttl":"5s"}`, 412, `the condition of operation 2, expire of "none", does not hold; nothing was done`},
		{`{"op":"persist","key":"none"}`, 412, `the condition of operation 2, persist of "none",`},
	} {
		w := n.ask(t, "POST /v1/txn/cp", `{"then":[{"op":"put","key":"k","value":"new"},`+c.op+`,{"op":"put","key":"other","value":"x"}]}`)
		p := problemOf(t, w)
		if w.Code != c.status || !strings.HasPrefix(p.Detail, c.detail) || p.Outcome != "not-applied" {
			t.Errorf("%s: %d %+v", c.op, w.Code, p)
		}
		if n.value(t, "k") != "old" || n.value(t, "other") != "-" {
			t.Errorf("%s left something behind", c.op)
		}
		if c.status == 412 {
			alone := problemOf(t, n.ask(t, "POST /v1/txn/cp", `{"then":[`+c.op+`]}`))
			if want := strings.Replace(p.Detail, "operation 2", "operation 1", 1); alone.Detail != want {
				t.Errorf("%s alone: %s, want %s", c.op, alone.Detail, want)
			}
		}
	}
}

func TestTxnRefused(t *testing.T) {
	n := newNode(t)
	many := func(n int, what string) string { return strings.TrimSuffix(strings.Repeat(what+",", n), ",") }
	get := `{"op":"get","key":"k"}`
	for _, c := range []struct {
		body   string
		status int
		code   fulcrum.Code
		detail string
	}{
		{``, 400, fulcrum.CodeInvalid, "body: want JSON"}, {`{}`, 400, fulcrum.CodeInvalid, "without anything"}, {`[]`, 400, fulcrum.CodeInvalid, "body: "}, {"{\"then\":[{\"op\":\"get\",\"key\":\"\xff\"}]}", 400, fulcrum.CodeInvalid, "not UTF-8"},
		{`{"then":[{"op":"get","key":"\ud800"}]}`, 400, fulcrum.CodeInvalid, "not UTF-8"}, {`{"then":[{"op":"get","key":"a\\\uDC00\ud83d"}]}`, 400, fulcrum.CodeInvalid, "not UTF-8"}, {`{"then":[{"op":"get","key":"\ud83d\u0041"}]}`, 400, fulcrum.CodeInvalid, "not UTF-8"},
		{`{"than":[]}`, 400, fulcrum.CodeInvalid, `unknown field "than"`}, {`{"then":[{"op":"get","key":"k","nonsense":1}]}`, 400, fulcrum.CodeInvalid, `unknown field "nonsense"`},
		{`{"then":[{"op":"put","key":"k","value":"v","if":{"versoin":"1.1"}}]}`, 400, fulcrum.CodeInvalid, `unknown field "versoin"`}, {`{"then":[` + get + `]} {}`, 400, fulcrum.CodeInvalid, "behind the JSON"},
		{`{"then":[{"op":"frob","key":"k"}]}`, 400, fulcrum.CodeInvalid, `operation of then 1: op "frob"`}, {`{"else":[` + get + `,{"op":"put","key":"k"}]}`, 400, fulcrum.CodeInvalid, "operation of else 2: put wants a value"},
		{`{"then":[{"op":"get","key":"k","value":"v"}]}`, 400, fulcrum.CodeInvalid, "get takes no value"}, {`{"then":[{"op":"expire","key":"k"}]}`, 400, fulcrum.CodeInvalid, "expire wants a ttl"}, {`{"then":[{"op":"put","key":"k","value":"v","ttl":"5s","keep_ttl":true}]}`, 400, fulcrum.CodeInvalid, "at once"},
		{`{"then":[{"op":"put","key":"k","value":"v","ttl":"-5s"}]}`, 400, fulcrum.CodeInvalid, "ttl"}, {`{"then":[{"op":"put","key":"k","value":true}]}`, 400, fulcrum.CodeInvalid, `body: "then.value": want a string, got true or false`}, {`{"then":[{"op":"expire","key":"k","ttl":true}]}`, 400, fulcrum.CodeInvalid, `"then.ttl": want a string, got true or false`}, {`{"then":[{"op":"expire","key":"k","ttl":0}]}`, 400, fulcrum.CodeInvalid, `ttl "0"`}, {`{"then":[{"op":"put","key":"k","value":"v","ttl":""}]}`, 400, fulcrum.CodeInvalid, `ttl ""`}, {`{"then":[{"op":7,"key":"k"}]}`, 400, fulcrum.CodeInvalid, `body: "then.op": want a string, got a number`}, {`{"then":[{"op":"get","key":""}]}`, 400, fulcrum.CodeInvalid, "empty key"},
		{`{"then":[{"op":"put","key":"k","value":"v","if":"maybe"}]}`, 400, fulcrum.CodeInvalid, "if: want"}, {`{"then":[{"op":"put","key":"k","value":"v","if":{}}]}`, 400, fulcrum.CodeInvalid, "if: want"}, {`{"then":[{"op":"get","key":"k","if":"absent"}]}`, 400, fulcrum.CodeInvalid, "get takes no if"},
		{`{"then":[{"op":"setrange","key":"k","value":"v","offset":-1}]}`, 400, fulcrum.CodeInvalid, "offset -1"}, {`{"then":[{"op":"put","key":"k!","value":"v","encoding":"base64"}]}`, 400, fulcrum.CodeInvalid, "no base64"}, {`{"then":[{"op":"get","key":"k","encoding":"hex"}]}`, 400, fulcrum.CodeInvalid, `encoding "hex"`},
		{`{"if":[{"key":"k"}],"then":[` + get + `]}`, 400, fulcrum.CodeInvalid, `comparison 1: target ""`}, {`{"if":[{"key":"k","target":"version"}]}`, 400, fulcrum.CodeInvalid, `target "version"`}, {`{"if":[{"key":"k","target":"exists","value":"v"}]}`, 400, fulcrum.CodeInvalid, `target "exists"`},
		{`{"if":[{"key":"k","target":"exists","op":"<"}]}`, 400, fulcrum.CodeInvalid, "takes = "}, {`{"if":[{"key":"k","target":"exists","op":"~"}]}`, 400, fulcrum.CodeInvalid, `op "~"`}, {`{"if":[{"key":"k","target":"version","version":"x"}]}`, 400, fulcrum.CodeInvalid, `version "x"`},
		{`{"then":[` + many(129, get) + `]}`, 413, fulcrum.CodeTooLarge, "129 operations"}, {`{"if":[` + many(129, `{"key":"k","target":"exists"}`) + `]}`, 413, fulcrum.CodeTooLarge, "129 comparisons"},
		{`{"then":[{"op":"put","key":"k","value":"` + strings.Repeat("x", 2<<10) + `"}]}`, 413, fulcrum.CodeTooLarge, "value of 2048 bytes"}, {`"` + strings.Repeat("x", maxTxnBody) + `"`, 413, fulcrum.CodeTooLarge, "body over"},
	} {
		w := n.ask(t, "POST /v1/txn/cp", c.body)
		p := problemOf(t, w)
		if w.Code != c.status || p.Code != c.code || !strings.Contains(p.Detail, c.detail) {
			t.Errorf("%.200s\n got %d %+v\nwant %d %s", c.body, w.Code, p, c.status, c.detail)
		}
		if c.status == 400 && strings.Contains(p.Detail, "unknown field") && !strings.Contains(p.Hint, `"target":"exists"`) {
			t.Errorf("%s: no example in %q", c.body, p.Hint)
		}
	}
	for request, status := range map[string]int{"POST /v1/txn/ap": 400, "POST /v1/txn/nowhere": 404, "POST /v1/txn/cp?levle=one": 400, "POST /v1/txn/cp?level=session": 400, "GET /v1/txn/cp": 405, "POST /v1/txn/cp/k": 404, "POST /v1/txn/": 404, "POST /v1/txn": 404} {
		if w := n.ask(t, request, `{"then":[`+get+`]}`); w.Code != status {
			t.Errorf("%s: %d %s", request, w.Code, w.Body)
		}
	}
	if w := n.ask(t, "POST /v1/txn/cp", `{"then":[`+many(128, get)+`]}`); w.Code != 200 {
		t.Errorf("128 operations: %d %s", w.Code, w.Body)
	}
	n.Fail = func(string) error {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "%w ([3 6])", fulcrum.ErrShards).WithHint("give the keys a common {tag}")
	}
	if p := problemOf(t, n.ask(t, "POST /v1/txn/cp", `{"then":[`+get+`]}`)); p.Status != 400 || !strings.Contains(p.Detail, "[3 6]") {
		t.Errorf("keys of two shards: %+v", p)
	}
	n.Fail = func(string) error { return fulcrum.Errorf(fulcrum.CodeUnknown, "no answer") }
	if p := problemOf(t, n.ask(t, "POST /v1/txn/cp", `{"then":[`+get+`]}`)); p.Status != 504 || p.Outcome != "unknown" {
		t.Errorf("an unknown outcome: %+v", p)
	}
}

func TestIdempotencyKey(t *testing.T) {
	n := newNode(t)
	same := func(first, second string, body string, headers ...string) {
		t.Helper()
		a, b := n.ask(t, first, body, headers...), n.ask(t, second, body, headers...)
		if a.Code != b.Code || a.Body.String() != b.Body.String() || a.Header().Get("ETag") != b.Header().Get("ETag") {
			t.Errorf("%s again: %d %q %q, first %d %q %q", second, b.Code, b.Body, b.Header().Get("ETag"), a.Code, a.Body, a.Header().Get("ETag"))
		}
	}
	const incr = `{"then":[{"op":"incr","key":"n"}]}`
	same("POST /v1/txn/cp", "POST /v1/txn/cp", incr, headerIdempotency, "a")
	same("POST /v1/txn/cp", "POST /v1/txn/cp", incr, headerIdempotency, `"a"`) // quoted or not, it is the same key
	if v := n.value(t, "n"); v != "1" {
		t.Errorf("n is %s after one incr that was sent four times", v)
	}
	same("PUT /v1/kv/cp/k?ttl=90", "PUT /v1/kv/cp/k?ttl=90", "v", headerIdempotency, "b")
	same("PUT /v1/kv/cp/once", "PUT /v1/kv/cp/once", "v", headerIdempotency, "c", "If-None-Match", "*")
	n.ask(t, "PUT /v1/kv/cp/once", "later")
	same("PUT /v1/kv/cp/once", "PUT /v1/kv/cp/once", "v", headerIdempotency, "c", "If-None-Match", "*")
	if v := n.value(t, "once"); v != "later" {
		t.Errorf("a repetition wrote again: %q", v)
	}
	same("DELETE /v1/kv/cp/k", "DELETE /v1/kv/cp/k", "", headerIdempotency, "d")
	n.ask(t, "PUT /v1/kv/cp/k", "new")
	n.ask(t, "DELETE /v1/kv/cp/k", "", headerIdempotency, "d")
	if v := n.value(t, "k"); v != "new" {
		t.Errorf("a repeated DELETE deleted again: %q", v)
	}
	// A list of tags is several writes, each known again by itself.
	v := seed(t, n, "list", "1")
	tags := `"1.1", "` + v["list"] + `"`
	same("PUT /v1/kv/cp/list", "PUT /v1/kv/cp/list", "2", headerIdempotency, "e", "If-Match", tags)
	if got := n.value(t, "list"); got != "2" {
		t.Errorf("list is %q", got)
	}
	for _, request := range []string{"PUT /v1/kv/cp/k", "DELETE /v1/kv/cp/k", "POST /v1/txn/cp"} {
		w := n.ask(t, request, `{"then":[{"op":"incr","key":"other"}]}`, headerIdempotency, "a")
		if p := problemOf(t, w); w.Code != 422 || p.Code != fulcrum.CodeConflict || p.Outcome != "not-applied" {
			t.Errorf("%s under the key of another request: %d %+v", request, w.Code, p)
		}
	}
	if w := n.ask(t, "PUT /v1/kv/ap/k", "v", headerIdempotency, "a"); w.Code != 400 || problemOf(t, w).Code != fulcrum.CodeMode {
		t.Errorf("a mode that keeps no ids: %d", w.Code)
	}
	for _, key := range []string{"", `""`, `"a`, `"a"b`, `"a\x"`, "\x01", "ü", strings.Repeat("x", maxIdempotencyKey+1)} {
		if w := n.ask(t, "PUT /v1/kv/cp/bad", "v", headerIdempotency, key); w.Code != 400 || !strings.HasPrefix(problemOf(t, w).Detail, headerIdempotency) {
			t.Errorf("key %q: %d %s", key, w.Code, w.Body)
		}
	}
	if w := n.ask(t, "PUT /v1/kv/cp/bad", "v", headerIdempotency, "a", headerIdempotency, "b"); w.Code != 400 {
		t.Errorf("two keys: %d", w.Code)
	}
	if w := n.ask(t, "PUT /v1/kv/cp/long", "v", headerIdempotency, strings.Repeat("x", maxIdempotencyKey), "If-Match", tags); w.Code != 412 {
		t.Errorf("the longest key with a list of tags: %d %s", w.Code, w.Body)
	}
	if v := n.value(t, "bad"); v != "-" {
		t.Errorf("refused, and yet written: %q", v)
	}
}

// Escapes that are characters are taken as such, and what looks like half of one may be a
// backslash.
func TestEscapesInJSON(t *testing.T) {
	for text, want := range map[string]bool{
		`"\ud83d\ude00"`: false, `"\uD83D\uDE00x"`: false, `"\\ud800"`: false, `"\u00e9"`: false, `"\"`: false, `\u12`: false, `"\ufffd"`: false,
		`"\ud800"`: true, `"\udc00"`: true, `"\ud800\ud800"`: true, `"\\\ud800"`: true, `"\ud83d\ude00\ud83d"`: true, `"\ud800\\udc00"`: true,
	} {
		if halfPair([]byte(text)) != want {
			t.Errorf("%s: want %v", text, want)
		}
	}
}
