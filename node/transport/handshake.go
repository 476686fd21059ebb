package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"fulcrum"
)

// The handshake is one hello each way, the dialer's first:
//
//	magic    4 bytes
//	version  1 byte
//	length   2 bytes, big endian: how many bytes follow
//	cluster, from, to, refusal: fulcrum.AppendBytes
//
// refusal is empty in the dialer's, and in the answer of who agrees. What stands
// before cluster never changes, so any two versions can refuse each other clearly.
type hello struct {
	version byte
	cluster string
	from    fulcrum.NodeID
	to      fulcrum.NodeID
	refusal string
}

const (
	magic           = "FLCp"
	protocolVersion = 5
	helloHeader     = len(magic) + 1 + 2
	maxHello        = 2048
	maxName         = 64 // of a node, in bytes
)

// ErrRefused says that a peer, or this node, refused a connection: another cluster,
// another node than the one dialed, another protocol version. Nothing was sent on it.
var ErrRefused = errors.New("handshake refused")

func appendHello(b []byte, h hello) []byte {
	b = append(b, magic...)
	b = append(b, h.version, 0, 0)
	start := len(b)
	for _, s := range []string{h.cluster, string(h.from), string(h.to), h.refusal} {
		b = fulcrum.AppendBytes(b, []byte(s))
	}
	binary.BigEndian.PutUint16(b[start-2:], uint16(len(b)-start))
	return b
}

// readHello reads exactly one hello. Errors wrap ErrRefused where bytes make no sense.
func readHello(r io.Reader) (hello, error) {
	var header [helloHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return hello{}, err
	}
	if string(header[:len(magic)]) != magic {
		return hello{}, fmt.Errorf("%w: the other end does not speak fulcrum's peer protocol (it began with %q)", ErrRefused, header[:len(magic)])
	}
	size := int(binary.BigEndian.Uint16(header[len(magic)+1:]))
	if size > maxHello {
		return hello{}, fmt.Errorf("%w: hello of %d bytes, want at most %d", ErrRefused, size, maxHello)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return hello{}, err
	}
	h := hello{version: header[len(magic)]}
	if h.version != protocolVersion {
		return h, nil // the fields may differ
	}
	fields := fulcrum.NewReader(body)
	h.cluster = fields.String()
	h.from = fulcrum.NodeID(fields.String())
	h.to = fulcrum.NodeID(fields.String())
	h.refusal = fields.String()
	if fields.Err() != nil || len(h.from) > maxName || len(h.to) > maxName {
		return hello{}, fmt.Errorf("%w: malformed hello", ErrRefused)
	}
	return h, nil
}

// greet does the dialer's half on a fresh connection to peer to.
func (t *Transport) greet(c net.Conn, to fulcrum.NodeID) error {
	return t.within(c, func() error {
		mine := hello{version: protocolVersion, cluster: t.o.ClusterID, from: t.o.Node, to: to}
		if _, err := c.Write(appendHello(nil, mine)); err != nil {
			return err
		}
		theirs, err := readHello(c)
		if err != nil {
			return err
		}
		if reason := t.objection(theirs, to); reason != "" {
			return fmt.Errorf("%w: %s", ErrRefused, reason)
		}
		return nil
	})
}

// welcome does the listener's half and returns who dialed.
func (t *Transport) welcome(c net.Conn) (fulcrum.NodeID, error) {
	var from fulcrum.NodeID
	err := t.within(c, func() error {
		theirs, err := readHello(c)
		if err != nil {
			return err
		}
		// From here on an injected fault on this link is obeyed.
		if p, ok := c.(interface{ SetPeer(fulcrum.NodeID) }); ok {
			p.SetPeer(theirs.from)
		}
		mine := hello{version: protocolVersion, cluster: t.o.ClusterID, from: t.o.Node, to: theirs.from}
		mine.refusal = t.objection(theirs, theirs.from)
		if theirs.from == t.o.Node && mine.refusal == "" {
			mine.refusal = fmt.Sprintf("this node is called %s too: two nodes have the same name", t.o.Node)
		}
		if _, err := c.Write(appendHello(nil, mine)); err != nil {
			return err
		}
		if mine.refusal != "" {
			return fmt.Errorf("%w: %s", ErrRefused, mine.refusal)
		}
		from = theirs.from
		return nil
	})
	return from, err
}

// objection returns why h, from the other end of a connection to peer, is not
// acceptable; empty if it is.
func (t *Transport) objection(h hello, peer fulcrum.NodeID) string {
	switch {
	case h.version != protocolVersion:
		return fmt.Sprintf("it speaks version %d of the peer protocol, this node version %d", h.version, protocolVersion)
	case h.refusal != "":
		return fmt.Sprintf("%s says: %s", name(h.from), strings.ToValidUTF8(h.refusal, "?"))
	case h.cluster != t.o.ClusterID:
		return fmt.Sprintf("%s belongs to cluster %q, %s to cluster %q", name(h.from), h.cluster, t.o.Node, t.o.ClusterID)
	case h.from == "":
		return "it does not say which node it is"
	case h.from != peer:
		return fmt.Sprintf("%s answered at the address of %s", name(h.from), peer)
	case h.to != t.o.Node:
		return fmt.Sprintf("it wants to talk to %s, but this is %s", name(h.to), t.o.Node)
	}
	return ""
}

// name makes a name from the network fit for a log.
func name(id fulcrum.NodeID) string {
	for _, r := range string(id) {
		if r <= ' ' || r > '~' {
			return fmt.Sprintf("%q", string(id))
		}
	}
	return string(id)
}

// within runs f under the handshake's deadline.
func (t *Transport) within(c net.Conn, f func() error) error {
	if err := c.SetDeadline(time.Now().Add(t.o.HandshakeTimeout)); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}
