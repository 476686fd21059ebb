package leaderfollower

import (
	"bytes"
	"encoding/binary"

	"fulcrum"
)

const (
	msgAppend = iota + 1
	msgChunk
)

// appendMsg carries records, or none: then it is a heartbeat.
type appendMsg struct {
	term                uint64
	prevIndex, prevTerm uint64
	commit              uint64
	last                uint64 // of the leader's log when it composed the message
	echo                uint64 // the follower's clock from its last answer; 0: none
	nonce               uint64 // and the life of the follower that it came from
	records             []record
}

func (m appendMsg) encode() []byte {
	b := []byte{msgAppend}
	for _, v := range []uint64{m.term, m.prevIndex, m.prevTerm, m.commit, m.last, m.echo, m.nonce, uint64(len(m.records))} {
		b = binary.AppendUvarint(b, v)
	}
	for _, r := range m.records {
		b = fulcrum.AppendBytes(b, r.raw)
	}
	return b
}

// decodeAppend reads what encode wrote, behind the kind byte. The records own
// their bytes: a State keeps them.
func decodeAppend(r *fulcrum.Reader) (appendMsg, error) {
	m := appendMsg{term: r.Uvarint(), prevIndex: r.Uvarint(), prevTerm: r.Uvarint(), commit: r.Uvarint(),
		last: r.Uvarint(), echo: r.Uvarint(), nonce: r.Uvarint()}
	for n := r.Uvarint(); n > 0 && r.Err() == nil; n-- {
		raw := r.Bytes()
		if r.Err() != nil {
			break
		}
		rec, err := decodeRecord(bytes.Clone(raw))
		if err != nil {
			return m, err
		}
		if rec.term > m.term {
			return m, fulcrum.ErrShort
		}
		m.records = append(m.records, rec)
	}
	return m, r.Err()
}

// chunkMsg is a part of a snapshot: the State as it stood at index.
type chunkMsg struct {
	term    uint64
	id, seq uint64
	index   uint64
	note    stateNote
	final   bool
	entries []fulcrum.Entry
}

func (m chunkMsg) encode() []byte {
	b := []byte{msgChunk}
	for _, v := range []uint64{m.term, m.id, m.seq, m.index} {
		b = binary.AppendUvarint(b, v)
	}
	b = fulcrum.AppendBytes(b, m.note.encode())
	var final byte
	if m.final {
		final = 1
	}
	b = append(b, final)
	b = binary.AppendUvarint(b, uint64(len(m.entries)))
	for _, e := range m.entries {
		b = fulcrum.AppendEntry(b, e)
	}
	return b
}

func decodeChunk(r *fulcrum.Reader) (chunkMsg, error) {
	m := chunkMsg{term: r.Uvarint(), id: r.Uvarint(), seq: r.Uvarint(), index: r.Uvarint()}
	note, err := decodeNote(r.Bytes())
	if err != nil {
		return m, err
	}
	m.note = note
	m.final = r.Byte() == 1
	n := r.Uvarint()
	rest := bytes.Clone(r.Rest())
	for ; n > 0 && r.Err() == nil; n-- {
		var e fulcrum.Entry
		if e, rest, err = fulcrum.DecodeEntry(rest); err != nil {
			return m, err
		}
		m.entries = append(m.entries, e)
	}
	return m, r.Err()
}

type verdict uint8

const (
	accepted  verdict = iota + 1
	outOfTerm         // promised a later term
	mismatch          // nothing matches (prevIndex, prevTerm): go back to at
	needState         // has no base yet: send a snapshot
	restart           // this chunk does not follow: begin the snapshot anew
)

// answer is the reply to both kinds of message.
type answer struct {
	verdict  verdict
	promised uint64
	at       uint64 // accepted: matches the leader up to here; mismatch: may match up to here
	clock    uint64 // of the follower, when it answered
	nonce    uint64 // of this life of the follower
}

func (a answer) encode() []byte {
	b := []byte{byte(a.verdict)}
	for _, v := range []uint64{a.promised, a.at, a.clock, a.nonce} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeAnswer(b []byte) (answer, error) {
	r := fulcrum.NewReader(b)
	a := answer{verdict: verdict(r.Byte()), promised: r.Uvarint(), at: r.Uvarint(), clock: r.Uvarint(), nonce: r.Uvarint()}
	if a.verdict < accepted || a.verdict > restart {
		return a, fulcrum.ErrShort
	}
	return a, r.Err()
}

// noteKey is where a State keeps the stateNote of its applied position.
const noteKey = "leaderfollower"

// stateNote goes into the State with every Apply: what a replica must know about
// the applied position once the log below it is gone.
type stateNote struct {
	epoch     fulcrum.Epoch
	term      uint64          // of the record at the applied position
	newest    fulcrum.Version // no entry has a newer one
	fenceTerm uint64
	fence     uint64 // index of the applied fence; 0: none
}

func (n stateNote) encode() []byte {
	var b []byte
	for _, v := range []uint64{uint64(n.epoch), n.term, n.newest.Time, uint64(n.newest.Actor), n.fenceTerm, n.fence} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeNote(b []byte) (stateNote, error) {
	r := fulcrum.NewReader(b)
	n := stateNote{epoch: fulcrum.Epoch(r.Uvarint()), term: r.Uvarint()}
	n.newest = fulcrum.Version{Time: r.Uvarint(), Actor: uint32(r.Uvarint())}
	n.fenceTerm, n.fence = r.Uvarint(), r.Uvarint()
	return n, r.Err()
}
