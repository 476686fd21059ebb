package membership

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"fulcrum"
)

// Every packet and every stream begins with a preamble that names its sender, so
// that the receiver can apply the faults of that link:
//
//	byte 0      preambleMagic
//	byte 1      length of the name, 1 to 64
//	then        the name
//
// The name is a claim, good enough for injecting faults. What keeps other
// clusters out is memberlist's label, which comes next.
const (
	preambleMagic = 0xF1 // no message type of memberlist, so its plain packets are refused
	maxNameBytes  = 64
)

var errPreamble = errors.New("not a gossip preamble of this version")

// appendPreamble appends the preamble of sender. Its name must be valid.
func appendPreamble(b []byte, sender fulcrum.NodeID) []byte {
	b = append(b, preambleMagic, byte(len(sender)))
	return append(b, sender...)
}

// cutPreamble splits a packet into its sender and the rest.
func cutPreamble(b []byte) (fulcrum.NodeID, []byte, error) {
	if len(b) < 2 || b[0] != preambleMagic || len(b) < 2+int(b[1]) {
		return "", nil, errPreamble
	}
	name, rest := b[2:2+int(b[1])], b[2+int(b[1]):]
	if !validName(string(name)) {
		return "", nil, errPreamble
	}
	return fulcrum.NodeID(name), rest, nil
}

// readPreamble reads the preamble off a stream, and nothing after it.
func readPreamble(r io.Reader) (fulcrum.NodeID, error) {
	head := make([]byte, 2, 2+maxNameBytes)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", err
	}
	if head[0] != preambleMagic || head[1] == 0 || head[1] > maxNameBytes {
		return "", errPreamble
	}
	all := head[:2+int(head[1])]
	if _, err := io.ReadFull(r, all[2:]); err != nil {
		return "", err
	}
	name, _, err := cutPreamble(all)
	return name, err
}

// validName reports whether s can be a NodeID.
func validName(s string) bool {
	if len(s) < 1 || len(s) > maxNameBytes {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// profile is what a member gossips of itself, in memberlist's metadata: its
// address as given (memberlist only knows IPs, and a name must be looked up anew
// after it moved), and the node's own metadata.
type profile struct {
	addr string
	meta []byte
}

const profileVersion = 1

func appendProfile(b []byte, p profile) []byte {
	b = append(b, profileVersion)
	b = fulcrum.AppendBytes(b, []byte(p.addr))
	return append(b, p.meta...)
}

// decodeProfile reads what appendProfile wrote, into memory of its own.
func decodeProfile(b []byte) (profile, error) {
	r := fulcrum.NewReader(b)
	version, addr := r.Byte(), r.String()
	switch {
	case r.Err() != nil:
		return profile{}, r.Err()
	case version != profileVersion:
		return profile{}, fmt.Errorf("member profile of version %d, want %d", version, profileVersion)
	case !validAddr(addr):
		return profile{}, fmt.Errorf("member advertises %q, want HOST:PORT", addr)
	}
	return profile{addr: addr, meta: slices.Clone(r.Rest())}, nil
}

// goodbye is the user message of a member that leaves. memberlist tells "left"
// from "dead" among its members, but not to its callbacks.
const goodbye = "bye "

// cutGoodbye returns who says goodbye in a user message.
func cutGoodbye(b []byte) (fulcrum.NodeID, bool) {
	name, ok := strings.CutPrefix(string(b[:min(len(b), len(goodbye)+maxNameBytes+1)]), goodbye)
	return fulcrum.NodeID(name), ok && validName(name)
}
