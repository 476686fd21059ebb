package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// A frame that is larger than goes at once travels in pieces, between which other frames
// go. Each piece is a frame of its own:
//
//	the first  kindBegin, with id, channel and timeout of the whole; its payload is the
//	           kind of the whole (1 byte), the length of its payload (uvarint), and where
//	           that begins
//	the others kindMore, with the id; the payload goes on
//
// It is whole when as much has come as was announced. kindDrop, with the id, says that
// nothing more will come.
const (
	maxAnnounced = 1 + binary.MaxVarintLen64 // of a first piece, before its part of the payload
	maxHead      = maxOverhead + maxAnnounced
)

// maxOpen is how many frames may have come in part on a connection. Their lengths are at
// most twice that of the largest frame together.
const maxOpen = laneCount

// partial is a frame of which a part has come.
type partial struct {
	frame
	size int   // of its payload, when it is whole
	came int64 // Transport.now of its first piece
}

// joiner reads frames, and puts those together that come in pieces. What it keeps ends
// with it.
//
// Invariant: it takes memory for a frame only as bytes of it arrive, but for the first
// readStep; so its peer has sent a quarter of it, or there is little of it.
type joiner struct {
	r     *bufio.Reader
	max   int             // of a payload
	takes func(kind) bool // whether frames of a kind have a place in this direction
	now   func() int64    // Transport.now
	open  map[uint64]*partial
	total int // announced by those that are open
}

func newJoiner(r *bufio.Reader, maxPayload int, takes func(kind) bool, now func() int64) *joiner {
	return &joiner{r: r, max: maxPayload, takes: takes, now: now, open: make(map[uint64]*partial)}
}

// next reads up to the end of a frame. An error is that of the connection,
// io.ErrUnexpectedEOF for half a frame, or wraps errBadFrame.
func (j *joiner) next() (frame, error) {
	for {
		h, err := peekHeader(j.r, j.max)
		if err != nil {
			return frame{}, err
		}
		var f frame
		whole := true
		switch h.kind {
		case kindBegin, kindMore:
			f, whole, err = j.piece(h)
		default:
			f, err = readRest(j.r, h, j.max)
		}
		switch {
		case err != nil:
			return frame{}, unexpected(err)
		case f.kind == kindDrop:
			if err := j.drop(f); err != nil {
				return frame{}, err
			}
		case whole:
			return f, nil
		}
	}
}

// drop forgets what came of a frame.
func (j *joiner) drop(f frame) error {
	p := j.open[f.id]
	if p == nil || len(f.payload) > 0 {
		return fmt.Errorf("%w: frame %d is dropped, which was not begun", errBadFrame, f.id)
	}
	j.end(p)
	return nil
}

func (j *joiner) end(p *partial) {
	delete(j.open, p.id)
	j.total -= p.size
}

// piece takes in a piece; whole: it was the last one of f.
func (j *joiner) piece(h header) (f frame, whole bool, err error) {
	head, err := j.r.Peek(frameHeader + min(h.size, maxHead))
	if err != nil {
		return frame{}, false, err
	}
	head = head[frameHeader:]
	f, err = decodeBody(head)
	if err != nil {
		return frame{}, false, err
	}
	var p *partial
	if f.kind == kindBegin {
		p, err = j.begin(&f)
	} else if p = j.open[f.id]; p == nil {
		err = fmt.Errorf("%w: a piece of frame %d, which was not begun", errBadFrame, f.id)
	}
	if err != nil {
		return frame{}, false, err
	}
	used := len(head) - len(f.payload)
	n := h.size - used
	if n < 1 || n > p.size-len(p.payload) {
		return frame{}, false, fmt.Errorf("%w: a piece of %d bytes of frame %d, of which %d of %d have come", errBadFrame, n, f.id, len(p.payload), p.size)
	}
	sum := crc32.Checksum(head[:used], castagnoli())
	_, _ = j.r.Discard(frameHeader + used) // they are there
	if err := p.read(j.r, n, sum, h.sum); err != nil {
		return frame{}, false, err
	}
	if len(p.payload) < p.size {
		return frame{}, false, nil
	}
	j.end(p)
	p.spend(j.now())
	return p.frame, true, nil
}

// begin takes in what a first piece says, and leaves what follows in f.payload.
func (j *joiner) begin(f *frame) (*partial, error) {
	size, n := uint64(0), 0
	if len(f.payload) > 1 {
		size, n = binary.Uvarint(f.payload[1:])
	}
	switch {
	case n <= 0:
		return nil, fmt.Errorf("%w: the first piece of frame %d is cut short", errBadFrame, f.id)
	case !j.takes(kind(f.payload[0])):
		return nil, fmt.Errorf("%w: kind %d has no place in pieces in this direction", errBadFrame, f.payload[0])
	case size == 0 || size > uint64(j.max):
		return nil, fmt.Errorf("%w: payload of %d bytes in pieces, want 1 to %d", errBadFrame, size, j.max)
	case j.open[f.id] != nil:
		return nil, fmt.Errorf("%w: frame %d begins twice", errBadFrame, f.id)
	case len(j.open) == maxOpen || j.total+int(size) > 2*j.max:
		return nil, fmt.Errorf("%w: %d frames of %d bytes have come in part, and one of %d begins", errBadFrame, len(j.open), j.total, size)
	}
	p := &partial{frame: *f, size: int(size), came: j.now()}
	p.kind, p.payload = kind(f.payload[0]), nil
	f.payload = f.payload[1+n:]
	j.open[f.id] = p
	j.total += p.size
	return p, nil
}

// read reads n bytes more, with which the checksum sum becomes want.
func (p *partial) read(r io.Reader, n int, sum, want uint32) error {
	if p.payload == nil {
		p.payload = make([]byte, 0, min(p.size, 4*n, readStep))
	}
	for n > 0 {
		if len(p.payload) == cap(p.payload) {
			grown := make([]byte, len(p.payload), min(p.size, 2*cap(p.payload)))
			copy(grown, p.payload)
			p.payload = grown
		}
		have := len(p.payload)
		step := p.payload[have:min(cap(p.payload), have+n)]
		if _, err := io.ReadFull(r, step); err != nil {
			return err
		}
		sum = crc32.Update(sum, castagnoli(), step)
		p.payload = p.payload[:have+len(step)]
		n -= len(step)
	}
	if sum != want {
		return fmt.Errorf("%w: checksum %08x, want %08x", errBadFrame, sum, want)
	}
	return nil
}

// spend takes from a call's timeout what it was on its way since its first piece.
func (p *partial) spend(now int64) {
	waited := uint64(max(0, now-p.came) / int64(time.Millisecond))
	p.timeout -= min(p.timeout, waited)
}

// unexpected is err, in the middle of a frame.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
