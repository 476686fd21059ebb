package replication

import "fulcrum"

// What one request may come to once it is evaluated. Its own bytes say little of that: one
// byte that is appended to a value of a megabyte writes a megabyte.
//
// Each leaves room for one write of a value as large as any node takes
// (fulcrum.MaxMessageBytes / 4), with all of its result; and MaxAnswer, which counts what
// AppendWriteReply writes or more, keeps an answer within one message between nodes. So it
// holds on every node, also on the one that needs no message: what a request does must not
// depend on who was asked.
const (
	MaxWritten = 8 << 20  // keys and values that are left behind
	MaxAnswer  = 15 << 20 // results: what was read, and what stood there before
)

// Bounds are those of one Evaluate; zero: none.
type Bounds struct {
	Written, Answer int
}

// Bounded is what all requests are held to, but for those in log entries that an earlier
// build wrote.
var Bounded = Bounds{MaxWritten, MaxAnswer}

// Cost is what a request comes to.
type Cost struct {
	Written, Answer int
}

// Sum is what it takes in memory, more or less.
func (c Cost) Sum() int { return c.Written + c.Answer }

// Within reports whether c is in b.
func (c Cost) Within(b Bounds) bool {
	return (b.Written == 0 || c.Written <= b.Written) && (b.Answer == 0 || c.Answer <= b.Answer)
}

// resultBytes is more than a result takes in an answer besides its keys, its values and
// its error.
const resultBytes = 96

// Add adds what w came to; res is trimmed.
func (c *Cost) Add(w *fulcrum.Write, res *fulcrum.Result) {
	if res.Applied {
		c.Written += len(w.Key) + res.Length
	}
	c.Answer += resultBytes + len(res.Entry.Key) + len(res.Entry.Value) + len(res.Old.Key) + len(res.Old.Value)
	if res.Err != nil {
		c.Answer += len(res.Err.Error()) + resultBytes
	}
}

// CostOf is what results of writes that were done before come to.
func CostOf(writes []fulcrum.Write, results []fulcrum.Result) (c Cost) {
	for i := range results {
		c.Add(&writes[i], &results[i])
	}
	return c
}

// refuse says which bound c is over.
func (c Cost) refuse(b Bounds) *fulcrum.Error {
	if b.Written > 0 && c.Written > b.Written {
		return fulcrum.Errorf(fulcrum.CodeTooLarge, "the request would write more than %d bytes, which is the limit of one request: each operation counts with the whole key and value that it leaves", b.Written).
			WithHint("nothing was done; change fewer keys at a time, or smaller ones")
	}
	return fulcrum.Errorf(fulcrum.CodeTooLarge, "the answer would be larger than %d bytes, which is the limit of one request: the values that it returns count", b.Answer).
		WithHint("nothing was done; ask for fewer values at a time")
}

// MaxRead bounds what one answer to a read or a scan holds, but for the entry that passes it: an
// answer fits into a message between nodes, and whoever reads many large values takes
// little memory at a time.
const MaxRead = 8 << 20

// First returns the entries up to the first one with which they have more than most bytes
// of keys and values.
func First(entries []fulcrum.Entry, most int) []fulcrum.Entry {
	size := 0
	for i := range entries {
		if size > most {
			return entries[:i:i]
		}
		size += len(entries[i].Key) + len(entries[i].Value)
	}
	return entries
}

// ScanPage gathers the live entries that a scan answers with, in key order.
type ScanPage struct {
	Entries []fulcrum.Entry
	More    bool // there are others behind the last

	limit, size int
	keysOnly    bool
}

const defaultScan = 1000

// PageOf is the empty page that answers req.
func PageOf(req ScanRequest) ScanPage {
	p := ScanPage{limit: req.Limit, keysOnly: req.KeysOnly}
	if p.limit <= 0 {
		p.limit = defaultScan
	}
	return p
}

// Room is how many entries the page still takes.
func (p *ScanPage) Room() int { return p.limit - len(p.Entries) }

// Take adds e, or says that the page is full: with its limit, or with more than MaxRead
// bytes of keys and values. It holds one entry at the least, so that whoever goes on behind
// the last comes to an end.
func (p *ScanPage) Take(e fulcrum.Entry) bool {
	if p.keysOnly {
		e.Value = nil
	}
	if len(p.Entries) == p.limit || p.size > MaxRead {
		p.More = true
		return false
	}
	p.Entries = append(p.Entries, e)
	p.size += len(e.Key) + len(e.Value)
	return true
}
