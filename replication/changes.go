package replication

import (
	"context"
	"encoding/binary"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// Watcher is a Group that can tell its changes in the order in which they were made.
type Watcher interface {
	// Changes returns what changed behind req.After, in order, whole requests at a time
	// and at most about req.Limit bytes; with nothing to tell it waits for something,
	// for req.Wait or until ctx ends, and then returns no events. The zero After means:
	// behind everything that was acknowledged before the call; it comes back at once.
	// Changes that are no longer kept are CodeCompacted. Every replica can answer for any
	// After, whoever gave it out; one that is behind waits, and one that follows no leader
	// says CodeNotLeader.
	Changes(ctx context.Context, req ChangesRequest) (ChangesReply, error)
}

// ChangesRequest asks for changes to keys with Start <= key < End (nil: no end).
//
// With Since, they are those from the first one newer than that version on, and After,
// if not zero, is a position that the replica must have reached before it answers. A version
// of the future, newer than all that the shard has made, is CodeInvalid.
// Versions rise along a shard's log, but for a late write that a switch of mode handed
// over (OpMerge): it carries the version that it had, and is told at its place in the log.
type ChangesRequest struct {
	After      consistency.Mark
	Since      fulcrum.Version
	Start, End []byte
	Limit      int           // 0: 1 MiB
	Wait       time.Duration // 0: answer at once
}

// ChangesReply holds changes in order; Next is the After that misses nothing and repeats
// nothing, and so says that nothing else happened up to there.
//
// Clock is the reading of the clock, in Unix milliseconds, that the events' expiries are on, as
// in an Outcome.
type ChangesReply struct {
	Events []fulcrum.Event
	Next   consistency.Mark
	Clock  int64
}

func appendMark(b []byte, m consistency.Mark) []byte {
	b = binary.AppendUvarint(b, uint64(m.Epoch))
	return binary.AppendUvarint(binary.AppendUvarint(b, m.Term), m.Index)
}

func readMark(r *fulcrum.Reader) consistency.Mark {
	return consistency.Mark{Epoch: fulcrum.Epoch(r.Uvarint()), Term: r.Uvarint(), Index: r.Uvarint()}
}

// AppendChangesRequest appends req.
func AppendChangesRequest(b []byte, req ChangesRequest) []byte {
	b = appendMark(b, req.After)
	b = binary.AppendUvarint(binary.AppendUvarint(b, req.Since.Time), uint64(req.Since.Actor))
	b = fulcrum.AppendBytes(fulcrum.AppendBytes(b, req.Start), req.End)
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(req.Limit)), uint64(req.Wait/time.Millisecond))
}

// ReadChangesRequest reads what AppendChangesRequest wrote, Wait to the millisecond.
func ReadChangesRequest(r *fulcrum.Reader) (req ChangesRequest, err error) {
	req.After = readMark(r)
	req.Since = fulcrum.Version{Time: r.Uvarint(), Actor: uint32(r.Uvarint())}
	req.Start, req.End = r.Bytes(), r.Bytes()
	req.Limit = int(min(r.Uvarint(), fulcrum.MaxMessageBytes))
	req.Wait = time.Duration(min(r.Uvarint(), uint64(time.Hour/time.Millisecond))) * time.Millisecond
	return req, r.Err()
}

// AppendChangesReply appends rep.
func AppendChangesReply(b []byte, rep ChangesReply) []byte {
	b = binary.AppendUvarint(appendMark(b, rep.Next), uint64(len(rep.Events)))
	for _, e := range rep.Events {
		b = appendEntryField(appendBool(b, e.Expired), e.Entry)
	}
	return binary.AppendVarint(b, rep.Clock)
}

// ReadChangesReply reads what AppendChangesReply wrote.
func ReadChangesReply(r *fulcrum.Reader) (rep ChangesReply, err error) {
	rep.Next = readMark(r)
	n, err := count(r)
	if err != nil {
		return rep, err
	}
	rep.Events = make([]fulcrum.Event, n)
	for i := range rep.Events {
		rep.Events[i].Expired = r.Byte() == 1
		if rep.Events[i].Entry, err = readEntryField(r); err != nil {
			return rep, err
		}
	}
	rep.Clock = r.Varint()
	return rep, r.Err()
}
