// Package bench loads a store and measures how it answers: a load generator on the
// Redis protocol, and for stores with a client of their own through Target.
//
// Closed loop: each client sends its next batch when the last one is answered, so a slow
// store is asked less. Open loop (Rate): operations are due at fixed times whether or not
// the store keeps up, and their latency counts from when they were due, so that a stall
// shows in the percentiles of all who would have come meanwhile (coordinated omission,
// Tene 2013).
//
// Start reading at Run.
package bench

import (
	"errors"
	"flag"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"fulcrum"
)

// Options says what load to make. Flags gives every field its default.
type Options struct {
	Clients   int              `json:"clients"`
	Pipeline  int              `json:"pipeline"` // operations a client sends together
	Rate      float64          `json:"rate"`     // open loop: operations a second in all; 0: closed loop
	Mix       string           `json:"mix"`      // see ParseMix
	Zipf      float64          `json:"zipf"`     // exponent; 0: uniform
	Keys      int              `json:"keys"`     // how many there are
	KeyPrefix string           `json:"key_prefix"`
	ValueSize Sizes            `json:"value_size"`         // bytes
	Keyspace  string           `json:"keyspace,omitempty"` // a name, or a database number; empty: database 0
	Read      string           `json:"read_level,omitempty"`
	Write     string           `json:"write_level,omitempty"`
	Duration  fulcrum.Duration `json:"duration"` // 0: as long as Ops takes
	Ops       int64            `json:"ops"`      // 0: as many as Duration allows
	Warmup    fulcrum.Duration `json:"warmup"`
	Load      bool             `json:"load"` // write every key first
	Seed      uint64           `json:"seed"`
	OpTimeout fulcrum.Duration `json:"op_timeout"` // a client gives an operation up after this

	uniform bool // asked for, also with a preset that has a skew
}

const (
	maxClients  = 10_000
	maxPipeline = 10_000
	maxKeys     = 1 << 40
	maxValue    = 512 << 20
	ycsbZipf    = 0.99 // the constant of YCSB (Cooper et al. 2010)
)

// Flags defines the flags of o and sets its defaults; Complete has to be called when
// they were parsed. Drivers of other stores take the same ones.
func (o *Options) Flags(f *flag.FlagSet) {
	f.IntVar(&o.Clients, "clients", 16, "connections, each with one client at work")
	f.IntVar(&o.Pipeline, "pipeline", 1, "operations that a client sends together")
	f.Float64Var(&o.Rate, "rate", 0, "open loop: operations a second of all clients together, due whether or not the store keeps up; 0: closed loop")
	f.StringVar(&o.Mix, "mix", "ycsb-a", "what to do, with weights: get=50,set=50; or read, write, ycsb-a, ycsb-b, ycsb-c. "+
		"Operations: get set setex setnx getset del exists incr append ping mget:N mset:N setwait:N (SET, then WAIT for N replicas)")
	f.Float64Var(&o.Zipf, "zipf", 0, "skew of the keys: exponent of a zipf distribution, such as 0.99; 0: uniform (default of the ycsb mixes: 0.99)")
	f.BoolVar(&o.uniform, "uniform", false, "all keys alike, also in the ycsb mixes")
	f.IntVar(&o.Keys, "keys", 100_000, "how many keys there are")
	f.StringVar(&o.KeyPrefix, "key-prefix", "bench:", "what every key begins with")
	o.ValueSize = Sizes{256, 256}
	f.Var(&o.ValueSize, "value-size", "bytes of a value: N, or N-M for any size between")
	f.StringVar(&o.Read, "read-level", "", "level of reads, such as linearizable or one; default: the keyspace's")
	f.StringVar(&o.Write, "write-level", "", "level of writes; default: the keyspace's")
	f.DurationVar((*time.Duration)(&o.Duration), "duration", 0, "how long to measure; default 10s, or with --ops as long as they take")
	f.Int64Var(&o.Ops, "ops", 0, "how many operations to measure; 0: as many as fit in --duration")
	f.DurationVar((*time.Duration)(&o.Warmup), "warmup", time.Second, "the same load before that, not measured")
	f.BoolVar(&o.Load, "load", false, "write every key first")
	f.Uint64Var(&o.Seed, "seed", 1, "of keys, values and the order of operations")
	f.DurationVar((*time.Duration)(&o.OpTimeout), "op-timeout", 10*time.Second, "when a client gives an operation up")
}

// Complete fills in what depends on other fields, and reports all that is wrong.
func (o *Options) Complete() error {
	if o.Duration == 0 && o.Ops == 0 {
		o.Duration = fulcrum.Duration(10 * time.Second)
	}
	mix, err := ParseMix(o.Mix)
	wrong := []error{err}
	if strings.HasPrefix(o.Mix, "ycsb-") && o.Zipf == 0 && !o.uniform {
		o.Zipf = ycsbZipf
	}
	bad := func(when bool, format string, args ...any) {
		if when {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	bad(o.uniform && o.Zipf != 0 && o.Zipf != ycsbZipf, "--uniform and --zipf exclude each other")
	bad(o.Clients < 1 || o.Clients > maxClients, "--clients %d: want 1 to %d", o.Clients, maxClients)
	bad(o.Pipeline < 1 || o.Pipeline > maxPipeline, "--pipeline %d: want 1 to %d", o.Pipeline, maxPipeline)
	bad(!(o.Rate >= 0 && o.Rate <= 1e8), "--rate %g: want operations a second, up to 100 million; 0 is a closed loop", o.Rate)
	bad(!(o.Zipf >= 0 && o.Zipf <= 10), "--zipf %g: want an exponent from 0 (uniform) to 10", o.Zipf)
	bad(o.Keys < 1 || o.Keys > maxKeys, "--keys %d: want 1 to %d", o.Keys, maxKeys)
	bad(len(o.KeyPrefix) > 1024, "--key-prefix: %d bytes are too many, 1024 at most", len(o.KeyPrefix))
	bad(o.Duration < 0, "--duration %s: must not be negative", time.Duration(o.Duration))
	bad(o.Ops < 0, "--ops %d: must not be negative", o.Ops)
	bad(o.Warmup < 0, "--warmup %s: must not be negative", time.Duration(o.Warmup))
	bad(o.OpTimeout <= 0, "--op-timeout %s: must be positive", time.Duration(o.OpTimeout))
	bad(err == nil && o.Load && !mix.strings(), "--load writes the keys of get and set, of which the mix %s has none", o.Mix)
	if err := errors.Join(wrong...); err != nil {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
	}
	return nil
}

// Sizes is how many bytes a value has: from Min to Max, all alike likely.
type Sizes struct{ Min, Max int }

// String writes the form that Set reads.
func (s Sizes) String() string {
	if s.Min == s.Max {
		return strconv.Itoa(s.Min)
	}
	return fmt.Sprintf("%d-%d", s.Min, s.Max)
}

// Set reads N or N-M.
func (s *Sizes) Set(text string) error {
	low, high, both := strings.Cut(text, "-")
	if !both {
		high = low
	}
	least, err := strconv.Atoi(low)
	most, err2 := strconv.Atoi(high)
	if err != nil || err2 != nil || least < 0 || most < least || most > maxValue {
		return fmt.Errorf("%q is no size: want N or N-M bytes, up to %d", text, maxValue)
	}
	*s = Sizes{least, most}
	return nil
}

// MarshalText writes the form of String.
func (s Sizes) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the form of String.
func (s *Sizes) UnmarshalText(b []byte) error { return s.Set(string(b)) }

// Version is that of the generator, as the build says: for programs without another one.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "dev"
}
