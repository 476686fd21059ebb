package storage

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"fulcrum"
)

// Identity is whose data directory this is. Incarnation is random and made with
// the directory: a node that lost its disk comes back as another one.
type Identity struct {
	ClusterID   string         `json:"cluster_id"`
	Node        fulcrum.NodeID `json:"node"`
	Incarnation string         `json:"incarnation"`
	Admitted    bool           `json:"admitted,omitempty"` // it may have taken part in the catalog's group
	TakenIn     bool           `json:"taken_in,omitempty"` // by a catalog that there was already
	// FirstLives has the incarnations in which other first nodes of the cluster were first heard of.
	FirstLives map[fulcrum.NodeID]string `json:"first_lives,omitempty"`
	Fresh      bool                      `json:"-"` // this Open made it
}

const (
	identityFile = "identity.json"
	lockFile     = "LOCK"
	stateFile    = "state.db"
)

// dirLock is an advisory lock that the kernel drops with its process.
type dirLock struct{ f *os.File }

// lockDir makes the directory if need be and locks it, or says who has it.
func lockDir(dir string) (*dirLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, diskError(err, "make data directory %s", dir)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, diskError(err, "data directory %s is not usable", dir)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fulcrum.Errorf(fulcrum.CodeExists, "data directory %s is in use by process %s", dir, holder(f)).
				WithHint("stop that node first, or give this one another --data")
		}
		return nil, diskError(err, "lock data directory %s", dir)
	}
	err = errors.Join(f.Truncate(0), func() error {
		_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		return err
	}())
	if err != nil {
		return nil, errors.Join(diskError(err, "write to data directory %s", dir), f.Close())
	}
	return &dirLock{f}, nil
}

func holder(f *os.File) string {
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0)
	if pid := strings.TrimSpace(string(b[:n])); pid != "" {
		return pid
	}
	return "(unknown)"
}

func (l *dirLock) release() error { return l.f.Close() }

// identify checks that the directory belongs to this node of this cluster, and
// makes it so when it belongs to nobody.
func identify(dir, cluster string, node fulcrum.NodeID) (Identity, error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		// A directory with data but without a name is not ours to take over.
		if _, err := os.Stat(filepath.Join(dir, stateFile)); err == nil {
			return Identity{}, fulcrum.Errorf(fulcrum.CodeDisk, "data directory %s holds data but no %s", dir, identityFile).
				WithHint("restore that file, or wipe the directory and join the node again")
		}
		id := Identity{ClusterID: cluster, Node: node, Incarnation: rand.Text(), Fresh: true}
		return id, writeIdentity(dir, path, id)
	}
	if err != nil {
		return Identity{}, diskError(err, "read %s", path)
	}
	var id Identity
	if err := json.Unmarshal(b, &id); err != nil || id.Incarnation == "" {
		return Identity{}, fulcrum.Errorf(fulcrum.CodeDisk, "%s is damaged: %q", path, b).
			WithHint("restore that file, or wipe the directory and join the node again")
	}
	switch {
	case id.ClusterID != cluster:
		return Identity{}, fulcrum.Errorf(fulcrum.CodeInvalid, "data directory %s belongs to cluster %q, not to %q", dir, id.ClusterID, cluster).
			WithHint("give this node another --data, or wipe the directory if that cluster is gone")
	case id.Node != node:
		return Identity{}, fulcrum.Errorf(fulcrum.CodeInvalid, "data directory %s belongs to node %q, not to %q", dir, id.Node, node).
			WithHint("start it with --name %s, or give this node another --data", id.Node)
	}
	return id, nil
}

// Admit notes for good that the node takes part in the catalog's group from now on, and
// whether a catalog that there was already took it in.
func (s *Store) Admit(takenIn bool) error {
	return s.updateIdentity(func(id *Identity) { id.Admitted, id.TakenIn = true, id.TakenIn || takenIn })
}

// FirstLife returns the incarnation in which another node was first heard of, and notes
// for good that it is this one when none was.
func (s *Store) FirstLife(node fulcrum.NodeID, incarnation string) (string, error) {
	if first, ok := s.Identity().FirstLives[node]; ok {
		return first, nil
	}
	first := incarnation
	err := s.updateIdentity(func(id *Identity) {
		if was, ok := id.FirstLives[node]; ok { // meanwhile
			first = was
			return
		}
		lives := maps.Clone(id.FirstLives) // others read the old one
		if lives == nil {
			lives = map[fulcrum.NodeID]string{}
		}
		lives[node] = incarnation
		id.FirstLives = lives
	})
	return first, err
}

// Identity returns whose data directory this is. Its map is not to be written to.
func (s *Store) Identity() Identity {
	s.idMu.Lock()
	defer s.idMu.Unlock()
	return s.id
}

// updateIdentity changes the identity on disk, and then here.
func (s *Store) updateIdentity(change func(*Identity)) error {
	s.idMu.Lock()
	defer s.idMu.Unlock()
	id := s.id
	change(&id)
	if err := writeIdentity(s.opts.Dir, filepath.Join(s.opts.Dir, identityFile), id); err != nil {
		return err
	}
	s.id = id
	return nil
}

// writeIdentity leaves either no file or a whole one, whenever the power fails.
func writeIdentity(dir, path string, id Identity) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	if err := writeWhole(dir, path, append(b, '\n')); err != nil {
		return diskError(err, "write %s", path)
	}
	return nil
}

func writeWhole(dir, path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
