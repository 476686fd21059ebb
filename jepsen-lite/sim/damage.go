package sim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

// Longest torn tail: the blocks that a disk may have had in its cache.
const maxTornBytes = 32 << 10

// Tear puts behind the end of the newest file of a node's log what a write that was
// under way when the power failed may have left there: zeros, garbage, or both. What
// was synced stays, or it would be a lying disk and not a torn write. The node must
// not run.
func (c *Cluster) Tear(name fulcrum.NodeID, seed uint64) error {
	disk, err := c.stopped(name)
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(seed, 2))
	files, err := logFiles(disk, func(name string) bool { return strings.HasSuffix(name, ".log") })
	if err != nil || len(files) == 0 {
		return fmt.Errorf("%s has no log to tear: %w", name, err)
	}
	tail := make([]byte, 1+rnd.IntN(maxTornBytes))
	garbage := 0
	if kind := rnd.IntN(3); kind == 1 {
		garbage = len(tail) // all of it
	} else if kind == 2 {
		garbage = 1 + rnd.IntN(len(tail))
	}
	for i := range garbage { // a write reaches the disk in any order: its end may be there and its beginning not
		tail[len(tail)-1-i] = byte(rnd.Uint32())
	}
	return patch(disk, files[len(files)-1], func(f vfs.File, size int64) error {
		_, err := f.WriteAt(tail, size)
		return err
	})
}

// FlipBit flips one bit of a node's log or of its engine's file; which, seed decides.
// From then on, until Wipe, it is no failure of the cluster that the node ends by
// itself. The node must not run.
func (c *Cluster) FlipBit(name fulcrum.NodeID, seed uint64) error {
	disk, err := c.stopped(name)
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(seed, 3))
	files, err := logFiles(disk, func(name string) bool { return strings.HasSuffix(name, ".log") || strings.HasSuffix(name, ".sst") })
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.mayEnd[name] = damagedDisk
	c.mu.Unlock()
	at, bit := rnd.Float64(), byte(1)<<rnd.IntN(8) // at: as a share of the file
	if i := rnd.IntN(len(files) + 1); i < len(files) {
		c.opt.Logger.Warn("a bit flips", "node", name, "file", files[i], "at", at)
		return patch(disk, files[i], func(f vfs.File, size int64) error { return flip(f, int64(at*float64(size)), bit) })
	}
	path := filepath.Join(c.Dir(name), "state.db")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	c.opt.Logger.Warn("a bit flips", "node", name, "file", path, "at", at)
	return flip(f, int64(at*float64(st.Size())), bit)
}

// SpoilLog flips a bit of a text wherever it stands in those files of a node's log whose
// names end so. The node must not run.
func (c *Cluster) SpoilLog(name fulcrum.NodeID, end, text string) error {
	disk, err := c.stopped(name)
	if err != nil {
		return err
	}
	files, err := logFiles(disk, func(name string) bool { return strings.HasSuffix(name, end) })
	if err != nil {
		return err
	}
	n := 0
	for _, path := range files {
		err := patch(disk, path, func(f vfs.File, size int64) error {
			b := make([]byte, size)
			if _, err := f.ReadAt(b, 0); err != nil {
				return err
			}
			for at := 0; ; n++ {
				i := bytes.Index(b[at:], []byte(text))
				if i < 0 {
					return nil
				}
				if err := flip(f, int64(at+i), 8); err != nil {
					return err
				}
				at += i + len(text)
			}
		})
		if err != nil {
			return err
		}
	}
	if n == 0 {
		return fmt.Errorf("%q is in no file *%s of the log of %s", text, end, name)
	}
	return nil
}

// stopped returns the log's disk of a node that does not run.
func (c *Cluster) stopped(name fulcrum.NodeID) (*vfs.MemFS, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.procs[name] != nil {
		return nil, fmt.Errorf("node %s runs: stop it before its disk is damaged", name)
	}
	if c.disks[name] == nil {
		return nil, fmt.Errorf("there is no node %s", name)
	}
	return c.disks[name], nil
}

// logFiles lists the files of a log that are not empty and whose names are wanted,
// oldest first: their names are numbers.
func logFiles(disk *vfs.MemFS, want func(name string) bool) ([]string, error) {
	const dir = "log" // where a node keeps it on a disk of its own
	names, err := disk.List(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var out []string
	for _, name := range names {
		st, err := disk.Stat(disk.PathJoin(dir, name))
		if err != nil {
			return nil, err
		}
		if want(name) && st.Size() > 0 {
			out = append(out, disk.PathJoin(dir, name))
		}
	}
	return out, nil
}

// patch changes a file of a log, for good.
func patch(disk *vfs.MemFS, path string, change func(f vfs.File, size int64) error) error {
	f, err := disk.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := change(f, st.Size()); err != nil {
		return err
	}
	return f.Sync()
}

func flip(f interface {
	ReadAt(p []byte, at int64) (int, error)
	WriteAt(p []byte, at int64) (int, error)
}, at int64, bit byte) error {
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= bit
	_, err := f.WriteAt(b[:], at)
	return err
}
