package storage

import "fmt"

// Durability says when an append to a log returns.
type Durability uint8

// The durabilities; the zero value is the safe one.
const (
	Fsync    Durability = iota // after the sync
	Interval                   // at once; a sync follows within 100 ms
	Memory                     // at once; written when 32 KiB have gathered or somebody syncs, and not synced
)

var durabilityNames = [...]string{Fsync: "fsync", Interval: "interval", Memory: "memory"}

// String returns the name that ParseDurability takes.
func (d Durability) String() string {
	if int(d) < len(durabilityNames) {
		return durabilityNames[d]
	}
	return fmt.Sprintf("durability(%d)", uint8(d))
}

// ParseDurability reads fsync, interval or memory; empty means fsync.
func ParseDurability(s string) (Durability, error) {
	if s == "" {
		return Fsync, nil
	}
	for d, name := range durabilityNames {
		if s == name {
			return Durability(d), nil
		}
	}
	return Fsync, fmt.Errorf("durability %q: want fsync, interval or memory", s)
}
