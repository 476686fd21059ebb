package quorum

import (
	"encoding/binary"

	"fulcrum"
)

// The messages between replicas: a kind, then its fields. Each list is bounded on
// both sides, so that no message outgrows fulcrum.MaxMessageBytes.
const (
	kindPing    byte = iota + 1 // sender's clock -> flags
	kindStore                   // flags, entries -> nothing
	kindRead                    // (key, version held)s -> (version, entry if newer)s
	kindScan                    // start, end, limit -> entries, more
	kindDigests                 // flags -> flags, 256 digests
	kindBuckets                 // flags, bit map of buckets, after -> (key, version)s, more
	kindPull                    // flags, keys -> entries of the first of them
	kindPurge                   // (key, version)s -> nothing
)

// Flags of requests and replies.
const (
	flagRelay      byte = 1 << iota // store: repair, hint or anti-entropy, not a new write
	flagSettle                      // sync: answer only if fenced
	flagCatchingUp                  // reply: the sender must not be read from
	flagFenced                      // reply: the sender is fenced
)

// Bounds of one message.
const (
	maxItems     = 4096    // entries, keys or pairs in one message
	pageBytes    = 1 << 20 // a reply stops after the entry that passes this
	maxPartBytes = 4 << 20 // a list of entries is cut before it passes this, if it has more than one
	buckets      = 256
)

// pair is a key and the version that somebody holds of it.
type pair struct {
	key     []byte
	version fulcrum.Version
}

func appendVersion(b []byte, v fulcrum.Version) []byte {
	b = binary.AppendUvarint(b, v.Time)
	return binary.AppendUvarint(b, uint64(v.Actor))
}

func readVersion(r *fulcrum.Reader) fulcrum.Version {
	return fulcrum.Version{Time: r.Uvarint(), Actor: uint32(r.Uvarint())}
}

func appendPairs(b []byte, ps []pair) []byte {
	b = binary.AppendUvarint(b, uint64(len(ps)))
	for _, p := range ps {
		b = appendVersion(fulcrum.AppendBytes(b, p.key), p.version)
	}
	return b
}

func readPairs(r *fulcrum.Reader) []pair {
	n := readCount(r)
	ps := make([]pair, 0, min(n, 64))
	for range n {
		p := pair{key: r.Bytes(), version: readVersion(r)}
		if r.Err() != nil {
			return nil
		}
		ps = append(ps, p)
	}
	return ps
}

// readCount reads the length of a list; one over the bound fails the reader, by
// reading a field that cannot be there.
func readCount(r *fulcrum.Reader) int {
	n := r.Uvarint()
	if n > maxItems {
		for r.Err() == nil {
			r.Bytes()
			r.Byte()
		}
		return 0
	}
	return int(n)
}

func appendEntries(b []byte, es []fulcrum.Entry) []byte {
	b = binary.AppendUvarint(b, uint64(len(es)))
	for _, e := range es {
		b = fulcrum.AppendEntry(b, e)
	}
	return b
}

// decodeEntries reads what appendEntries wrote. The entries are copies: a message's
// buffer may be used again, and a State keeps what it is given.
func decodeEntries(b []byte) (es []fulcrum.Entry, rest []byte, err error) {
	r := fulcrum.NewReader(b)
	n := readCount(r)
	if err := r.Err(); err != nil {
		return nil, nil, err
	}
	b = r.Rest()
	es = make([]fulcrum.Entry, 0, min(n, 64))
	for range n {
		var e fulcrum.Entry
		if e, b, err = fulcrum.DecodeEntry(b); err != nil {
			return nil, nil, err
		}
		es = append(es, cloned(e))
	}
	return es, b, nil
}

// cloned copies e's slices into one allocation.
func cloned(e fulcrum.Entry) fulcrum.Entry {
	k := len(e.Key)
	buf := make([]byte, k+len(e.Value))
	copy(buf, e.Key)
	copy(buf[k:], e.Value)
	e.Key = buf[:k:k]
	if e.Value != nil {
		e.Value = buf[k:]
	}
	return e
}

func appendKeys(b []byte, keys [][]byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, k := range keys {
		b = fulcrum.AppendBytes(b, k)
	}
	return b
}

func readKeys(r *fulcrum.Reader) [][]byte {
	n := readCount(r)
	keys := make([][]byte, 0, min(n, 64))
	for range n {
		k := r.Bytes()
		if r.Err() != nil {
			return nil
		}
		keys = append(keys, k)
	}
	return keys
}

// entryBytes is about how much e takes in a message.
func entryBytes(e fulcrum.Entry) int { return len(e.Key) + len(e.Value) + 32 }

// parts cuts es into lists that each fit into one message or record.
func parts(es []fulcrum.Entry) (out [][]fulcrum.Entry) {
	for len(es) > 0 {
		n, size := 0, 0
		for n < len(es) && n < maxItems {
			size += entryBytes(es[n])
			if n > 0 && size > maxPartBytes {
				break
			}
			n++
		}
		out, es = append(out, es[:n]), es[n:]
	}
	return out
}

// storeMessages are the messages that carry es to one replica.
func storeMessages(flags byte, es []fulcrum.Entry) (msgs [][]byte) {
	for _, list := range parts(es) {
		size := 16
		for _, e := range list {
			size += entryBytes(e)
		}
		msg := append(make([]byte, 0, size), kindStore, flags)
		msgs = append(msgs, appendEntries(msg, list))
	}
	return msgs
}

// answer is what one replica holds of the keys of a read, in their order.
type answer struct {
	version fulcrum.Version
	entry   fulcrum.Entry // set where it is newer than what the asker held
	newer   bool
}

func appendAnswer(b []byte, e fulcrum.Entry, held fulcrum.Version) []byte {
	if held.Less(e.Version) {
		return fulcrum.AppendEntry(append(b, 1), e)
	}
	return appendVersion(append(b, 0), e.Version)
}

func decodeAnswers(b []byte, most int) (as []answer, err error) {
	for len(b) > 0 {
		if len(as) == most {
			return nil, fulcrum.ErrShort
		}
		var a answer
		if a.newer = b[0] == 1; a.newer {
			if a.entry, b, err = fulcrum.DecodeEntry(b[1:]); err != nil {
				return nil, err
			}
			a.entry = cloned(a.entry)
			a.version = a.entry.Version
		} else {
			r := fulcrum.NewReader(b[1:])
			a.version = readVersion(r)
			if err = r.Err(); err != nil {
				return nil, err
			}
			b = r.Rest()
		}
		as = append(as, a)
	}
	return as, nil
}
