package node

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/node/transport"
	"fulcrum/replication"
)

// The channels of the peer port.
const (
	chCatalog transport.Channel = 1 // messages of the catalog's Raft group
	chGroup   transport.Channel = 2 // messages between replicas of a shard
	chData    transport.Channel = 3 // requests that a coordinator forwards to a replica
	chAdmin   transport.Channel = 4 // leases, proposals, steps of a switch, status
	chPing    transport.Channel = 5 // are you there?
)

// catalogPeers carries messages of the catalog's group.
type catalogPeers struct{ n *Node }

func (p catalogPeers) Call(ctx context.Context, to fulcrum.NodeID, msg []byte) ([]byte, error) {
	if !p.n.admitted() {
		return nil, errNotAdmitted
	}
	return p.n.peers.Call(ctx, to, chCatalog, msg)
}

// Go implements replication.AsyncPeers.
func (p catalogPeers) Go(to fulcrum.NodeID, msg []byte, timeout time.Duration, done func([]byte, error)) {
	if !p.n.admitted() {
		done(nil, errNotAdmitted)
		return
	}
	p.n.peers.Go(to, chCatalog, msg, timeout, done)
}

func (n *Node) handleCatalogAsync(from fulcrum.NodeID, msg []byte, _ time.Time, answer func([]byte, error)) bool {
	if !n.admitted() {
		answer(nil, errNotAdmitted)
		return true
	}
	return n.catalog.HandleAsync(from, msg, answer)
}

func (n *Node) handleCatalog(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	if !n.admitted() {
		return nil, errNotAdmitted
	}
	return n.catalog.Handle(ctx, from, msg)
}

// groupPeers carries messages of one group in one epoch. They begin with both, and
// only a replica of the same epoch takes them: one writer protocol per shard and
// epoch.
type groupPeers struct {
	n     *Node
	group fulcrum.GroupID
	epoch fulcrum.Epoch
}

func (p groupPeers) Call(ctx context.Context, to fulcrum.NodeID, msg []byte) ([]byte, error) {
	b := wraps.Get().(*wrapped)
	defer b.giveBack()
	return p.n.peers.Call(ctx, to, chGroup, b.wrap(p, msg))
}

// Go implements replication.AsyncPeers.
func (p groupPeers) Go(to fulcrum.NodeID, msg []byte, timeout time.Duration, done func([]byte, error)) {
	b := wraps.Get().(*wrapped)
	defer b.giveBack()
	p.n.peers.Go(to, chGroup, b.wrap(p, msg), timeout, done)
}

// wrapped is memory for one message with its group and epoch, used again and again: the
// transport copies what it sends before it returns.
type wrapped struct{ b []byte }

// keptWrap is how large it may be to be used again.
const keptWrap = 2 << 20

var wraps = sync.Pool{New: func() any { return new(wrapped) }}

func (w *wrapped) wrap(p groupPeers, msg []byte) []byte {
	w.b = append(appendShard(slices.Grow(w.b[:0], shardRoom+len(msg)), p.group, p.epoch), msg...)
	return w.b
}

func (w *wrapped) giveBack() {
	if cap(w.b) <= keptWrap {
		wraps.Put(w)
	}
}

// shardRoom is more than appendShard appends.
const shardRoom = 2 * binary.MaxVarintLen64

func appendShard(b []byte, g fulcrum.GroupID, e fulcrum.Epoch) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(g)), uint64(e))
}

func readShard(r *fulcrum.Reader) (fulcrum.GroupID, fulcrum.Epoch) {
	return fulcrum.GroupID(r.Uvarint()), fulcrum.Epoch(r.Uvarint())
}

// handleGroupAsync takes what a group can answer without waiting.
func (n *Node) handleGroupAsync(from fulcrum.NodeID, msg []byte, _ time.Time, answer func([]byte, error)) bool {
	r := fulcrum.NewReader(msg)
	g, e := readShard(r)
	h, err := n.host.at(g, e)
	if err != nil {
		return false // handleGroup finds out why
	}
	async, ok := h.group.(replication.AsyncGroup)
	return ok && async.HandleAsync(from, r.Rest(), answer)
}

func (n *Node) handleGroup(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	r := fulcrum.NewReader(msg)
	g, e := readShard(r)
	h, err := n.host.at(g, e)
	if err != nil {
		return nil, err
	}
	return h.handle(ctx, n, from, r.Rest())
}

// The kinds of forwarded requests.
const (
	dataWrite byte = iota + 1
	dataRead
	dataScan
	dataChanges
)

// handleData answers a request that another node's coordinator brings here.
func (n *Node) handleData(ctx context.Context, _ fulcrum.NodeID, msg []byte) ([]byte, error) {
	r := fulcrum.NewReader(msg)
	kind := r.Byte()
	g, e := readShard(r)
	if r.Err() != nil {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "forwarded request: %w", r.Err())
	}
	h, err := n.host.at(g, e)
	if err != nil {
		return nil, err
	}
	switch kind {
	case dataWrite:
		req, err := replication.ReadWriteRequest(r)
		if err != nil {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "forwarded write: %w", err)
		}
		rep, err := h.write(ctx, n, req)
		return writeAnswer(rep, err), nil
	case dataRead:
		req, err := replication.ReadReadRequest(r)
		if err != nil {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "forwarded read: %w", err)
		}
		rep, err := h.read(ctx, n, req)
		if err != nil {
			return nil, err
		}
		return readAnswer(replication.AppendReadReply(nil, rep))
	case dataScan:
		req, err := replication.ReadScanRequest(r)
		if err != nil {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "forwarded scan: %w", err)
		}
		rep, err := h.scan(ctx, n, req)
		if err != nil {
			return nil, err
		}
		return readAnswer(replication.AppendScanReply(nil, rep))
	case dataChanges:
		req, err := replication.ReadChangesRequest(r)
		if err != nil {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "forwarded watch: %w", err)
		}
		rep, err := h.changes(ctx, n, req)
		if err != nil {
			return nil, err
		}
		return readAnswer(replication.AppendChangesReply(nil, rep))
	}
	return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "forwarded request of unknown kind %d", kind)
}

// readAnswer refuses what no message holds: unlike a change, a read is then not done.
func readAnswer(b []byte) ([]byte, error) {
	if len(b) > fulcrum.MaxMessageBytes {
		return nil, fulcrum.Errorf(fulcrum.CodeTooLarge, "answer of %d bytes, the limit is %d", len(b), fulcrum.MaxMessageBytes).WithHint("ask for less at a time")
	}
	return b, nil
}

// writeAnswer carries a reply together with its error: a write that a fence cut
// off says which versions it had stamped, so that it can be retried as a merge.
func writeAnswer(rep replication.WriteReply, err error) []byte {
	var e []byte
	if err != nil {
		e = fulcrum.AppendError(nil, err)
	}
	return replication.AppendWriteReply(fulcrum.AppendBytes(nil, e), rep)
}

func readWriteAnswer(b []byte) (replication.WriteReply, error) {
	r := fulcrum.NewReader(b)
	e := r.Bytes()
	rep, err := replication.ReadWriteReply(r)
	switch {
	case err != nil:
		return rep, fulcrum.Errorf(fulcrum.CodeUnknown, "answer to a forwarded write: %w", err)
	case e != nil:
		if err = fulcrum.DecodeError(e); errors.Is(err, fulcrum.ErrShort) { // and AsError of that is definite
			err = fulcrum.Errorf(fulcrum.CodeUnknown, "the error of a forwarded write cannot be read: %w", err)
		}
		return rep, err
	}
	return rep, nil
}

// ask sends one admin request and reads its JSON answer.
func ask[T any](ctx context.Context, n *Node, to fulcrum.NodeID, req adminRequest) (T, error) {
	var out T
	body, err := json.Marshal(req)
	if err != nil {
		return out, err
	}
	answer, err := n.peers.Call(ctx, to, chAdmin, body)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return out, fulcrum.Errorf(fulcrum.CodeInternal, "answer of %s to %q: %w", to, req.Do, err)
	}
	return out, nil
}
