package consistency

import (
	"fmt"
	"strings"
	"time"
)

// Mode is a replication protocol.
type Mode uint8

// The modes. The zero Mode is the safe one.
const (
	Raft           Mode = iota // CP: a majority orders every write
	Quorum                     // AP: leaderless, as many replicas as the level asks
	LeaderFollower             // one leader orders, followers copy
)

// Modes lists every mode, in the order in which tables show them.
var Modes = [...]Mode{Raft, Quorum, LeaderFollower}

var modeNames = [...]string{Raft: "raft", Quorum: "quorum", LeaderFollower: "leader-follower"}

func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode reads what String wrote; its error lists the modes.
func ParseMode(s string) (Mode, error) {
	for m, name := range modeNames {
		if s == name {
			return Mode(m), nil
		}
	}
	return 0, fmt.Errorf("unknown mode %q: use one of %s", s, strings.Join(modeNames[:], ", "))
}

// MarshalText writes the form of String.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the form of String.
func (m *Mode) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMode(string(b))
	return err
}

// Kind is what a level asks for, without its bound.
type Kind uint8

// The kinds of level. Default, the zero Kind, means the keyspace's own level.
// The names and counts from Any to EachQuorum are Cassandra's.
const (
	Default Kind = iota
	Any
	One
	Two
	Three
	QuorumOf
	All
	LocalOne
	LocalQuorum
	EachQuorum
	Linearizable
	Lease
	Bounded
	Session
	Prefix
	kindEnd
)

var kindNames = [...]string{Default: "default", Any: "any", One: "one", Two: "two", Three: "three", QuorumOf: "quorum", All: "all",
	LocalOne: "local_one", LocalQuorum: "local_quorum", EachQuorum: "each_quorum", Linearizable: "linearizable",
	Lease: "lease", Bounded: "bounded", Session: "session", Prefix: "prefix"}

// Level is what one request asks for. It is comparable; the zero Level stands
// for the keyspace's default.
type Level struct {
	Kind  Kind
	Bound time.Duration // of Bounded: how stale at the most
}

// L is the Level of a kind that needs no bound.
func L(k Kind) Level { return Level{Kind: k} }

func (l Level) String() string {
	switch {
	case l.Kind == Bounded:
		return "bounded:" + l.Bound.String()
	case int(l.Kind) < len(kindNames):
		return kindNames[l.Kind]
	}
	return fmt.Sprintf("level(%d)", uint8(l.Kind))
}

// ParseLevel reads what String wrote, in any case of letters, and the other names
// "eventual" (one) and "strong" (linearizable). "" and "default" give the zero Level.
func ParseLevel(s string) (Level, error) {
	t := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(s)), "-", "_")
	switch t {
	case "", "default":
		return Level{}, nil
	case "eventual":
		return L(One), nil
	case "strong":
		return L(Linearizable), nil
	}
	if d, ok := strings.CutPrefix(t, "bounded:"); ok {
		bound, err := time.ParseDuration(d)
		if err != nil || bound <= 0 {
			return Level{}, fmt.Errorf("level %q: want bounded:DURATION with a duration above 0 and below 292 years, such as bounded:2s", s)
		}
		return Level{Kind: Bounded, Bound: bound}, nil
	}
	for k, name := range kindNames {
		if t == name && Kind(k) != Bounded {
			return L(Kind(k)), nil
		}
	}
	return Level{}, fmt.Errorf("unknown level %q: use one of %s, bounded:DURATION", s, strings.Join(kindNames[1:int(Bounded)], ", ")+", session, prefix")
}

// MarshalText writes the form of String.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads the form of String.
func (l *Level) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLevel(string(b))
	return err
}
