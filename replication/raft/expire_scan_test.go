package raft

import (
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/replicationtest"
)

// scannedState calls behind when a scan of it ends.
type scannedState struct {
	*replicationtest.State
	behind func()
}

func (s *scannedState) Scan(start, end []byte, f func(fulcrum.Entry) bool) error {
	err := s.State.Scan(start, end, f)
	if s.behind != nil {
		s.behind()
	}
	return err
}

// A State is replaced by another, of a snapshot, while it is scanned for keys that expire:
// the other one is scanned from its beginning, and what it holds is in the schedule.
func TestAStateThatIsReplacedWhileItIsScanned(t *testing.T) {
	s := schedule{every: time.Minute}
	s.restart()
	st := &scannedState{State: replicationtest.NewState()}
	st.behind = func() {
		st.behind = nil
		err := st.Install(7, nil, func(put func(fulcrum.Entry) error) error {
			return put(fulcrum.Entry{Key: []byte("k"), Value: []byte("v"), Version: fulcrum.Version{Time: 1}, ExpireAt: 100})
		})
		if err != nil {
			t.Error(err)
		}
		s.restart()
	}
	for {
		read, err := s.page(st, 1)
		if err != nil {
			t.Fatal(err)
		}
		if !read {
			break
		}
	}
	if keys, next := s.take(100); len(keys) != 1 || string(keys[0].key) != "k" {
		t.Errorf("%d keys are due, the next at %d, want k", len(keys), next)
	}
}
