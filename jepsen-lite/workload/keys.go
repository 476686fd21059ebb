package workload

import (
	"fmt"
	"sync"

	"fulcrum/jepsen-lite/history"
)

// keys hands out a few keys at a time and replaces each after perKey operations, so
// that a key's history stays short enough for a slow checker, and there are always
// keys under contention. Its methods may be called from any goroutine.
type keys struct {
	prefix string
	perKey int

	mu   sync.Mutex
	used []int // operations of the key in each slot
	life []int // which key of the slot it is
}

func newKeys(prefix string, slots, perKey int) *keys {
	return &keys{prefix: prefix, perKey: perKey, used: make([]int, slots), life: make([]int, slots)}
}

// take returns the key of a slot, and counts an operation on it.
func (k *keys) take(slot int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.used[slot]++; k.used[slot] > k.perKey {
		k.used[slot] = 1
		k.life[slot]++
	}
	return k.name(slot, k.life[slot])
}

func (k *keys) slots() int { return len(k.used) }

func (k *keys) name(slot, life int) string { return fmt.Sprintf("%s%d-%d", k.prefix, slot, life) }

// under is what the keys of a slot, and no others, begin with.
func (k *keys) under(slot int) string { return fmt.Sprintf("%s%d-", k.prefix, slot) }

// all lists every key that was in use.
func (k *keys) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for slot, life := range k.life {
		for l := 0; l <= life; l++ {
			out = append(out, k.name(slot, l))
		}
	}
	return out
}

// reads is a Read of every key that was in use.
func (k *keys) reads() []Request {
	var out []Request
	for _, key := range k.all() {
		out = append(out, Request{F: history.Read, Key: key})
	}
	return out
}
