package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// A frame is what travels on a connection after the handshake:
//
//	length   4 bytes, big endian: how many bytes follow the checksum
//	checksum 4 bytes, big endian: CRC-32C of those bytes
//	kind     1 byte
//	id       uvarint: which call, or which ping; never used twice on a connection
//	channel  1 byte; calls only, else 0
//	timeout  uvarint, milliseconds left to the caller; calls only, else 0
//	payload  the rest
//
// A large one goes in pieces, see piece.go.
type frame struct {
	kind    kind
	id      uint64
	channel Channel
	timeout uint64 // milliseconds
	payload []byte
}

type kind uint8

const (
	kindCall  kind = 1 + iota // wants a reply or a failure with its id
	kindReply                 // payload: the answer
	kindError                 // payload: fulcrum.AppendError
	kindPing                  // wants a pong with its id
	kindPong
	kindBegin // the first piece of a call, a reply or an error, see piece.go
	kindMore  // what follows
	kindDrop  // nothing more follows
	kindEnd   // above the last
)

const (
	frameHeader = 8
	minFrame    = 4                                                     // kind, id, channel, timeout
	maxOverhead = 1 + binary.MaxVarintLen64 + 1 + binary.MaxVarintLen64 // of a frame, besides header and payload
	readStep    = 512 << 10                                             // beyond that a length is believed only as far as bytes arrive
)

// errBadFrame says that a peer sent what is no frame. The connection is useless
// from then on, as nobody knows where the next frame begins.
var errBadFrame = errors.New("bad frame")

// appendFrame appends the binary form of f.
func appendFrame(b []byte, f *frame) []byte {
	start := len(b)
	b = slices.Grow(b, frameHeader+maxOverhead+len(f.payload))
	b = append(b, make([]byte, frameHeader)...)
	b = append(b, byte(f.kind))
	b = binary.AppendUvarint(b, f.id)
	b = append(b, byte(f.channel))
	b = binary.AppendUvarint(b, f.timeout)
	b = append(b, f.payload...)
	body := b[start+frameHeader:]
	binary.BigEndian.PutUint32(b[start:], uint32(len(body)))
	binary.BigEndian.PutUint32(b[start+4:], crc32.Checksum(body, castagnoli()))
	return b
}

// castagnoli returns the shared table, for which crc32 uses the CPU's instruction.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// header is what stands before a frame, and its kind.
type header struct {
	size int
	sum  uint32
	kind kind
}

// peekHeader looks at the header of a frame whose payload is at most maxPayload bytes. An
// error is that of r, io.ErrUnexpectedEOF for half a header, or wraps errBadFrame.
func peekHeader(r *bufio.Reader, maxPayload int) (header, error) {
	b, err := r.Peek(frameHeader) // an array to read into would be allocated
	if err != nil {
		if len(b) > 0 {
			err = unexpected(err)
		}
		return header{}, err
	}
	size, sum := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if size < minFrame || int64(size) > int64(maxPayload)+maxOverhead {
		return header{}, fmt.Errorf("%w: %d bytes, want %d to %d", errBadFrame, size, minFrame, maxPayload+maxOverhead)
	}
	if b, err = r.Peek(frameHeader + 1); err != nil {
		return header{}, unexpected(err)
	}
	return header{size: int(size), sum: sum, kind: kind(b[frameHeader])}, nil
}

// readRest reads the frame that h stands before, and h.
func readRest(r *bufio.Reader, h header, maxPayload int) (frame, error) {
	_, _ = r.Discard(frameHeader) // it is there
	body, err := readBody(r, h.size)
	if err != nil {
		return frame{}, unexpected(err)
	}
	if got := crc32.Checksum(body, castagnoli()); got != h.sum {
		return frame{}, fmt.Errorf("%w: checksum %08x, want %08x", errBadFrame, got, h.sum)
	}
	f, err := decodeBody(body)
	if err == nil && len(f.payload) > maxPayload {
		err = fmt.Errorf("%w: payload of %d bytes, want at most %d", errBadFrame, len(f.payload), maxPayload)
	}
	return f, err
}

// readBody reads size bytes into memory of their own. Beyond readStep it takes memory
// only as bytes arrive, so a lying length costs a connection readStep at the most, or its
// sender as much as us.
func readBody(r io.Reader, size int) ([]byte, error) {
	body := make([]byte, min(size, readStep))
	for have := 0; ; {
		n, err := io.ReadFull(r, body[have:])
		have += n
		if err != nil || have == size {
			return body, err
		}
		grown := make([]byte, min(size, 2*len(body)))
		copy(grown, body)
		body = grown
	}
}

// decodeBody takes a frame apart; its payload points into body.
func decodeBody(body []byte) (frame, error) {
	bad := func(what string) (frame, error) { return frame{}, fmt.Errorf("%w: %s", errBadFrame, what) }
	f := frame{kind: kind(body[0])}
	if f.kind == 0 || f.kind >= kindEnd {
		return bad(fmt.Sprintf("kind %d is unknown", f.kind))
	}
	rest := body[1:]
	id, n := binary.Uvarint(rest)
	if n <= 0 || len(rest) == n {
		return bad("the id is cut short")
	}
	f.id, f.channel, rest = id, Channel(rest[n]), rest[n+1:]
	timeout, n := binary.Uvarint(rest)
	if n <= 0 {
		return bad("the timeout is cut short")
	}
	f.timeout, f.payload = timeout, rest[n:len(rest):len(rest)]
	return f, nil
}
