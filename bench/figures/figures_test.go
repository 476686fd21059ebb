package figures

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCPUTime(t *testing.T) {
	d, err := cpuTime("4242 (a (strange) name) S 1 4242 4242 0 -1 4194560 1500 0 0 0 123 77 0 0 20 0 9 0 100 0")
	if err != nil || d != 2*time.Second {
		t.Errorf("%s, %v; want 2s", d, err)
	}
	for _, bad := range []string{"", "1 (x) S", "1 (x) S 1 1 1 0 -1 0 0 0 0 0 a b 0 0"} {
		if _, err := cpuTime(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := CPU(os.Getpid()); err != nil {
		t.Errorf("of this process: %v", err)
	}
}

func TestRatio(t *testing.T) {
	id := func(f float64) float64 { return f }
	r := Ratio([]float64{400, 1000, 300}, []float64{100, 200, 150}, id)
	if r.Median != 400.0/150 || r.Min != 2 || r.Max != 5 {
		t.Errorf("%+v; want the ratio of the medians, 2.67, between 2 and 5", r)
	}
	if r := Ratio([]float64{1}, []float64{0}, id); r != nil {
		t.Errorf("against nothing: %+v", r)
	}
	if s := SpreadOf([]float64{4, 1, 3, 2}, id); s != (Spread{2.5, 1, 4}) {
		t.Errorf("%+v", s)
	}
}

func TestInsert(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(path, []byte("before\n<!-- one: by hand -->\nold\n<!-- end of one -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Insert(path, "one", "new"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "before\n<!-- one: by hand -->\n\nnew\n<!-- end of one -->\nafter\n" {
		t.Errorf("%s", b)
	}
	if err := Insert(path, "two", "new"); err == nil {
		t.Error("a document without the comments is written to")
	}
}
