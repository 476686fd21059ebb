package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Verb is what an operation does.
type Verb uint8

// The verbs. Those of numbers (Incr) and of what grows (Append) have keys of their own,
// so that they neither fail on the values of the others nor make these longer.
const (
	Get Verb = iota
	Set
	SetEX // expires in a minute
	SetNX
	GetSet
	Del
	Exists
	Incr
	Append
	Ping
	MGet
	MSet
	SetWait // SET, then WAIT for N replicas
	verbs
)

var verbNames = [verbs]string{"get", "set", "setex", "setnx", "getset", "del", "exists", "incr", "append", "ping", "mget", "mset", "setwait"}

// reads are the verbs that change nothing.
var reads = []Verb{Get, Exists, MGet, Ping}

// maxMany bounds the keys of one operation.
const maxMany = 1024

// Kind is one sort of operation of a mix.
type Kind struct {
	Verb   Verb
	N      int // keys of mget and mset, replicas of setwait; else 1
	Weight int
}

// String is the kind's name in a mix and in results.
func (k Kind) String() string {
	if k.Verb.counted() {
		return verbNames[k.Verb] + ":" + strconv.Itoa(k.N)
	}
	return verbNames[k.Verb]
}

// keys is how many keys an operation takes.
func (k Kind) keys() int {
	switch k.Verb {
	case Ping:
		return 0
	case MGet, MSet:
		return k.N
	}
	return 1
}

func (v Verb) counted() bool { return v == MGet || v == MSet || v == SetWait }

// Valued reports whether the operation carries values.
func (v Verb) Valued() bool {
	return slices.Contains([]Verb{Set, SetEX, SetNX, GetSet, Append, MSet, SetWait}, v)
}

// family sets the keys apart on which only that verb works.
func (v Verb) family() string {
	switch v {
	case Incr:
		return "n:"
	case Append:
		return "a:"
	}
	return ""
}

// Mix is what the clients do: kinds with weights.
type Mix []Kind

// presets are mixes with names; those of YCSB are its core workloads A, B and C.
var presets = map[string]string{"read": "get", "write": "set", "ycsb-a": "get=50,set=50", "ycsb-b": "get=95,set=5", "ycsb-c": "get"}

// ParseMix reads a preset's name, or kinds with weights: get=95,mget:10=5.
func ParseMix(text string) (Mix, error) {
	if preset, ok := presets[text]; ok {
		text = preset
	}
	var mix Mix
	for part := range strings.SplitSeq(text, ",") {
		k, err := parseKind(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(mix, func(other Kind) bool { return other.String() == k.String() }) {
			return nil, fmt.Errorf("mix %q: %s is there twice", text, k)
		}
		mix = append(mix, k)
	}
	return mix, nil
}

func parseKind(part string) (Kind, error) {
	k := Kind{N: 1, Weight: 1}
	name, weight, weighted := strings.Cut(part, "=")
	name, count, counted := strings.Cut(name, ":")
	verb := slices.Index(verbNames[:], name)
	if verb < 0 {
		return k, fmt.Errorf("mix: %q is no operation: use read, write, ycsb-a, ycsb-b, ycsb-c, or some of %s with weights (get=90,set=10)", name, strings.Join(verbNames[:], " "))
	}
	k.Verb = Verb(verb)
	var err error
	if weighted {
		if k.Weight, err = strconv.Atoi(weight); err != nil || k.Weight < 1 || k.Weight > 1e6 {
			return k, fmt.Errorf("mix: %q: the weight is a whole number from 1 to a million", part)
		}
	}
	if counted != k.Verb.counted() {
		return k, fmt.Errorf("mix: %q: mget, mset and setwait take a number (mget:10), and no other operation does", part)
	}
	if counted {
		if k.N, err = strconv.Atoi(count); err != nil || k.N < 1 || k.N > maxMany {
			return k, fmt.Errorf("mix: %q: want a number from 1 to %d", part, maxMany)
		}
	}
	return k, nil
}

// Reads and Writes report whether there is such an operation.
func (m Mix) Reads() bool {
	return slices.ContainsFunc(m, func(k Kind) bool { return slices.Contains(reads, k.Verb) })
}

// Writes reports whether an operation changes something.
func (m Mix) Writes() bool {
	return slices.ContainsFunc(m, func(k Kind) bool { return !slices.Contains(reads, k.Verb) })
}

// strings reports whether some operation works on the keys that Options.Load writes.
func (m Mix) strings() bool {
	return slices.ContainsFunc(m, func(k Kind) bool { return k.keys() > 0 && k.Verb.family() == "" })
}

// pick draws a kind by its weight and returns its place in the mix.
func (m Mix) pick(r *rand.Rand) int {
	if len(m) == 1 {
		return 0
	}
	total := 0
	for _, k := range m {
		total += k.Weight
	}
	n := r.IntN(total)
	for i, k := range m {
		if n -= k.Weight; n < 0 {
			return i
		}
	}
	return len(m) - 1
}
