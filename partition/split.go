package partition

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// Split returns the starts of n shards for a new keyspace, the first one empty.
//
// Hash: equal parts of the 64-bit space. Range: equal parts of what keys begin
// with in practice, the digits and lower-case letters, so that four shards begin
// at "", "9", "i" and "r"; other bytes fall where they sort. Zone: one shard of
// everything; SplitZones knows the zones.
func Split(s Scheme, n int) [][]byte {
	starts := [][]byte{{}}
	for i := 1; i < n; i++ {
		switch s {
		case Hash:
			token, _ := bits.Div64(uint64(i), 0, uint64(n)) // i * 2^64 / n
			starts = append(starts, binary.BigEndian.AppendUint64(nil, token))
		case Range:
			starts = append(starts, alphabetFraction(uint64(i), uint64(n)))
		}
	}
	return starts
}

const alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"

// alphabetFraction writes i/n, 0 < i < n, in base 36, with as many digits as keep
// n fractions apart. Without its trailing zeros it sorts as a key as it does as a
// number: "0" is the smallest digit.
func alphabetFraction(i, n uint64) []byte {
	scale := uint64(1)
	for scale < n {
		scale *= uint64(len(alphabet))
	}
	hi, lo := bits.Mul64(i, scale)
	v, _ := bits.Div64(hi, lo, n)
	var digits []byte
	for ; scale > 1; scale /= uint64(len(alphabet)) {
		digits = append(digits, alphabet[v%uint64(len(alphabet))])
		v /= uint64(len(alphabet))
	}
	slices.Reverse(digits)
	for len(digits) > 1 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	return digits
}

// SplitZones returns the starts of the shards of a zone-sharded keyspace: one for
// each zone z, of the keys "z/...", and one for each gap between them, of the keys
// that name no zone. ZoneOf of a start tells which: "" is a gap, whose home the
// keyspace chooses. Zone names must not hold a "/"; those that do are left out.
//
// The ranges ["z/", "z0") of different zones are disjoint ("0" follows "/"), for
// neither name with its slash can begin the other; so the starts rise strictly.
func SplitZones(zones []string) [][]byte {
	starts := [][]byte{{}}
	for _, z := range zones {
		if z == "" || slices.Contains([]byte(z), '/') {
			continue
		}
		starts = append(starts, []byte(z+"/"), []byte(z+"0"))
	}
	slices.SortFunc(starts, slices.Compare[[]byte])
	return slices.CompactFunc(starts, slices.Equal[[]byte])
}
