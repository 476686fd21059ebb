package raft

import (
	"bufio"
	"bytes"
	"reflect"
	"testing"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
)

type replicationNode = fulcrum.NodeID

func bodyOf(msg []byte) *fulcrum.Reader { return fulcrum.NewReader(msg[1:]) }

// No bytes make a decoder panic, and what it takes it writes the same way again.
func FuzzMessages(f *testing.F) {
	conf := virtualSnapshot([]fulcrum.NodeID{"a"}).Config.Append(nil)
	f.Add(encodeAppend(nil, &protocol.Append{Term: 3, Prev: 4, Entries: []protocol.Entry{{Index: 5, Term: 3, Data: []byte("x")}}}))
	f.Add(encodeAppend(nil, &protocol.Append{Term: 3, Entries: []protocol.Entry{{Index: 1, Kind: protocol.Members, Data: conf}}}))
	f.Add(encodeBeat(protocol.Heartbeat{Term: 3, Commit: 2, CommitTerm: 1}))
	f.Add(encodeGreeting(protocol.Heartbeat{Term: 3, Commit: 2, CommitTerm: 1}, true))
	f.Add(part{term: 3, transfer: 9, offset: 4, size: 12, data: []byte("abc")}.encode())
	f.Add(encodeVote(protocol.Vote{Term: 1, Last: 2, LastTerm: 3, Transfer: true}, release{holder: "a", term: 1, nonce: 7}))
	f.Add(chunk{transfer: 9, data: []byte("abc"), last: true, meta: virtualSnapshot([]fulcrum.NodeID{"a"})}.encode())
	f.Add(entry{kind: entryBatch, items: [][]byte{[]byte("x")}}.encode())
	txn := replication.WriteRequest{ID: "id", If: []fulcrum.Compare{{Key: []byte("k")}}, Writes: []fulcrum.Write{{Op: fulcrum.OpGet, Key: []byte("k")}},
		Else: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("v")}}}
	f.Add(encodeRequest(txn))
	f.Add(encodeOutcome(txn, elseRan{{Applied: true, Entry: fulcrum.Entry{Key: []byte("k"), Version: fulcrum.Version{Time: 9}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		if m, err := decodeAppend(bodyOf(b)); err == nil {
			again, err := decodeAppend(bodyOf(encodeAppend(nil, &m)))
			if err != nil || !reflect.DeepEqual(again, m) {
				t.Errorf("append %+v became %+v, %v", m, again, err)
			}
		}
		if m, err := decodeBeat(bodyOf(b)); err == nil {
			if again, err := decodeBeat(bodyOf(encodeBeat(m))); err != nil || again != m {
				t.Errorf("heartbeat %+v became %+v, %v", m, again, err)
			}
		}
		if m, leads, err := decodeGreeting(b); err == nil {
			if again, still, err := decodeGreeting(encodeGreeting(m, leads)); err != nil || again != m || still != leads {
				t.Errorf("greeting %+v, %v became %+v, %v, %v", m, leads, again, still, err)
			}
		}
		if p, err := decodePart(bodyOf(b)); err == nil {
			if again, err := decodePart(bodyOf(p.encode())); err != nil || !reflect.DeepEqual(again, p) {
				t.Errorf("part %+v became %+v, %v", p, again, err)
			}
		}
		if v, off, err := decodeVote(bodyOf(b), false); err == nil {
			w, again, err := decodeVote(bodyOf(encodeVote(v, off)), false)
			if err != nil || again != off || w != v {
				t.Errorf("vote %+v, %+v became %+v, %+v, %v", v, off, w, again, err)
			}
		}
		_, _, _ = decodeReply(b)
		_, _ = decodeVoteReply(b)
		if q, err := decodeQuestion(bodyOf(b)); err == nil {
			if again, err := decodeQuestion(bodyOf(q.encode())); err != nil || again != q {
				t.Errorf("question %+v became %+v, %v", q, again, err)
			}
		}
		if a, err := decodeReadIndex(bodyOf(b)); err == nil {
			if again, err := decodeReadIndex(bodyOf(a.encode())); err != nil || again != a {
				t.Errorf("answer %+v became %+v, %v", a, again, err)
			}
		}
		if c, err := decodeChunk(bodyOf(b)); err == nil {
			if _, err := decodeChunk(bodyOf(c.encode())); err != nil {
				t.Errorf("chunk: %v", err)
			}
		}
		_, _ = decodeEntry(b)
		if req, err := decodeRequest(b); err == nil {
			if again, err := decodeRequest(encodeRequest(req)); err != nil || sumOf(again) != sumOf(req) {
				t.Errorf("request: %v", err)
			}
			_, _ = decodeOutcome(req, b)
		}
		_, _ = decodeIDs(b)
		_ = (&idSegment{data: b}).each(func(int, idRecord) {})
		_, _, _ = splitSnapshot(b)
		_, _ = decodeProgress(b, 1)
		_, _ = openReply(b)
		br := bufio.NewReader(bytes.NewReader(b))
		if _, err := readStreamHead(br); err == nil {
			if _, err := receiveIDs(br, 1, map[string][]byte{}); err != nil {
				return
			}
			_ = readEntries(br, func(fulcrum.Entry) error { return nil })
		}
	})
}
