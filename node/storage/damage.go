package storage

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"fulcrum"
)

// Damage is what the disk has lost of one group: some of its state or of its log is
// not what was written there. The replica must neither answer nor vote from it.
//
// A Damage is stored beside the log before anybody hears of it, and stays until
// ForgetDamage: so a replica that was found damaged never runs on what is left, however
// often the node restarts. Its ID tells one damage of a replica from the next.
type Damage struct {
	Group fulcrum.GroupID `json:"group"`
	ID    string          `json:"id"`
	Why   string          `json:"why"`
}

// ErrDamaged is in the chain of every error that says so.
var ErrDamaged = errors.New("the disk does not hold what was written")

// damageRecord is the prefix of the node's records that keep each a Damage.
const damageRecord = "damaged/"

// Damages lists the groups that are damaged here, rising by id.
func (s *Store) Damages() []Damage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.damages), func(a, b Damage) int { return cmp.Compare(a.Group, b.Group) })
}

// Damage returns what is damaged of a group.
func (s *Store) Damage(g fulcrum.GroupID) (Damage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.damages[g]
	return d, ok
}

// Damaged is signalled when a group was found damaged that was not before.
func (s *Store) Damaged() <-chan struct{} { return s.damagedC }

// Spoilt is closed when the engine's file was found damaged. From then on nothing is
// written to it, because the engine, which trusts its pages, might spread the damage;
// the log goes on. The store is to be closed and opened again: Open finds out which
// groups are affected.
func (s *Store) Spoilt() <-chan struct{} { return s.spoilt }

// markDamaged stores that a group is damaged, unless that is known.
func (s *Store) markDamaged(g fulcrum.GroupID, why error) error {
	if _, known := s.Damage(g); known {
		return nil
	}
	d := Damage{Group: g, ID: rand.Text(), Why: why.Error()}
	b, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("damage of group %d: %w", g, err)
	}
	if err := s.SetRecord(damageName(g), b); err != nil {
		return err
	}
	s.mu.Lock()
	s.damages[g] = d
	s.mu.Unlock()
	s.logger.Error("a replica's data on this disk is damaged; it is not served, and is to be rebuilt from its peers", "group", g, "damage", d.Why)
	notify(s.damagedC)
	return nil
}

// ForgetDamage is called when nothing of what was damaged is left.
func (s *Store) ForgetDamage(g fulcrum.GroupID) error {
	if err := s.SetRecord(damageName(g), nil); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.damages, g)
	none := len(s.damages) == 0
	s.mu.Unlock()
	if none {
		if err := s.removeDamaged(); err != nil {
			s.logger.Warn("the damaged file is still there", "err", err) // the next Open removes it
		}
	}
	return nil
}

func damageName(g fulcrum.GroupID) string { return damageRecord + strconv.FormatUint(uint64(g), 10) }

// loadDamages reads what was found damaged and not rebuilt yet.
func (s *Store) loadDamages() error {
	prefix := append([]byte{kindNode}, damageRecord...)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return diskError(err, "list damages in %s", s.logDir())
	}
	var names []string
	for ok := it.First(); ok; ok = it.Next() {
		names = append(names, string(it.Key()[1:]))
	}
	if err := it.Close(); err != nil {
		return diskError(err, "list damages in %s", s.logDir())
	}
	for _, name := range names {
		b, err := s.Record(name)
		if err != nil {
			return err
		}
		var d Damage
		if err := json.Unmarshal(b, &d); err != nil || d.ID == "" {
			return fulcrum.Errorf(fulcrum.CodeDisk, "record %q in %s: %q", name, s.logDir(), b).WithHint("%s", restoreHint)
		}
		s.damages[d.Group] = d
	}
	return nil
}

// vital reports whether no peer can rebuild a group.
func (s *Store) vital(g fulcrum.GroupID) bool { return slices.Contains(s.opts.Vital, g) }

// isDamage reports whether an error of reading says that the data is bad, rather than
// that the store is closed or short of something.
func (s *Store) isDamage(err error) bool {
	if s.closed.Load() || errors.Is(err, errClosed) || errors.Is(err, pebble.ErrClosed) {
		return false
	}
	var p *panicError
	return errors.Is(err, errSum) || errors.Is(err, errGap) || errors.Is(err, fulcrum.ErrShort) || errors.As(err, &p) ||
		pebble.IsCorruptionError(err) || errors.Is(err, syscall.EIO)
}

// errGap is for a record that should be there and is not.
var errGap = errors.New("it is missing")

// spoil notes that the engine's file is damaged.
func (s *Store) spoil(err error) {
	s.spoiltOnce.Do(func() {
		s.logger.Error("the engine's file is damaged; the store must be opened again", "err", err)
		close(s.spoilt)
	})
}

// IsSpoilt reports whether Spoilt is closed.
func (s *Store) IsSpoilt() bool {
	select {
	case <-s.spoilt:
		return true
	default:
		return false
	}
}

// errSpoilt is what writes to the engine get then.
var errSpoilt = fulcrum.Errorf(fulcrum.CodeDisk, "the engine's file: %w", ErrDamaged).
	WithHint("the node opens its files again by itself, and rebuilds what is damaged from its peers")

// hurtLog is a log in which something was found damaged, by a reader that must not wait.
type hurtLog struct {
	log   *groupLog
	index uint64 // of the record; 0: something else
	err   error
}

// hurt has it looked at again, and then stored that the group is damaged, by Run.
func (s *Store) hurt(h hurtLog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.damages[h.log.key.group]; known || s.vital(h.log.key.group) {
		return
	}
	if s.hurts == nil {
		s.hurts = map[fulcrum.GroupID]hurtLog{}
	}
	s.hurts[h.log.key.group] = h
	notify(s.hurtC)
}

// mindHurts looks at what hurt was told of, until ctx ends.
func (s *Store) mindHurts(ctx context.Context) error {
	for {
		select {
		case <-s.hurtC:
		case <-ctx.Done():
			return nil
		}
		if err := s.markHurt(); err != nil && s.disk.failure() != nil {
			return err
		} // else whoever reads it next tells it again
	}
}

// markHurt marks the groups of which hurt was told, if what was read then is still bad:
// a record may have been cut off, or its log dropped, while it was read.
func (s *Store) markHurt() error {
	s.mu.Lock()
	hurts := s.hurts
	s.hurts = nil
	s.mu.Unlock()
	for g, h := range hurts {
		if h.log.sound(h.index) {
			continue
		}
		if err := s.markDamaged(g, h.err); err != nil {
			return err
		}
	}
	return nil
}

// tableGrace is how long after a damaged table of the log was met it is judged.
const tableGrace = 3 * time.Second

// judgeTables fails the store for a damaged table of the log, unless it is a damaged
// group's: then that waits to be rebuilt, and Expunge cuts the damage out, or fails the
// store if it cannot. Otherwise nobody would, and each compaction would meet it again.
func (s *Store) judgeTables(context.Context) error {
	if err := s.disk.tableDamage(); err != nil && len(s.Damages()) == 0 {
		return s.unreadable(err)
	}
	return nil
}

// unreadable fails the store, as its log can be read no more by whom all groups depend on.
func (s *Store) unreadable(err error) error {
	e := diskError(err, "a table of the log in %s is damaged, and not one replica's records alone", s.logDir()).WithHint("%s", restoreHint)
	s.disk.fail(e)
	return e
}

// sound reports whether nothing is wrong with a record, or it is wanted no more.
func (l *groupLog) sound(index uint64) bool {
	l.mu.Lock()
	first, last, broken := l.first, l.last, l.broken
	l.mu.Unlock()
	switch {
	case errors.Is(broken, errDropped):
		return true
	case index == 0:
		return false
	case index < first || index > last:
		return true
	}
	key := l.key.record(index)
	stored, closer, err := l.s.get(key)
	if err != nil {
		return !errors.Is(err, pebble.ErrNotFound) && !l.s.isDamage(err)
	}
	defer closer.Close()
	_, ok := unseal(key, stored)
	return ok
}

// describe names a few groups, for a log line.
func describe(groups map[fulcrum.GroupID]error) string {
	var parts []string
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		parts = append(parts, fmt.Sprintf("%d: %v", g, groups[g]))
	}
	return strings.Join(parts, "; ")
}
