package storage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"fulcrum"
	"fulcrum/replication"
)

func options(dir string, fs vfs.FS) Options {
	return Options{Dir: dir, LogFS: fs, ClusterID: "c1", Node: "n1"}
}

func open(t testing.TB, opts Options) *Store {
	t.Helper()
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustLog(t testing.TB, s *Store, g fulcrum.GroupID, e fulcrum.Epoch, d Durability) replication.Log {
	t.Helper()
	l, err := s.Log(g, e, d)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustState(t testing.TB, s *Store, g fulcrum.GroupID, part string) replication.State {
	t.Helper()
	st, err := s.State(g, part)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func entry(key, value string, at uint64) fulcrum.Entry {
	return fulcrum.Entry{Key: []byte(key), Value: []byte(value), Version: fulcrum.Version{Time: at, Actor: 1}}
}

func TestReopenedStoreHasEverything(t *testing.T) {
	dir := t.TempDir()
	s := open(t, options(dir, nil))
	if !s.Identity().Fresh || s.Identity().Incarnation == "" {
		t.Fatalf("identity of a new directory: %+v", s.Identity())
	}
	l := mustLog(t, s, 7, 2, Fsync)
	must(t, l.Append(1, [][]byte{[]byte("a"), []byte("b"), {}}))
	must(t, l.SetMeta(map[string][]byte{"term": []byte("3")}))
	st := mustState(t, s, 7, "")
	must(t, st.Apply(3, []fulcrum.Entry{entry("k", "v", 9)}, map[string][]byte{"x": []byte("y")}))
	must(t, s.SetRecord("peers", []byte("n2")))
	must(t, s.Close())
	must(t, s.Close())
	if err := l.Append(4, [][]byte{{}}); !errors.Is(err, fulcrum.ErrUnavailable) {
		t.Errorf("append to a closed store: %v", err)
	}
	if err := st.Rebase(1, nil); !errors.Is(err, fulcrum.ErrUnavailable) {
		t.Errorf("rebase in a closed store: %v", err)
	}

	again := open(t, options(dir, nil))
	if id := again.Identity(); id.Fresh || id.Incarnation != s.Identity().Incarnation {
		t.Errorf("identity after reopening: %+v, was %+v", id, s.Identity())
	}
	l = mustLog(t, again, 7, 2, Fsync)
	if l.First() != 1 || l.Last() != 3 {
		t.Errorf("log is %d..%d, want 1..3", l.First(), l.Last())
	}
	if b, err := l.Get(2); err != nil || string(b) != "b" {
		t.Errorf("record 2: %q, %v", b, err)
	}
	if b, err := l.Meta("term"); err != nil || string(b) != "3" {
		t.Errorf("meta: %q, %v", b, err)
	}
	st = mustState(t, again, 7, "")
	if e, err := st.Get([]byte("k")); err != nil || string(e.Value) != "v" || e.Version.Time != 9 {
		t.Errorf("entry: %+v, %v", e, err)
	}
	if st.Applied() != 3 || st.Durable() != 3 || st.Keys() != 1 || st.Bytes() != 2 {
		t.Errorf("applied %d, durable %d, keys %d, bytes %d", st.Applied(), st.Durable(), st.Keys(), st.Bytes())
	}
	if b, err := st.Extra("x"); err != nil || string(b) != "y" {
		t.Errorf("extra: %q, %v", b, err)
	}
	if b, err := again.Record("peers"); err != nil || string(b) != "n2" {
		t.Errorf("record: %q, %v", b, err)
	}
}

func TestTheFirstLifeOfAnotherIsKept(t *testing.T) {
	dir := t.TempDir()
	s := open(t, options(dir, nil))
	first := func(node fulcrum.NodeID, life, want string) {
		t.Helper()
		if got, err := s.FirstLife(node, life); err != nil || got != want {
			t.Errorf("%s in its life %q was first heard of in %q (%v), want %q", node, life, got, err, want)
		}
	}
	first("n2", "a", "a")
	must(t, s.Admit(false))
	first("n3", "b", "b")
	first("n2", "c", "a")
	must(t, s.Close())
	s = open(t, options(dir, nil))
	first("n2", "c", "a")
	first("n3", "b", "b")
	if id := s.Identity(); !id.Admitted || id.TakenIn {
		t.Errorf("it took part at birth; its identity is %+v", id)
	}
	must(t, s.Admit(true))
	must(t, s.Admit(false))
	if id := s.Identity(); !id.TakenIn {
		t.Errorf("it was taken in; its identity is %+v", id)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, o *Options)
		code    fulcrum.Code
		says    []string
	}{
		{"a directory in use", func(t *testing.T, o *Options) { open(t, *o) }, fulcrum.CodeExists, []string{"in use by process", "--data"}},
		{"a directory of another cluster", func(t *testing.T, o *Options) {
			must(t, open(t, *o).Close())
			o.ClusterID = "c2"
		}, fulcrum.CodeInvalid, []string{`"c1"`, `"c2"`, "wipe"}},
		{"a directory of another node", func(t *testing.T, o *Options) {
			must(t, open(t, *o).Close())
			o.Node = "n2"
		}, fulcrum.CodeInvalid, []string{`"n1"`, `"n2"`, "--name n1"}},
		{"data without an identity", func(t *testing.T, o *Options) {
			must(t, open(t, *o).Close())
			must(t, os.Remove(filepath.Join(o.Dir, identityFile)))
		}, fulcrum.CodeDisk, []string{"identity.json", "wipe"}},
		{"a damaged identity", func(t *testing.T, o *Options) {
			must(t, open(t, *o).Close())
			must(t, os.WriteFile(filepath.Join(o.Dir, identityFile), []byte("{"), 0o600))
		}, fulcrum.CodeDisk, []string{"damaged"}},
		{"an engine file cut short", func(t *testing.T, o *Options) {
			must(t, open(t, *o).Close())
			must(t, os.Truncate(filepath.Join(o.Dir, stateFile), 5000))
		}, fulcrum.CodeDisk, []string{"state.db", "wipe"}},
		{"a path through a file", func(t *testing.T, o *Options) {
			o.Dir = filepath.Join(o.Dir, "file", "dir")
			must(t, os.WriteFile(filepath.Dir(o.Dir), nil, 0o600))
		}, fulcrum.CodeDisk, []string{"file/dir"}},
		{"no directory", func(t *testing.T, o *Options) { o.Dir = "" }, fulcrum.CodeInvalid, []string{"no data directory"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t.TempDir(), vfs.NewMem())
			tt.prepare(t, &o)
			_, err := Open(o)
			if !errors.Is(err, &fulcrum.Error{Code: tt.code}) {
				t.Fatalf("error %v, want code %s", err, tt.code)
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestOpenRefusesAReadOnlyDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	must(t, os.Mkdir(dir, 0o555))
	if os.Geteuid() == 0 {
		// Permissions do not bind root: become somebody else for files, on this thread.
		runtime.LockOSThread() // never unlocked: the thread ends with the test
		for at := dir; at != "/" && at != "."; at = filepath.Dir(at) {
			if st, err := os.Stat(at); err == nil && st.Mode().Perm()&0o005 != 0o005 && strings.Contains(at, "TestOpen") {
				must(t, os.Chmod(at, 0o755))
			}
		}
		must(t, syscall.Setfsuid(65534))
		defer syscall.Setfsuid(0)
	}
	_, err := Open(options(dir, vfs.NewMem()))
	if !errors.Is(err, fulcrum.ErrDisk) || !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "must be writable") {
		t.Fatalf("error %v", err)
	}
}

func TestAFailedOpenReleasesTheDirectory(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	must(t, open(t, o).Close())
	wrong := o
	wrong.Node = "n2"
	if _, err := Open(wrong); err == nil {
		t.Fatal("opened as another node")
	}
	must(t, open(t, o).Close())
}

func TestStoreInABubble(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewCrashableMem()
		s, err := Open(options(dir, fs))
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()

		l, st := mustLog(t, s, 1, 1, Fsync), mustState(t, s, 1, "")
		for i := uint64(1); i <= 50; i++ {
			must(t, l.Append(i, [][]byte{[]byte("r")}))
			must(t, st.Apply(i, []fulcrum.Entry{entry("k", "v", i)}, nil))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(2 * defaultCommitEvery)
		if st.Durable() != 50 {
			t.Errorf("durable %d two paces after the last apply, want 50", st.Durable())
		}
		cancel()
		must(t, <-ended)
		must(t, s.Close())
	})
}

func TestMetricsComeAndGo(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	o := options(t.TempDir(), vfs.NewMem())
	o.Registerer = reg
	s := open(t, o)
	must(t, mustLog(t, s, 1, 1, Fsync).Append(1, [][]byte{{1}}))
	st := mustState(t, s, 1, "")
	must(t, st.Apply(1, []fulcrum.Entry{entry("k", "v", 1)}, nil))
	got := gather(t, reg)
	if got["fulcrum_storage_commit_duration_seconds"] != 1 || got["fulcrum_storage_overlay_bytes"] == 0 || got["fulcrum_storage_disk_healthy"] != 1 {
		t.Errorf("metrics: %v", got)
	}
	must(t, st.Flush(t.Context()))
	got = gather(t, reg)
	if got["fulcrum_storage_engine_commit_duration_seconds"] != 1 || got["fulcrum_storage_overlay_bytes"] != 0 {
		t.Errorf("metrics after a flush: %v", got)
	}
	must(t, s.Close())
	open(t, o) // would fail if the names were still taken
}

// gather returns gauges by value and histograms by count.
func gather(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[f.GetName()] = m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}
