package real

import (
	"bytes"
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"fulcrum"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/local"
)

// Names in a node's directory; see node/storage.
const (
	logDir    = "log"      // of pebble: NNNNNN.log and NNNNNN.sst
	stateFile = "state.db" // of bbolt
)

// Damage does something to the files of a node that does not run. The same seed does
// the same to the same files.
func (w *World) Damage(ctx context.Context, node fulcrum.NodeID, what nemesis.Damage, seed uint64) error {
	if err := w.Can("damage"); err != nil {
		return err
	}
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	n, err := w.cluster.Node(node)
	if err != nil {
		return err
	}
	if n.Running() {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "node %s is running: its files are its own", node).WithHint("kill it first")
	}
	if err := damage(*n, what, rand.New(rand.NewPCG(seed, 0))); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen["damage"]++
	w.wiped[node] = w.wiped[node] || what == nemesis.Wipe
	return nil
}

func damage(n local.Node, what nemesis.Damage, r *rand.Rand) error {
	switch what {
	case nemesis.TornTail:
		return tornTail(n.Dir, r)
	case nemesis.BitFlip:
		return bitFlip(n.Dir, r)
	case nemesis.Wipe:
		return wipe(n)
	}
	return fulcrum.Errorf(fulcrum.CodeInvalid, "damage %q: want %s, %s or %s", what, nemesis.TornTail, nemesis.BitFlip, nemesis.Wipe)
}

// tornTail appends the beginning of a record that was never finished to the newest
// log file, as a crash in the middle of a write leaves it. What was synced before
// stays.
func tornTail(dir string, r *rand.Rand) error {
	logs, err := filesOf(filepath.Join(dir, logDir), ".log")
	if err != nil {
		return err
	}
	if len(logs) == 0 {
		return nothing(dir, "no log file")
	}
	newest := slices.MaxFunc(logs, func(a, b string) int { return number(a) - number(b) })
	f, err := os.OpenFile(newest, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	torn := make([]byte, 8+r.IntN(200))
	for i := range torn {
		torn[i] = byte(r.Uint32())
	}
	if _, err := f.Write(torn); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// number is the file number in a name of pebble's; they only grow.
func number(path string) int {
	n, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	return n
}

// bitFlip inverts one bit in the middle half of a log file, a table or the engine's
// file, in a byte that is not zero if there is one: empty pages would hide it.
func bitFlip(dir string, r *rand.Rand) error {
	files, err := filesOf(filepath.Join(dir, logDir), ".log", ".sst")
	if err != nil {
		return err
	}
	files = append(files, filepath.Join(dir, stateFile))
	r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		middle := b[len(b)/4 : len(b)-len(b)/4]
		if len(b) < 8 || len(bytes.Trim(middle, "\x00")) == 0 {
			continue
		}
		at := r.IntN(len(middle))
		for middle[at] == 0 {
			at = (at + 1) % len(middle)
		}
		return flip(path, int64(len(b)/4+at), middle[at]^1<<r.IntN(8))
	}
	return nothing(dir, "no file with anything in it")
}

func flip(path string, at int64, to byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte{to}, at); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// wipe removes everything but the log of the process, which is ours and not the node's.
func wipe(n local.Node) error {
	entries, err := os.ReadDir(n.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(n.Dir, e.Name())
		if path == n.Log {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// filesOf lists the files that end so and are not empty, by name.
func filesOf(dir string, ends ...string) ([]string, error) {
	var out []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		if info.Mode()&fs.ModeType == 0 && info.Size() > 0 && slices.Contains(ends, filepath.Ext(e.Name())) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil
}

func nothing(dir, what string) error {
	return fulcrum.Errorf(fulcrum.CodeNotFound, "%s holds %s to damage", dir, what).WithHint("was the node wiped before?")
}
