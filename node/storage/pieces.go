package storage

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidwall/btree"
	"go.etcd.io/bbolt"

	"fulcrum/replication"
)

// pieces are the extras of a state whose names contain replication.PieceMark. They may
// be many and come to megabytes, so a change costs what it changes: memory shares what
// stays, and each is an element of the bucket of standings by itself, under the state's
// key, a zero byte and its name. A commit stores those that changed in the transaction
// that stores where the state stands.
type pieces struct {
	all     *btree.Map[string, []byte] // copied before it is shared; its values are never modified
	changed map[string][]byte          // since the last freeze; nil: removed
	frozen  map[string][]byte          // what a commit under way stores
}

func newPieces(m map[string][]byte) pieces {
	p := pieces{all: &btree.Map[string, []byte]{}}
	for name, value := range m {
		p.all.Set(name, value)
	}
	return p
}

func isPiece(name string) bool { return strings.Contains(name, replication.PieceMark) }

// split separates pieces from other extras.
func split(extra map[string][]byte) (plain, pieces map[string][]byte) {
	for name := range extra {
		if isPiece(name) {
			plain, pieces = maps.Clone(extra), maps.Clone(extra)
			maps.DeleteFunc(plain, func(name string, _ []byte) bool { return isPiece(name) })
			maps.DeleteFunc(pieces, func(name string, _ []byte) bool { return !isPiece(name) })
			return plain, pieces
		}
	}
	return extra, nil
}

// setExtra takes extras in. The caller holds mu.
func (st *state) setExtra(extra map[string][]byte) {
	plain, pieces := split(extra)
	st.extra = with(st.extra, plain)
	for name, value := range pieces {
		st.pieces.set(name, slices.Clone(value))
	}
}

func (p *pieces) get(name string) []byte {
	value, _ := p.all.Get(name)
	return slices.Clone(value)
}

// set keeps value, or removes the piece (nil).
func (p *pieces) set(name string, value []byte) {
	if value == nil {
		p.all.Delete(name)
	} else {
		p.all.Set(name, value)
	}
	if p.changed == nil {
		p.changed = map[string][]byte{}
	}
	p.changed[name] = value
}

// copy is a picture that later changes do not touch.
func (p *pieces) copy() pieces { return pieces{all: p.all.Copy()} }

func (p *pieces) freeze() { p.frozen, p.changed = p.changed, nil }

// thaw takes a freeze back.
func (p *pieces) thaw() {
	for name, value := range p.frozen {
		if p.changed == nil {
			p.changed = map[string][]byte{}
		}
		if _, newer := p.changed[name]; !newer {
			p.changed[name] = value
		}
	}
	p.frozen = nil
}

// revert makes the pieces among names what they were in old.
func (p *pieces) revert(old pieces, names map[string][]byte) {
	for name := range names {
		if isPiece(name) {
			value, _ := old.all.Get(name)
			p.set(name, value)
		}
	}
}

// pieceKey is the key of a piece in the bucket of standings. No part's name has a zero
// byte.
func (k stateKey) pieceKey(name string) []byte {
	return append(append(k.bytes(), 0), name...)
}

// pieceOf splits the key of a piece; ok is false for that of a standing.
func pieceOf(key []byte) (state, name []byte, ok bool) {
	if len(key) < 8 {
		return nil, nil, false
	}
	part, name, ok := bytes.Cut(key[8:], []byte{0})
	return key[:8+len(part)], name, ok
}

// putPieces stores pieces, or removes those that are nil.
func putPieces(tx *bbolt.Tx, key stateKey, changed map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		k := key.pieceKey(name)
		var stored []byte
		if value := changed[name]; value != nil {
			stored = sealed(k, value)
		}
		if err := setStanding(tx, k, stored); err != nil {
			return err
		}
	}
	return nil
}

// readPieces reads the pieces of one state out of the bucket of standings.
func readPieces(states *bbolt.Bucket, key stateKey) (map[string][]byte, error) {
	found := map[string][]byte{}
	prefix := key.pieceKey("")
	c := states.Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		value, ok := unseal(k, v)
		if !ok {
			return nil, fmt.Errorf("piece %q: %w", k, errSum)
		}
		found[string(k[len(prefix):])] = bytes.Clone(value)
	}
	return found, nil
}

func removePieces(tx *bbolt.Tx, key stateKey) error {
	found, err := readPieces(tx.Bucket(statesBucket), key)
	for name := range found {
		err = errors.Join(err, setStanding(tx, key.pieceKey(name), nil))
	}
	return err
}
