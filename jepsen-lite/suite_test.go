package jepsen_test

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	jepsen "fulcrum/jepsen-lite"
	"fulcrum/jepsen-lite/checker"
)

// TestQuickSuite is every workload, nemesis and mode in virtual time: the gate that
// every change passes. JEPSEN_TIME makes each test longer or shorter.
func TestQuickSuite(t *testing.T) {
	per := jepsen.QuickTime
	if v := os.Getenv("JEPSEN_TIME"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		per = d
	}
	store, err := os.MkdirTemp("", "fulcrum-jepsen-")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := jepsen.RunSuite(t.Context(), jepsen.Suite(true, per, 1), jepsen.SuiteOptions{Workers: runtime.GOMAXPROCS(0), Store: store, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range sum.Cases {
		if c.Err != "" {
			t.Errorf("%s: %s\n  report: %s\n  again:  %s", c.Name, c.Err, c.Dir, c.Again)
		}
	}
	t.Logf("%d tests, %.1f virtual cluster-hours, %d operations, %d faults in %.0f s", len(sum.Cases), sum.VirtualHours, sum.Operations, sum.Faults, sum.Seconds)
	if !t.Failed() {
		_ = os.RemoveAll(store)
	}
	var m runtime.MemStats
	if runtime.ReadMemStats(&m); m.HeapSys > 2*jepsen.SuiteMemory {
		t.Errorf("the heap has grown to %d MiB", m.HeapSys>>20)
	}
	if hours := per.Hours() * float64(len(sum.Cases)); sum.VirtualHours < hours*0.9 {
		t.Errorf("%.1f virtual hours: want about %.1f", sum.VirtualHours, hours)
	}
}

// A weak level must be seen to fail. A session without its token fails without any
// fault too, so it is no example.
func TestACaseThatMustShowAnAnomalyFailsWithoutIt(t *testing.T) {
	for _, c := range jepsen.Suite(true, time.Minute, 1) {
		if c.Shows == "" {
			continue
		}
		c.Test.Nemeses = nil // nothing is broken: nothing can be shown
		if strings.Contains(c.Name(), "staleness_quorum") || strings.Contains(c.Name(), "durability") {
			sum, err := jepsen.RunSuite(t.Context(), []jepsen.Case{c}, jepsen.SuiteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := sum.Cases[0]; got.Err == "" || sum.Verdict == checker.Valid {
				t.Errorf("%s: passes though nothing was broken", got.Name)
			}
		}
	}
}
