package storage

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/bits"
)

// Pebble writes its logs and manifests in blocks of 32 KiB, filled with chunks; a
// chunk never crosses a block (package record of pebble v2 defines the format):
//
//	sum 4 | size of payload 2 | type 1 | [log number 4] | [sync offset 8] | payload
//
// The sum covers everything from the type on. Manifests have neither bracket; a
// new store's first log has the first; all later logs have both.
const (
	blockSize     = 32 << 10
	plainHeader   = 7
	numberHeader  = plainHeader + 4
	syncedHeader  = numberHeader + 8
	chunkFull     = 1 // what a type is, modulo 4: full, first, middle, last
	chunkFirst    = 2
	chunkMiddle   = 3
	plainTypes    = 4 // types 1-4
	numberedTypes = 8 // types 5-8
	syncedTypes   = 12
)

// headerSize of a type of chunk; 0: there is no such type.
func headerSize(kind byte) int {
	switch {
	case kind == 0 || kind > syncedTypes:
		return 0
	case kind <= plainTypes:
		return plainHeader
	case kind <= numberedTypes:
		return numberHeader
	}
	return syncedHeader
}

// chunk is what is needed of a chunk that can be trusted.
type chunk struct {
	size   int    // header and payload
	begins bool   // a record begins with it
	ends   bool   // a record ends with it
	synced uint64 // the file was synced up to here when the chunk was made; 0: not said
}

// chunkReader checks the chunks of one file. A manifest has no number.
type chunkReader struct {
	manifest bool
	number   uint32
}

// chunkSum is pebble's: a masked CRC-32C.
func chunkSum(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// parse returns the chunk that b begins with, if it is whole and right.
func (r chunkReader) parse(b []byte) (chunk, bool) {
	if len(b) < plainHeader {
		return chunk{}, false
	}
	header := headerSize(b[6])
	size := header + int(binary.LittleEndian.Uint16(b[4:]))
	if header == 0 || size > len(b) || r.manifest != (header == plainHeader) {
		return chunk{}, false
	}
	if header >= numberHeader && binary.LittleEndian.Uint32(b[plainHeader:]) != r.number {
		return chunk{}, false
	}
	if binary.LittleEndian.Uint32(b) != chunkSum(b[6:size]) {
		return chunk{}, false
	}
	kind := b[6] % 4
	c := chunk{size: size, begins: kind == chunkFull || kind == chunkFirst, ends: kind == chunkFull || kind == 0}
	if header == syncedHeader {
		c.synced = binary.LittleEndian.Uint64(b[numberHeader:])
	}
	return c, true
}

// trailer reports whether b begins with what pebble puts behind the last chunk of
// a log that it closes.
func (r chunkReader) trailer(b []byte) bool {
	if r.manifest || len(b) < numberHeader {
		return false
	}
	want := make([]byte, plainHeader, numberHeader)
	want[6] = plainTypes + chunkFull
	return bytes.HasPrefix(b, binary.LittleEndian.AppendUint32(want, r.number+1))
}

// flipped reports whether b begins with a chunk of this file of which one bit is
// wrong. A torn write leaves one with a chance of about 2^-45: sum, type and number
// all have to come out right.
func (r chunkReader) flipped(b []byte) bool {
	b = bytes.Clone(b)
	try := func(at int, bit int) bool {
		b[at] ^= 1 << bit
		_, ok := r.parse(b)
		b[at] ^= 1 << bit
		return ok
	}
	for at := range min(len(b), syncedHeader) {
		for bit := range 8 {
			if try(at, bit) {
				return true
			}
		}
	}
	if len(b) < plainHeader {
		return false
	}
	size := headerSize(b[6]) + int(binary.LittleEndian.Uint16(b[4:]))
	if size > len(b) || size < plainHeader {
		return false
	}
	at, bit, ok := flippedBit(b[6:size], binary.LittleEndian.Uint32(b))
	return ok && try(6+at, bit)
}

// flippedBit finds the bit of b without which it would have the sum. Sums are
// linear: what one bit adds depends on its distance from the end alone.
func flippedBit(b []byte, sum uint32) (at, bit int, ok bool) {
	sum -= 0xa282ead8
	adds := bits.RotateLeft32(sum, 15) ^ crc32.Checksum(b, castagnoli)
	s := uint32(crc32.Castagnoli) // of the last byte's highest bit
	for i := range 8 * len(b) {
		if s == adds {
			return len(b) - 1 - i/8, 7 - i%8, true
		}
		if s&1 != 0 {
			s = s>>1 ^ crc32.Castagnoli
		} else {
			s >>= 1
		}
	}
	return 0, 0, false
}

// ending is where the readable part of a file ends, and how.
type ending struct {
	at   int64  // after this nothing can be read
	torn bool   // there are bytes, or the rest of a record is missing
	why  string // why it is damage and not a torn write; empty: it is not
}

// scan reads a file up to its end, or up to what cannot be read.
func (r chunkReader) scan(f io.Reader) (ending, error) {
	var block [blockSize]byte
	inside := false // a record has begun and not ended
	for at := int64(0); ; at += blockSize {
		n, err := io.ReadFull(f, block[:])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return ending{}, err
		}
		i := 0
		for i < n {
			c, ok := r.parse(block[i:n])
			if !ok || c.begins == inside {
				break
			}
			inside = !c.ends
			i += c.size
		}
		rest := block[i:n]
		switch {
		case n == blockSize && r.padding(rest) && !hasBit(rest):
			continue
		case n == 0 || i == n:
			return ending{at: at + int64(i), torn: inside}, nil
		case r.trailer(rest) && !inside:
			return ending{at: at + int64(i)}, nil
		}
		e := ending{at: at + int64(i), torn: true}
		e.why, err = r.judge(f, rest, n == blockSize, uint64(e.at))
		return e, err
	}
}

// padding reports whether rest, at the end of a block, is too short for a chunk.
func (r chunkReader) padding(rest []byte) bool {
	if r.manifest {
		return len(rest) < plainHeader
	}
	return len(rest) < syncedHeader
}

func hasBit(b []byte) bool { return len(bytes.Trim(b, "\x00")) > 0 }

// judge looks for a proof that what cannot be read, at offset at, had been synced:
// rest is what is left of its block, f stands at the next one.
func (r chunkReader) judge(f io.Reader, rest []byte, full bool, at uint64) (why string, err error) {
	if full && r.padding(rest) {
		ones := 0
		for _, b := range rest {
			ones += bits.OnesCount8(b)
		}
		if ones == 1 {
			return "one bit is flipped", nil
		}
	}
	if r.flipped(rest) {
		return "one bit is flipped", nil
	}
	for i := 1; i < len(rest); i++ {
		if c, ok := r.parse(rest[i:]); ok && r.proves(c, at) {
			return "what comes after it proves that it had been synced", nil
		}
	}
	var block [blockSize]byte
	for {
		n, err := io.ReadFull(f, block[:])
		if err == io.EOF {
			return "", nil
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return "", err
		}
		for i := 0; i < n; {
			c, ok := r.parse(block[i:n])
			if !ok {
				break
			}
			if r.proves(c, at) {
				return "what comes after it proves that it had been synced", nil
			}
			i += c.size
		}
	}
}

// proves reports whether c could not be there if the bytes at offset at had not
// been synced before. In a log it says so; in a manifest a record is begun only
// when the one before it is synced.
func (r chunkReader) proves(c chunk, at uint64) bool {
	if r.manifest {
		return c.begins
	}
	return c.synced > at
}
