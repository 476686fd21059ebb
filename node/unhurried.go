package node

import (
	"context"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/node/transport"
)

// Heartbeats of Raft groups need not hurry: they may wait a moment and travel with
// those that other groups have for the same node, in one frame and one answer. With
// many idle groups a node then wakes up a few times a second, not a few times a second
// a group.
//
// A message that is held back is like one on a slow link: nothing rests on its speed
// but the time after which a follower asks for an election, which is many times longer.
const (
	unhurriedDelay = 100 * time.Millisecond
	unhurriedMost  = 1024                   // messages in one frame
	unhurriedLimit = 200 * time.Millisecond // how long one of them may take over there before the others are answered without it
)

// unhurried collects messages by the node that they are for.
type unhurried struct {
	call func(ctx context.Context, to fulcrum.NodeID, msg []byte) ([]byte, error)

	mu      sync.Mutex
	waiting map[fulcrum.NodeID][]*heldBack
}

// heldBack is one message that waits for company.
type heldBack struct {
	channel transport.Channel
	msg     []byte
	until   time.Time
	done    chan struct{}
	reply   []byte // set before done is closed, as err
	err     error
}

// Call is transport.Transport.Call for a message that may wait.
func (u *unhurried) Call(ctx context.Context, to fulcrum.NodeID, ch transport.Channel, msg []byte) ([]byte, error) {
	until, ok := ctx.Deadline()
	if !ok {
		until = time.Now().Add(fulcrum.DefaultRequestLimit)
	}
	h := &heldBack{channel: ch, msg: msg, until: until, done: make(chan struct{})}
	u.mu.Lock()
	if u.waiting == nil {
		u.waiting = map[fulcrum.NodeID][]*heldBack{}
	}
	if len(u.waiting[to]) >= unhurriedMost {
		u.mu.Unlock()
		return nil, fulcrum.Errorf(fulcrum.CodeOverloaded, "%d heartbeats wait for %s", unhurriedMost, to)
	}
	u.waiting[to] = append(u.waiting[to], h)
	if len(u.waiting[to]) == 1 {
		time.AfterFunc(unhurriedDelay, func() { u.send(to) }) // ends with the calls that wait for it
	}
	u.mu.Unlock()
	select {
	case <-h.done:
		return h.reply, h.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send sends what waits for a node, and hands the answers out.
func (u *unhurried) send(to fulcrum.NodeID) {
	u.mu.Lock()
	batch := u.waiting[to]
	delete(u.waiting, to)
	u.mu.Unlock()
	var msg []byte
	var until time.Time
	for _, h := range batch {
		msg = fulcrum.AppendBytes(append(msg, byte(h.channel)), h.msg)
		if h.until.After(until) {
			until = h.until
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	answer, err := u.call(ctx, to, msg)
	r := fulcrum.NewReader(answer)
	for _, h := range batch {
		if h.err = err; err == nil {
			failed := r.Byte() == 1
			if h.reply = r.Bytes(); failed {
				h.reply, h.err = nil, fulcrum.DecodeError(h.reply)
			}
			if r.Err() != nil {
				h.reply, h.err = nil, fulcrum.Errorf(fulcrum.CodeUnknown, "answer of %s: %w", to, r.Err())
			}
		}
		close(h.done)
	}
}

func (n *Node) handleUnhurried(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	return answerEach(ctx, from, msg, map[transport.Channel]transport.Handler{chCatalog: n.handleCatalog, chGroup: n.handleGroup})
}

// answerEach gives each message of a frame to whom it is for. One that takes long does
// not hold up the answers to the others for more than unhurriedLimit.
func answerEach(ctx context.Context, from fulcrum.NodeID, msg []byte, handlers map[transport.Channel]transport.Handler) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, unhurriedLimit)
	defer cancel()
	r := fulcrum.NewReader(msg)
	var each [][]byte
	var to []transport.Handler
	for len(r.Rest()) > 0 {
		handler := handlers[transport.Channel(r.Byte())]
		one := r.Bytes()
		if handler == nil || r.Err() != nil || len(each) >= unhurriedMost {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "heartbeats of %s: %w", from, fulcrum.ErrShort)
		}
		each, to = append(each, one), append(to, handler)
	}
	type answer struct {
		reply []byte
		err   error
	}
	answers := make([]answer, len(each))
	var all sync.WaitGroup
	for i := range each {
		all.Go(func() { answers[i].reply, answers[i].err = to[i](ctx, from, each[i]) })
	}
	all.Wait() // handlers obey ctx
	var out []byte
	for _, a := range answers {
		if a.err != nil {
			out = fulcrum.AppendBytes(append(out, 1), fulcrum.AppendError(nil, a.err))
		} else {
			out = fulcrum.AppendBytes(append(out, 0), a.reply)
		}
	}
	return out, nil
}
