package transport

import (
	"time"

	"fulcrum"
)

// Version is the one that this node speaks.
const Version = protocolVersion

// Hello is a dialer's half of the handshake, for tests that speak it themselves.
func Hello(version byte, cluster string, from, to fulcrum.NodeID) []byte {
	return appendHello(nil, hello{version: version, cluster: cluster, from: from, to: to})
}

// CallFrame is the frame of one call.
func CallFrame(id uint64, ch Channel, millis uint64, payload []byte) []byte {
	return appendFrame(nil, &frame{kind: kindCall, id: id, channel: ch, timeout: millis, payload: payload})
}

// CallPieces is the frame of one call in pieces of that size.
func CallPieces(id uint64, ch Channel, millis uint64, payload []byte, size int) (b []byte) {
	l := newLarge(&frame{kind: kindCall, id: id, channel: ch, payload: payload}, int64(millis)*int64(time.Millisecond), len(payload))
	for from := 0; from < l.size(); from += size {
		b = append(b, l.encode(from, min(size, l.size()-from), 0)...)
	}
	return b
}

// ReplyFrame is the frame of an empty reply.
func ReplyFrame(id uint64) []byte {
	return appendFrame(nil, &frame{kind: kindReply, id: id})
}

// Alarms is the number of connections whose watcher will wake for a call of Go.
func Alarms(t *Transport) (n int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for w := range t.wires {
		w.mu.Lock()
		if w.alarmAt != 0 {
			n++
		}
		w.mu.Unlock()
	}
	return n
}

// Resting is the number of goroutines that wait for calls to answer.
func (t *Transport) Resting() int { return int(t.resting.Load()) }

// RestMost is their bound.
const RestMost = restMost

// What bounds the wait of a small frame.
const (
	MinStep   = minStep
	MaxStep   = maxStep
	MaxUnsent = maxUnsent
	PaceGoal  = paceGoal
)
