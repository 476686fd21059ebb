package raft

import (
	"bufio"
	"bytes"

	"fulcrum"
	"fulcrum/mutant"
)

// The request ids in the stream of a snapshot: where the table stands, as a field that
// is empty when there is none, then its segments, a field each.

// streamIDs writes where the table stands and returns the segments, which are to follow.
func streamIDs(buf *bytes.Buffer, extra map[string][]byte) ([][]byte, error) {
	head := extra[extraIDs]
	if mutant.On("id-forgotten-by-snapshot") {
		head = nil // mutant: a replica that a snapshot brought up knows no id
	}
	t, err := decodeIDs(head)
	if err != nil {
		return nil, err
	}
	buf.Write(fulcrum.AppendBytes(nil, head))
	segments := make([][]byte, len(t.segments))
	for i := range segments {
		segments[i] = extra[segmentName(t.first+uint64(i))]
	}
	return segments, nil
}

// receiveIDs reads what streamIDs left in a stream, and adds to extra what the State
// must store of it.
func receiveIDs(br *bufio.Reader, e fulcrum.Epoch, extra map[string][]byte) (*idTable, error) {
	head, err := readBytes(br)
	if err != nil {
		return nil, err
	}
	t, err := decodeIDs(head)
	if err != nil {
		return nil, err
	}
	t.epoch = e // of the sender, who is in the same
	err = t.load(func(name string) ([]byte, error) {
		b, err := readBytes(br)
		extra[name] = b
		return bytes.Clone(b), err
	})
	if t.stored {
		extra[extraIDs] = t.encode()
	}
	return t, err
}
