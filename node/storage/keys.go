package storage

import (
	"encoding/binary"
	"hash/crc32"

	"fulcrum"
)

// Keys of the log. The first byte says what kind of thing it is:
//
//	l group epoch index  a record
//	b group epoch        the base of a log: the index before its first record
//	m group epoch name   a small value of a log
//	r name               a small value of the node
//
// Group, epoch and index are 8 bytes each, big-endian, so that key order is the
// order of records. Every value begins with a CRC-32C of its key and itself: a
// flipped bit and a value under a wrong key are both seen.
const (
	kindRecord = 'l'
	kindBase   = 'b'
	kindMeta   = 'm'
	kindNode   = 'r'
)

// logKey names one log.
type logKey struct {
	group fulcrum.GroupID
	epoch fulcrum.Epoch
}

func (k logKey) prefix(kind byte) []byte {
	b := make([]byte, 0, 32)
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, uint64(k.group))
	return binary.BigEndian.AppendUint64(b, uint64(k.epoch))
}

func (k logKey) record(index uint64) []byte {
	return binary.BigEndian.AppendUint64(k.prefix(kindRecord), index)
}

func (k logKey) meta(name string) []byte {
	return append(k.prefix(kindMeta), name...)
}

// after is the first key behind all keys that begin with prefix; nil when there
// is none.
func after(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

const sumSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(seed uint32, key, value []byte) uint32 {
	return crc32.Update(crc32.Update(seed, castagnoli, key), castagnoli, value)
}

// seal writes value, with its sum before it, into dst, which has room for both.
func seal(dst, key, value []byte) {
	binary.BigEndian.PutUint32(dst, sum(0, key, value))
	copy(dst[sumSize:], value)
}

func sealed(key, value []byte) []byte {
	b := make([]byte, sumSize+len(value))
	seal(b, key, value)
	return b
}

// unseal returns the value in b, or false when it is not what was stored.
func unseal(key, b []byte) ([]byte, bool) {
	if len(b) < sumSize || binary.BigEndian.Uint32(b) != sum(0, key, b[sumSize:]) {
		return nil, false
	}
	return b[sumSize:], true
}
