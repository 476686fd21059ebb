package transport

import (
	"encoding/binary"
	"hash/crc32"
	"sync"
	"time"
)

// smallFrame is the largest payload of a small frame: it goes whole, with all others that
// are small, and before what is large.
const smallFrame = 4 << 10

// mediumFrame is the largest payload of a frame that goes as a small one where the link
// takes it at once, with all that is queued: that is cheaper.
const mediumFrame = 32 << 10

// large is a frame that is not small. It waits in a lane, from which it goes whole or in
// pieces, as the link allows.
//
// Its memory holds the payload, and room before it for one head. The head of a later piece
// is written over the end of the piece before, which has been sent: so a piece and its head
// go in one write, and however many pieces there are, the payload is copied once.
type large struct {
	kind    kind
	id      uint64
	channel Channel
	expires int64 // Transport.now from which on nobody wants it; 0: never
	mem     []byte
	sent    int  // how much of the payload was handed to Write, or is in the turn under way
	busy    bool // in the turn under way, which reads mem
	dropped bool // not in its lane any more, before all of it was sent

	lane       int
	prev, next *large // in its lane
}

// headRoom is what the head of a piece takes at the most.
const headRoom = frameHeader + maxHead

// lendBuffer is the largest payload whose memory is used again.
const lendBuffer = 4 << 20

// larges are large frames that were sent, by lane, so that they fit what comes next.
var larges [laneCount]sync.Pool

// newLarge copies f, whose payload is at most maxPayload bytes.
func newLarge(f *frame, expires int64, maxPayload int) *large {
	lane := laneOf(len(f.payload), maxPayload)
	l, _ := larges[lane].Get().(*large)
	if l == nil {
		l = new(large)
	}
	mem := l.mem
	if need := headRoom + len(f.payload); cap(mem) < need {
		mem = make([]byte, need, need+need/8)
	} else {
		mem = mem[:need]
	}
	copy(mem[headRoom:], f.payload)
	*l = large{kind: f.kind, id: f.id, channel: f.channel, expires: expires, mem: mem, lane: lane}
	return l
}

// recycle keeps the memory of l, which nobody may know any more, for another one. l may be nil.
func (l *large) recycle() {
	if l != nil && l.size() <= lendBuffer {
		larges[l.lane].Put(l)
	}
}

func (l *large) size() int { return len(l.mem) - headRoom }
func (l *large) rest() int { return l.size() - l.sent }

// encode returns the frame that takes n bytes of the payload, from byte from, in memory of
// l. What stands before them must have been sent.
func (l *large) encode(from, n int, now int64) []byte {
	var room [headRoom]byte
	head := room[:frameHeader]
	switch {
	case from > 0:
		head = append(head, byte(kindMore))
		head = binary.AppendUvarint(head, l.id)
		head = append(head, 0, 0)
	case n == l.size():
		head = l.appendHead(head, l.kind, now)
	default:
		head = l.appendHead(head, kindBegin, now)
		head = append(head, byte(l.kind))
		head = binary.AppendUvarint(head, uint64(l.size()))
	}
	b := l.mem[headRoom+from-len(head) : headRoom+from+n]
	copy(b, head)
	body := b[frameHeader:]
	binary.BigEndian.PutUint32(b, uint32(len(body)))
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(body, castagnoli()))
	return b
}

// appendHead appends what stands before the payload of a whole frame, or before what a
// first piece announces.
func (l *large) appendHead(b []byte, k kind, now int64) []byte {
	b = append(b, byte(k))
	b = binary.AppendUvarint(b, l.id)
	b = append(b, byte(l.channel))
	timeout := uint64(0)
	if l.kind == kindCall {
		timeout = millis(time.Duration(max(0, l.expires-now)))
	}
	return binary.AppendUvarint(b, timeout)
}

// millis is d in whole milliseconds, or a little more.
func millis(d time.Duration) uint64 { return uint64((d + time.Millisecond - 1) / time.Millisecond) }

// laneCount is how many lanes a connection has: each for frames of up to a quarter of the
// size of those in the lane before.
const laneCount = 6

// laneOf is the lane for a payload of size bytes, of at most maxPayload.
func laneOf(size, maxPayload int) int {
	lane := 0
	for limit := maxPayload / 4; lane < laneCount-1 && size <= limit; limit /= 4 {
		lane++
	}
	return lane
}

// lanes are the large frames that wait to be sent. The first of a lane goes until all of it
// is sent; the lanes take turns.
//
// So at most laneCount frames are open at a time, of at most 4/3 of the largest size
// together, which bounds the memory of who receives them. Frames of about the same size do
// not share the link: where it carries less than is asked of it, some arrive in time, and
// not all of them too late.
type lanes struct {
	first, last [laneCount]*large
	turn        int
}

func (q *lanes) push(l *large) {
	l.prev = q.last[l.lane]
	if l.prev == nil {
		q.first[l.lane] = l
	} else {
		l.prev.next = l
	}
	q.last[l.lane] = l
}

func (q *lanes) remove(l *large) {
	if l.prev == nil {
		q.first[l.lane] = l.next
	} else {
		l.prev.next = l.next
	}
	if l.next == nil {
		q.last[l.lane] = l.prev
	} else {
		l.next.prev = l.prev
	}
	l.prev, l.next = nil, nil
}

// head is the frame whose turn it is, nil if none waits.
func (q *lanes) head() *large {
	for range laneCount {
		if l := q.first[q.turn]; l != nil {
			return l
		}
		q.pass()
	}
	return nil
}

// pass ends the turn of a lane.
func (q *lanes) pass() { q.turn = (q.turn + 1) % laneCount }
