package jepsen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/jepsen-lite/sim"
)

// SimOptions says where a simulation leaves what is not in memory.
type SimOptions struct {
	Dir    string       // for the engines' files; default: a new folder in memory where there is one (/dev/shm), else in the system's place
	Logger *slog.Logger // of the nodes; default: silent
	Tell   func(Progress)
}

// Simulate runs t on a cluster in virtual time. It is Run but for the cluster: hours
// take seconds. It opens a bubble of testing/synctest, also outside of tests, so ctx
// only says when to break off; nothing in the bubble waits for it.
//
// t must have been filled.
func Simulate(ctx context.Context, t Test, opt SimOptions) (h *history.History, plan *nemesis.Plan, err error) {
	dir := opt.Dir
	if dir == "" {
		if dir, err = memoryDir(); err != nil {
			return nil, nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	var stop atomic.Bool
	defer context.AfterFunc(ctx, func() { stop.Store(true) })()
	// A zero testing.T is enough for a bubble: nothing of it is used but to report.
	synctest.Test(new(testing.T), func(*testing.T) {
		inner, cancel := context.WithCancel(context.Background())
		over := make(chan struct{})
		go func() { // until over: brings the outside's wish to stop into the bubble
			for !stop.Load() {
				select {
				case <-over:
					return
				case <-time.After(time.Second):
				}
			}
			cancel()
			<-over
		}()
		h, plan, err = simulate(inner, t, dir, opt)
		cancel()
		close(over)
	})
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return h, plan, err
}

// memoryDir makes a folder for files that need not survive: syncs there cost nothing.
func memoryDir() (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", "fulcrum-sim-"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp("", "fulcrum-sim-")
}

func simulate(ctx context.Context, t Test, dir string, opt SimOptions) (*history.History, *nemesis.Plan, error) {
	openCtx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := sim.OpenCluster(openCtx, sim.ClusterOptions{Nodes: t.Nodes, Dir: filepath.Join(dir, "nodes"), Torn: t.Torn, Seed: t.Seed, Logger: opt.Logger})
	if err != nil {
		return nil, nil, fmt.Errorf("open the simulated cluster: %w", err)
	}
	h, plan, err := Run(ctx, t, sim.NewWorld(c), opt.Tell)
	return h, plan, errors.Join(err, c.Close())
}
