// Package fulcrum holds the words that every part of the store shares: nodes,
// groups, versions, writes, entries, results and errors. It knows no protocol,
// no disk and no network.
//
// Start reading at Write and Entry: every mode is a way to order Writes and to
// agree on the Entries that they leave behind.
package fulcrum

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// NodeID is a node's name, as given by --name: 1 to 64 of [a-zA-Z0-9._-].
type NodeID string

// GroupID names the replication group of one shard, uniquely in the cluster and
// for ever. Group 0 is the catalog's.
type GroupID uint64

// CatalogGroup is the group that replicates the catalog.
const CatalogGroup GroupID = 0

// Epoch is a shard's configuration number. Each change of mode or of replicas
// makes a new one; replicas only talk to replicas of their own epoch.
type Epoch uint64

// Limits that hold everywhere, before a write reaches any protocol.
const (
	MaxKeyBytes         = 8 << 10
	DefaultMaxValue     = 1 << 20
	MaxOpsPerBatch      = 128
	MaxMessageBytes     = 16 << 20 // one message between two nodes
	DefaultRequestLimit = 5 * time.Second
)

// Version orders the writes of one key. Time is a hybrid logical clock reading
// (Kulkarni et al. 2014): 48 bits of Unix milliseconds, then 16 bits of logical
// counter. Actor breaks ties; it is unique to one life of one node's disk, so
// two writers never make the same Version.
//
// The zero Version is older than every other and means "never written".
type Version struct {
	Time  uint64
	Actor uint32
}

// Compare returns -1, 0 or 1 as v is older than, equal to or newer than w.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Time, w.Time), cmp.Compare(v.Actor, w.Actor))
}

// Less reports whether v is older than w.
func (v Version) Less(w Version) bool { return v.Compare(w) < 0 }

// IsZero reports whether v is the version of a key never written.
func (v Version) IsZero() bool { return v == Version{} }

// Next returns the smallest version above v that has the same actor.
func (v Version) Next() Version { return Version{Time: v.Time + 1, Actor: v.Actor} }

// Wall returns the physical part of v.
func (v Version) Wall() time.Time { return time.UnixMilli(int64(v.Time >> 16)) }

// String is the form users see as ETag and in receipts: "time.actor" in hex.
func (v Version) String() string {
	return strconv.FormatUint(v.Time, 16) + "." + strconv.FormatUint(uint64(v.Actor), 16)
}

// ParseVersion reads what String wrote.
func ParseVersion(s string) (Version, error) {
	t, a, ok := strings.Cut(s, ".")
	tm, err1 := strconv.ParseUint(t, 16, 64)
	ac, err2 := strconv.ParseUint(a, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return Version{}, fmt.Errorf("version %q: want TIME.ACTOR in hexadecimal, as a receipt or an ETag shows it", s)
	}
	return Version{Time: tm, Actor: uint32(ac)}, nil
}

// MarshalText and UnmarshalText use the form of String.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (v *Version) UnmarshalText(b []byte) (err error) {
	*v, err = ParseVersion(string(b))
	return err
}

// Entry is what stands at a key: a value, or the tombstone of one. The holder of
// an Entry must not modify its slices.
type Entry struct {
	Key       []byte
	Value     []byte
	Version   Version
	Tombstone bool
	ExpireAt  int64 // Unix milliseconds from which on it is gone; 0: never
	// Decided says that the group which answered has decided by its log that e is live,
	// whatever the clock of who asks says; ExpireAt only tells for how long yet. It
	// belongs to answers: it is neither stored nor sent.
	Decided bool
}

// Live reports whether e holds a value at the time now (Unix milliseconds).
func (e Entry) Live(now int64) bool {
	if e.Decided {
		return !e.Tombstone && !e.Version.IsZero()
	}
	return !e.Version.IsZero() && !e.Tombstone && (e.ExpireAt == 0 || now < e.ExpireAt)
}

// AppendEntry appends the binary form of e, which DecodeEntry reads.
func AppendEntry(b []byte, e Entry) []byte {
	var flags byte
	if e.Tombstone {
		flags = 1
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, e.Version.Time)
	b = binary.AppendUvarint(b, uint64(e.Version.Actor))
	b = binary.AppendVarint(b, e.ExpireAt)
	b = AppendBytes(b, e.Key)
	return AppendBytes(b, e.Value)
}

// DecodeEntry reads an Entry and returns the rest of b. The entry's slices point
// into b.
func DecodeEntry(b []byte) (Entry, []byte, error) {
	r := Reader{b: b}
	var e Entry
	flags := r.Byte()
	e.Tombstone = flags&1 != 0
	e.Version.Time = r.Uvarint()
	e.Version.Actor = uint32(r.Uvarint())
	e.ExpireAt = r.Varint()
	e.Key = r.Bytes()
	e.Value = r.Bytes()
	return e, r.b, r.Err()
}

// AppendBytes appends p with its length before it, for Reader.Bytes.
func AppendBytes(b, p []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	return append(b, p...)
}

// ErrShort says that bytes end too early or make no sense: a torn or foreign message.
var ErrShort = errors.New("malformed message")

// Reader takes fields off a message, in the order in which they were appended.
// After the first malformed field every call returns zero and Err says so: a
// decoder checks once, at its end.
type Reader struct {
	b   []byte
	bad bool
}

// NewReader reads from b; slices that it returns point into b.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

func (r *Reader) fail() { r.b, r.bad = nil, true }

// Err returns ErrShort when any field so far was malformed.
func (r *Reader) Err() error {
	if r.bad {
		return ErrShort
	}
	return nil
}

// Rest returns what is not yet read.
func (r *Reader) Rest() []byte { return r.b }

// Byte reads one byte.
func (r *Reader) Byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// Uvarint reads an unsigned varint.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Varint reads a signed varint.
func (r *Reader) Varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Bytes reads a field of AppendBytes; nil when it is empty.
func (r *Reader) Bytes() []byte {
	n := r.Uvarint()
	if n > uint64(len(r.b)) || n > math.MaxInt32 {
		r.fail()
		return nil
	}
	if n == 0 {
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

// String reads a field of AppendBytes as a string.
func (r *Reader) String() string { return string(r.Bytes()) }
