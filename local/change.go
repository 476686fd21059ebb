package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"fulcrum"
)

// Commands run side by side, each with a Cluster that it read when it began. So one writes
// down only what became of its own node, and leaves what others wrote meanwhile of theirs:
// a process that no description names any more is one that nobody stops.

// change has f act on a node as the description has it now, and writes down what f left of
// it. No other process changes the description meanwhile, so f must not wait for anything.
func (c *Cluster) change(name fulcrum.NodeID, f func(*Node) error) error {
	n, err := c.Node(name)
	if err != nil {
		return err
	}
	return c.locked(func(now *Cluster) error {
		if there, err := now.Node(name); err == nil {
			n.PID, n.Paused = there.PID, there.Paused
		}
		if err := f(n); err != nil {
			return err
		}
		now.put(*n)
		return nil
	})
}

// locked has f change the description as it stands on the disk, alone.
func (c *Cluster) locked(f func(now *Cluster) error) error {
	lock, err := os.OpenFile(filepath.Join(c.Dir, File+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // and with it the lock goes
	if err := flock(lock); err != nil {
		return err
	}
	now, err := Load(c.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		now = &Cluster{ID: c.ID, Dir: c.Dir, Binary: c.Binary, BasePort: c.BasePort, Initial: c.Initial, Nodes: slices.Clone(c.Nodes), Gone: c.Gone}
	} else if err != nil {
		return err
	}
	if err := f(now); err != nil {
		return err
	}
	return now.Save()
}

// lockTime is how long a command waits for others, each of which needs the lock for a moment.
const lockTime = 10 * time.Second

func flock(f *os.File) error {
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return err
		case time.Since(began) > lockTime:
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "another command has held %s for %s", f.Name(), lockTime).WithHint("see whether a fulcrum command hangs or is stopped, and try again")
		}
	}
}

// put adds a node, or replaces what is written of it.
func (c *Cluster) put(n Node) {
	if i := slices.IndexFunc(c.Nodes, func(o Node) bool { return o.Name == n.Name }); i >= 0 {
		c.Nodes[i] = n
		return
	}
	c.Nodes = append(c.Nodes, n)
}

// drop takes a node out and notes its directory, which stays.
func (c *Cluster) drop(name fulcrum.NodeID) {
	c.Nodes = slices.DeleteFunc(c.Nodes, func(n Node) bool {
		if n.Name == name {
			c.Gone = append(c.Gone, n.Dir)
		}
		return n.Name == name
	})
}
