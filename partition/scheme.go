package partition

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Scheme is how a keyspace turns keys into tokens.
type Scheme uint8

// The schemes. Hash spreads keys evenly; Range keeps neighbours together, so that
// a scan asks few shards; Zone is Range over keys named "zone/...", whose shards
// live in that zone.
const (
	Hash Scheme = iota
	Range
	Zone
)

var schemeNames = [...]string{Hash: "hash", Range: "range", Zone: "zone"}

func (s Scheme) String() string {
	if int(s) < len(schemeNames) {
		return schemeNames[s]
	}
	return fmt.Sprintf("scheme(%d)", uint8(s))
}

// ParseScheme reads what String wrote; its error lists the schemes.
func ParseScheme(text string) (Scheme, error) {
	for s, name := range schemeNames {
		if text == name {
			return Scheme(s), nil
		}
	}
	return 0, fmt.Errorf("unknown sharding scheme %q: use one of %s", text, strings.Join(schemeNames[:], ", "))
}

// MarshalText writes the form of String.
func (s Scheme) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the form of String.
func (s *Scheme) UnmarshalText(b []byte) (err error) {
	*s, err = ParseScheme(string(b))
	return err
}

// Token is where key sits. For Hash it is the 64-bit xxHash of the key, or of its
// hash tag, in 8 bytes, big-endian; for the others it is the key itself, not copied.
func (s Scheme) Token(key []byte) []byte {
	if s != Hash {
		return key
	}
	return binary.BigEndian.AppendUint64(nil, xxhash.Sum64(hashTag(key)))
}

// Ordered reports whether tokens sort as keys do, so that a range of keys is a
// range of tokens.
func (s Scheme) Ordered() bool { return s != Hash }

// hashTag is the part of key that decides its shard: what stands between the
// first "{" and the first "}" behind it, if anything does, as in Redis Cluster.
func hashTag(key []byte) []byte {
	_, rest, ok := bytes.Cut(key, []byte("{"))
	if !ok {
		return key
	}
	if tag, _, ok := bytes.Cut(rest, []byte("}")); ok && len(tag) > 0 {
		return tag
	}
	return key
}

// ZoneOf is the zone that key (or the start of a range) of the Zone scheme
// belongs to: what stands before its first "/", when zones has it; "" if none does.
func ZoneOf(key []byte, zones []string) string {
	name, _, ok := bytes.Cut(key, []byte("/"))
	if ok {
		for _, z := range zones {
			if z == string(name) {
				return z
			}
		}
	}
	return ""
}

// PrefixEnd is the end of the range of keys that begin with prefix: the smallest
// key above all of them, or nil when there is none.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}
