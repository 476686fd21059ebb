package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/bench"
	"fulcrum/bench/figures"
	"fulcrum/local"
)

const (
	startTimeout = time.Minute
	stopTimeout  = 15 * time.Second
)

// meter measures one series.
type meter struct {
	s       settings
	series  series
	errs    io.Writer
	rows    []*row
	version string

	dir     string // of the cluster that runs; empty: none does
	binary  string
	cluster *local.Cluster
}

// load is what clients do.
type load struct {
	name string
	args []string
}

// inTurns calls each as often as everything is to be measured.
func (m *meter) inTurns(each func() error) error {
	for range m.s.repeats {
		if err := each(); err != nil {
			return err
		}
	}
	return nil
}

// up starts a cluster, in the place of the one that runs.
func (m *meter) up(ctx context.Context, nodes int) (err error) {
	if err := m.end(); err != nil {
		return err
	}
	if m.binary, err = filepath.Abs(m.s.fulcrum); err != nil {
		return err
	}
	base, err := local.FreeBasePort(nodes)
	if err != nil {
		return err
	}
	if m.dir, err = os.MkdirTemp(m.s.dir, "fulcrum-growth-"); err != nil {
		return err
	}
	if m.version, err = m.command(ctx, "--version"); err != nil {
		return err
	}
	if _, err := m.command(ctx, "up", "--nodes", strconv.Itoa(nodes), "--base-port", strconv.Itoa(base), "-o", "json"); err != nil {
		return err
	}
	m.cluster, err = local.Load(m.dir)
	return err
}

// end stops the cluster and removes what it kept.
func (m *meter) end() error {
	if m.dir == "" {
		return nil
	}
	dir := m.dir
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	var err error
	if m.cluster != nil {
		_, err = m.command(ctx, "down")
	}
	m.dir, m.cluster = "", nil
	return errors.Join(err, os.RemoveAll(dir))
}

func (m *meter) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, m.binary, append([]string{"--data", m.dir}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopTimeout
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s (make build makes bin/fulcrum)", m.s.fulcrum, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// keyspace makes one and writes keys to it.
func (m *meter) keyspace(ctx context.Context, name string, keys int, size string, args ...string) error {
	if _, err := m.command(ctx, append([]string{"keyspace", "create", name, "--mode", "raft"}, args...)...); err != nil || keys == 0 {
		return err
	}
	fmt.Fprintf(m.errs, "  writing %s keys to %s\n", figures.Thousands(float64(keys)), name)
	_, err := m.command(ctx, "bench", "-o", "json", "-k", name, "--load", "--mix", "get", "--read-level", "one", "--ops", "1", "--warmup", "0s", "--clients", "32", "--pipeline", pipelineOf(size),
		"--keys", strconv.Itoa(keys), "--value-size", size, "--timeout", "1h")
	return err
}

// pipelineOf keeps what is under way of large values within what a node takes.
func pipelineOf(size string) string {
	if n, err := strconv.Atoi(size); err == nil && n > 4096 {
		return "1"
	}
	return "16"
}

// bench makes one measurement.
func (m *meter) bench(ctx context.Context, point string, do load, g goal, args ...string) error {
	before, err := m.used()
	if err != nil {
		return err
	}
	all := append([]string{"bench", "-o", "json", "--warmup", "500ms", "--duration", m.s.duration.String()}, append(do.args, args...)...)
	out, err := m.command(ctx, all...)
	if err != nil {
		return err
	}
	after, err := m.used()
	if err != nil {
		return err
	}
	var r bench.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return err
	}
	got := sample{Ops: r.OpsPerSec, P50: float64(r.Latency.P50), P99: float64(r.Latency.P99), Failed: r.Failed,
		CPU: (after - before).Seconds() * 1e6 / float64(max(r.Operations+r.Warmup, 1))}
	m.row(point, do.name, g).Samples = append(m.row(point, do.name, g).Samples, got)
	fmt.Fprintf(m.errs, "  %s, %s: %.0f ops/s, p50 %s, p99 %s\n", point, do.name, got.Ops, figures.Millis(r.Latency.P50), figures.Millis(r.Latency.P99))
	return nil
}

// plain notes one figure.
func (m *meter) plain(point, what string, value, most float64) {
	r := m.row(point, what, goal{most: most})
	r.Samples = append(r.Samples, sample{Value: value})
	fmt.Fprintf(m.errs, "  %s, %s: %.2f\n", point, what, value)
}

// used is the processor time of all nodes so far.
func (m *meter) used() (time.Duration, error) {
	var sum time.Duration
	for _, n := range m.cluster.Nodes {
		d, err := figures.CPU(n.PID)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// watch looks at nodes that have nothing to do: per cent of one core, and MiB of the largest.
func (m *meter) watch(ctx context.Context, after, during time.Duration) (used, resident float64, err error) {
	if err := pause(ctx, after); err != nil {
		return 0, 0, err
	}
	before, err := m.used()
	if err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, during); err != nil {
		return 0, 0, err
	}
	then, err := m.used()
	if err != nil {
		return 0, 0, err
	}
	for _, n := range m.cluster.Nodes {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.PID))
		if err != nil {
			return 0, 0, err
		}
		var size, pages int64
		if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
			return 0, 0, err
		}
		resident = max(resident, float64(pages*int64(os.Getpagesize()))/(1<<20))
	}
	return 100 * (then - before).Seconds() / during.Seconds(), resident, nil
}

// restart stops a node in order and says how many seconds it takes to be ready again, and
// how many GiB it holds.
func (m *meter) restart(ctx context.Context) (took, size float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*startTimeout)
	defer cancel()
	name := fulcrum.NodeID("n1")
	if err := m.cluster.Stop(ctx, name); err != nil {
		return 0, 0, err
	}
	n, err := m.cluster.Node(name)
	if err != nil {
		return 0, 0, err
	}
	err = filepath.WalkDir(n.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += float64(info.Size()) / (1 << 30)
		}
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	err = m.cluster.Start(ctx, name)
	return time.Since(begun).Seconds(), size, err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
