package raft

import (
	"bufio"
	"bytes"
	"testing"

	hraft "github.com/hashicorp/raft"

	"fulcrum"
	"fulcrum/replication"
)

type replicationNode = fulcrum.NodeID

func bodyOf(msg []byte) *fulcrum.Reader { return fulcrum.NewReader(msg[1:]) }

// No bytes make a decoder panic, and what it takes it writes the same way again.
func FuzzMessages(f *testing.F) {
	conf := hraft.EncodeConfiguration(hraft.Configuration{Servers: []hraft.Server{server("a", hraft.Voter)}})
	f.Add(encodeAppend(&hraft.AppendEntriesRequest{Term: 3, PrevLogEntry: 4, Entries: []*hraft.Log{{Index: 5, Term: 3, Data: []byte("x")}}}))
	f.Add(encodeAppend(&hraft.AppendEntriesRequest{Term: 3, Entries: []*hraft.Log{{Index: 1, Type: hraft.LogConfiguration, Data: conf}}}))
	f.Add(encodeVote(msgVote, 1, 2, 3, true, release{holder: "a", term: 1, nonce: 7}))
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
		if req, err := decodeAppend("n", bodyOf(b)); err == nil {
			again, err := decodeAppend("n", bodyOf(encodeAppend(req)))
			if err != nil || len(again.Entries) != len(req.Entries) || again.Term != req.Term {
				t.Errorf("append: %v", err)
			}
		}
		if v, off, err := decodeVote("n", bodyOf(b)); err == nil {
			_, again, err := decodeVote("n", bodyOf(encodeVote(msgVote, v.Term, v.LastLogIndex, v.LastLogTerm, v.LeadershipTransfer, off)))
			if err != nil || again != off {
				t.Errorf("vote: %v, release %+v became %+v", err, off, again)
			}
		}
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
