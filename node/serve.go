package node

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrReopen is what Run ends with when the node is to be opened again, on the same data
// directory: Serve does so.
var ErrReopen = errors.New("the node's files must be opened again")

// How soon a node is opened again. What makes it necessary every time must not keep a
// machine busy; a node that ran for long begins anew with the short pause.
const (
	reopenPause     = time.Second
	reopenPauseMost = time.Minute
	reopenForgotten = 10 * time.Minute
)

// Serve opens a node, runs it until ctx ends, and closes it; a node that ends with
// ErrReopen is opened again. Each time it has new metrics, as after a restart of the
// process.
func Serve(ctx context.Context, opt Options) error {
	pause := reopenPause
	for {
		began := time.Now()
		err := serveOnce(ctx, opt)
		if !errors.Is(err, ErrReopen) || ctx.Err() != nil {
			return err
		}
		if time.Since(began) > reopenForgotten {
			pause = reopenPause
		}
		opt.Logger.Warn("the node is opened again", "node", opt.Name, "in", pause, "because", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, reopenPauseMost)
		opt.Registry = prometheus.NewRegistry()
	}
}

// DiskFull reports whether Open failed because there was no room on the disk.
func DiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func serveOnce(ctx context.Context, opt Options) error {
	n, err := Open(opt)
	if err != nil {
		return err
	}
	n.log.Info("node is starting", "opened_in", n.age(), "version", opt.Version, "redis", opt.RedisAddr, "http", opt.HTTPAddr,
		"peers", opt.PeerAddr, "gossip", opt.GossipAddr, "data", opt.Dir, "faults_allowed", opt.AllowFaults)
	err = n.Run(ctx)
	if cerr := n.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close: %w", cerr))
	}
	n.log.Info("node has stopped", "err", err)
	return err
}
