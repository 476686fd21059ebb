package local

import (
	"context"
	"os"
	"testing"
	"time"

	"fulcrum"
)

// TestMain makes this program a node that does nothing, when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		time.Sleep(time.Minute)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A command that ends does not undo what another one wrote down meanwhile: a node whose
// process is forgotten would run on, and nobody would stop it.
func TestCommandsSideBySide(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	base, err := FreeBasePort(3)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	made := &Cluster{ID: "c", Dir: dir, Binary: binary, BasePort: base, Nodes: []Node{newNode(dir, base, 1, ""), newNode(dir, base, 2, "")}}
	if err := made.Save(); err != nil {
		t.Fatal(err)
	}
	load := func() *Cluster {
		t.Helper()
		c, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Cleanup(func() {
		if err := load().Down(context.Background(), false); err != nil {
			t.Error(err)
		}
	})
	first, second := load(), load()
	if err := first.Launch("n1"); err != nil {
		t.Fatal(err)
	}
	if err := second.Launch("n2"); err != nil {
		t.Fatal(err)
	}
	runs := func(when string, want map[fulcrum.NodeID]bool) {
		t.Helper()
		for _, n := range load().Nodes {
			if n.Running() != want[n.Name] {
				t.Errorf("%s: %s (pid %d) runs, as far as is written down: %v", when, n.Name, n.PID, n.Running())
			}
		}
	}
	runs("both were started", map[fulcrum.NodeID]bool{"n1": true, "n2": true})
	if err := first.Kill(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	runs("n1 was killed", map[fulcrum.NodeID]bool{"n2": true})
	if err := second.Launch("n1"); err != nil {
		t.Fatal(err)
	}
	if err := first.Launch("n1"); err == nil {
		t.Error("n1 was started twice")
	}
}
