package consistency

import (
	"bytes"
	"cmp"

	"fulcrum"
)

// LWW merges two entries of one key: the one with the newer version wins. It is
// commutative, associative and idempotent, so replicas that merge the same
// entries in any order agree.
//
// No two writers make the same version. Should damaged data break that, a
// tombstone wins, then the greater value, so that the order stays total.
func LWW(a, b fulcrum.Entry) fulcrum.Entry {
	if lwwCompare(a, b) < 0 {
		return b
	}
	return a
}

func lwwCompare(a, b fulcrum.Entry) int {
	bit := func(v bool) int {
		if v {
			return 1
		}
		return 0
	}
	return cmp.Or(
		a.Version.Compare(b.Version),
		cmp.Compare(bit(a.Tombstone), bit(b.Tombstone)),
		bytes.Compare(a.Value, b.Value),
		cmp.Compare(a.ExpireAt, b.ExpireAt),
		bytes.Compare(a.Key, b.Key),
	)
}
