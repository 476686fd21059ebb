package storage

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
)

// A reader of the engine's file notices most of what is damaged on its way, but not all: where
// a page says that it has fewer elements than it has, the others are just not there; where a
// branch names an older copy of a page, all on it is whole, and old. So all of the file is read
// from time to time, as Open does, and compared with what it should come to (verifyBolt). What is
// found then spoils the engine.
//
// The patrol reads a picture of one transaction: until that ends, bbolt writes to no page of it.
const (
	patrolEvery = 5 * time.Minute
	patrolShare = 1000 // it rests at least for so many times as long as it took
	patrolPages = 16   // it reads before others may go on: some tens of microseconds
	patrolKeeps = 1024 // pages that it has mapped at the most
)

// patrol reads the engine's file again and again, until ctx ends.
func (s *Store) patrol(ctx context.Context) error {
	rest := time.NewTimer(patrolEvery)
	defer rest.Stop()
	for {
		select {
		case <-rest.C:
		case <-ctx.Done():
			return nil
		}
		began := time.Now()
		damage, err := s.inspect(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case damage != nil:
			s.spoil(fmt.Errorf("%s: %w", s.bolt.Path(), damage))
			return nil
		case err != nil: // it may be short of files or memory
			s.logger.Warn("the engine's file could not be looked through", "err", err)
		}
		rest.Reset(max(patrolEvery, patrolShare*time.Since(began)))
	}
}

// inspect returns what is damaged of the engine's file, as far as it is in use; or err, when
// that could not be found out.
func (s *Store) inspect(ctx context.Context) (damage, err error) {
	var tx *bbolt.Tx
	err = guard(func() (err error) {
		tx, err = s.beginRead()
		return err
	})
	if err != nil {
		if s.isDamage(err) {
			return err, nil
		}
		return nil, err
	}
	defer tx.Rollback()
	err = mapBolt(s.bolt.Path(), func(v *boltFile) error {
		v.readers, v.pageSize = 1, s.bolt.Info().PageSize
		v.pause = v.politely(ctx)
		damage = guard(func() error {
			v.reach(uint64(tx.Size()) / uint64(v.pageSize))
			if err := v.verifyFrom(uint64(tx.Cursor().Bucket().Root())); err != nil {
				return err
			}
			return v.whole()
		})
		if damage != nil {
			damage = v.place(damage)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	return damage, nil
}

// politely returns what a patrol does before each page.
func (v *boltFile) politely(ctx context.Context) func() error {
	read := 0
	return func() error {
		if read++; read%patrolPages == 0 {
			runtime.Gosched()
		}
		if read%patrolKeeps == 0 {
			unmapFile(v.b)
		}
		return ctx.Err()
	}
}

// beginRead begins a transaction that sees all that was committed before. Bbolt takes the newest
// of two meta pages that is whole: where the newest is damaged, it would go on from the
// transaction before, without a word. The caller guards it.
func (s *Store) beginRead() (*bbolt.Tx, error) {
	known := s.newestTx.Load()
	tx, err := s.bolt.Begin(false)
	if err != nil {
		return nil, err
	}
	if uint64(tx.ID()) < known {
		s.spoil(errMeta)
		return nil, errors.Join(errMeta, tx.Rollback())
	}
	return tx, nil
}

var errMeta = fmt.Errorf("the newest of the meta pages: %w", errSum)

// updateBolt runs f in a transaction that follows all others, for whoever has the token.
func (s *Store) updateBolt(f func(*bbolt.Tx) error) error {
	var id uint64
	err := s.bolt.Update(func(tx *bbolt.Tx) error {
		if id = uint64(tx.ID()); id <= s.newestTx.Load() {
			return errMeta
		}
		return f(tx)
	})
	if err == nil {
		s.newestTx.Store(id)
	}
	return err
}
