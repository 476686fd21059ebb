package consistency

import (
	"fmt"
	"slices"
	"strings"

	"fulcrum"
)

// Access is what a request does: it reads or it writes.
type Access uint8

// The accesses.
const (
	Read Access = iota
	Write
)

var accessNames = [...]string{Read: "read", Write: "write"}

func (a Access) String() string {
	if int(a) < len(accessNames) {
		return accessNames[a]
	}
	return fmt.Sprintf("access(%d)", uint8(a))
}

// ParseAccess reads what String wrote.
func ParseAccess(s string) (Access, error) {
	for a, name := range accessNames {
		if s == name {
			return Access(a), nil
		}
	}
	return 0, fmt.Errorf("unknown access %q: use read or write", s)
}

// MarshalText writes the form of String.
func (a Access) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the form of String.
func (a *Access) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAccess(string(b))
	return err
}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// MarshalText writes the form of String.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the form of String.
func (k *Kind) UnmarshalText(b []byte) error {
	for i, name := range kindNames {
		if string(b) == name {
			*k = Kind(i)
			return nil
		}
	}
	return fmt.Errorf("unknown kind of level %q", b)
}

// Checker names the judgement of jepsen-lite that a run at a promise must pass.
// Each includes those below it in this list, on the same history.
const (
	CheckLinearizable = "linearizable"     // one order, and it respects real time (Herlihy & Wing 1990)
	CheckDurable      = "durable-majority" // no acknowledged write is lost while a majority survives
	CheckBounded      = "bounded"          // no answer is staler than its bound
	CheckSession      = "session"          // one client never sees time go back (Terry et al. 1994)
	CheckPrefix       = "prefix"           // every answer is a state that the leader once had
	CheckEventual     = "eventual"         // replicas agree once writes stop and the network is whole
)

// Promise is one cell of the table: what mode x access x kind of level guarantees
// and what it costs. Where Offered is false, Guarantee says why it is refused and
// the fields behind it are empty.
type Promise struct {
	Mode       Mode   `json:"mode"`
	Access     Access `json:"access"`
	Kind       Kind   `json:"level"`
	Offered    bool   `json:"offered"`
	Given      Kind   `json:"given,omitempty"`       // what the receipt shows when the promise was kept
	Guarantee  string `json:"guarantee"`             // one sentence
	Asked      string `json:"asked,omitempty"`       // which replicas are asked
	Needed     string `json:"needed,omitempty"`      // how many of them must answer
	RoundTrips string `json:"round_trips,omitempty"` // between replicas, from the coordinator or leader
	Minority   string `json:"minority,omitempty"`    // what the minority side of a partition does
	Checker    string `json:"checker,omitempty"`     // one of the Check constants
}

// Weaker reports whether p promises less than q, by the judgements that they must pass.
func (p Promise) Weaker(q Promise) bool {
	falling := []string{CheckLinearizable, CheckDurable, CheckBounded, CheckSession, CheckPrefix, CheckEventual}
	return slices.Index(falling, p.Checker) > slices.Index(falling, q.Checker)
}

// Kinds lists every kind of level but Default, in the order of tables.
func Kinds() []Kind {
	kinds := make([]Kind, 0, int(kindEnd)-1)
	for k := Any; k < kindEnd; k++ {
		kinds = append(kinds, k)
	}
	return kinds
}

// Table returns every mode x access x kind, offered or not: modes in the order of
// Modes, writes before reads, kinds in the order of Kinds.
func Table() []Promise {
	var table []Promise
	for _, m := range Modes {
		for _, a := range []Access{Write, Read} {
			for _, k := range Kinds() {
				table = append(table, promise(m, a, k))
			}
		}
	}
	return table
}

// Lookup returns the promise of level l, or a *fulcrum.Error of CodeLevel whose
// Hint lists the levels that the mode offers instead. The zero Level stands for
// the default of Defaults.
func Lookup(m Mode, a Access, l Level) (Promise, error) {
	if l.Kind == Default {
		w, r := Defaults(m)
		if l = r; a == Write {
			l = w
		}
	}
	p := promise(m, a, l.Kind)
	if !p.Offered {
		names := make([]string, 0, int(kindEnd))
		for _, k := range Offered(m, a) {
			names = append(names, k.placeholder())
		}
		return p, fulcrum.Errorf(fulcrum.CodeLevel, "mode %s has no %s at level %s: %s", m, a, l, p.Guarantee).
			WithHint("%s levels of %s: %s", a, m, strings.Join(names, ", "))
	}
	if l.Kind == Bounded && l.Bound <= 0 {
		return p, fulcrum.Errorf(fulcrum.CodeLevel, "level bounded needs a positive duration").WithHint("such as bounded:2s")
	}
	return p, nil
}

func (k Kind) placeholder() string {
	if k == Bounded {
		return "bounded:DURATION"
	}
	return k.String()
}

// Offered lists the kinds of level that a mode offers, in the order of Kinds.
func Offered(m Mode, a Access) []Kind {
	return slices.DeleteFunc(Kinds(), func(k Kind) bool { return !promise(m, a, k).Offered })
}

// Defaults are the levels of a keyspace whose maker chose none: the safe ones.
func Defaults(m Mode) (write, read Level) {
	if m == Quorum {
		return L(QuorumOf), L(QuorumOf)
	}
	return L(QuorumOf), L(Linearizable)
}

func promise(m Mode, a Access, k Kind) Promise {
	p := Promise{Guarantee: "no such level"}
	if k != Default && k < kindEnd {
		switch {
		case m == Raft && a == Write:
			p = raftWrite(k)
		case m == Raft && a == Read:
			p = raftRead(k)
		case m == Quorum && a == Write:
			p = quorumWrite(k)
		case m == Quorum && a == Read:
			p = quorumRead(k)
		case m == LeaderFollower && a == Write:
			p = leaderWrite(k)
		case m == LeaderFollower && a == Read:
			p = leaderRead(k)
		}
	}
	p.Mode, p.Access, p.Kind = m, a, k
	p.Offered = p.Checker != ""
	if p.Offered && p.Given == Default {
		p.Given = k
	}
	return p
}

// refused is a cell that is not offered, and why.
func refused(why string) Promise { return Promise{Guarantee: why} }

const (
	readOnly = "a level for reads only"
	noZones  = "zones only count in quorum mode"
)
