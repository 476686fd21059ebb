package real

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/local"
)

// Running lists the nodes whose processes are there, paused ones included. Of a
// cluster that is not ours it lists all.
func (w *World) Running() []fulcrum.NodeID { return w.those(func(local.Node) bool { return true }) }

// awake lists the nodes that run and are not paused.
func (w *World) awake() []fulcrum.NodeID {
	return w.those(func(n local.Node) bool { return !n.Paused })
}

func (w *World) those(want func(local.Node) bool) []fulcrum.NodeID {
	if len(w.opt.Endpoints) > 0 {
		return slices.Clone(w.names)
	}
	w.mu.Lock()
	procs := make([]local.Node, 0, len(w.names))
	for _, name := range w.names {
		procs = append(procs, w.procs[name])
	}
	w.mu.Unlock()
	var out []fulcrum.NodeID
	for _, n := range procs {
		if want(n) && n.Running() {
			out = append(out, n.Name)
		}
	}
	return out
}

// Kill ends processes with SIGKILL, all at the same moment, and returns when they are
// gone. Those that do not run are left out.
func (w *World) Kill(ctx context.Context, nodes ...fulcrum.NodeID) error {
	return w.change(ctx, "kill", nodes, func(n local.Node) bool { return n.Running() }, func(nodes []fulcrum.NodeID) error {
		w.lastLook(ctx, nodes)
		err := w.cluster.Kill(ctx, nodes...)
		return errors.Join(err, w.ended(nodes, "kill"))
	})
}

// Stop ends processes in order (SIGTERM), all at the same moment, and returns when they
// are gone. Those that do not run are left out.
func (w *World) Stop(ctx context.Context, nodes ...fulcrum.NodeID) error {
	return w.change(ctx, "kill", nodes, func(n local.Node) bool { return n.Running() }, func(nodes []fulcrum.NodeID) error {
		w.lastLook(ctx, nodes)
		err := w.cluster.Stop(ctx, nodes...)
		return errors.Join(err, w.ended(nodes, ""))
	})
}

// ended folds the lives of nodes that are gone, and counts those deaths as kind.
func (w *World) ended(nodes []fulcrum.NodeID, kind string) error {
	w.remember()
	for _, name := range nodes {
		n, err := w.cluster.Node(name)
		if err != nil {
			return err
		}
		if n.Running() {
			continue
		}
		w.mu.Lock()
		w.lifeOf(name).end()
		w.died[name] = time.Now()
		delete(w.outdated, name) // it forgets its faults with its life
		if kind != "" {
			w.seen[kind]++
		}
		w.mu.Unlock()
	}
	return nil
}

// Start starts processes that do not run, and returns when their ports answer and the
// faults that are active are injected into them. That does not mean that they are
// ready. The error of a node that ended at once holds the end of its log. A node that
// was wiped is started once the others no longer take its former self to be alive:
// before that they turn it away.
func (w *World) Start(ctx context.Context, nodes ...fulcrum.NodeID) error {
	return w.change(ctx, "kill", nodes, func(n local.Node) bool { return !n.Running() }, func(nodes []fulcrum.NodeID) error {
		ctx, cancel := context.WithTimeout(ctx, startTime)
		defer cancel()
		var errs []error
		var launched []fulcrum.NodeID
		for _, name := range nodes {
			w.waitForgotten(ctx, name)
			if err := w.launch(ctx, name); err != nil {
				errs = append(errs, err)
				continue
			}
			launched = append(launched, name)
		}
		w.remember()
		w.mu.Lock()
		for _, name := range launched {
			w.lifeOf(name).end() // it may have died by itself
		}
		w.mu.Unlock()
		errs = append(errs, everywhere(launched, func(name fulcrum.NodeID) error {
			n, err := w.cluster.Node(name)
			if err != nil {
				return err
			}
			if err := answers(ctx, *n); err != nil {
				return err
			}
			if err := w.agree(ctx, name); err != nil {
				if !n.Running() { // its port opens before its files do
					return gaveUp(*n)
				}
				return err
			}
			return nil
		}))
		return errors.Join(errs...)
	})
}

// gaveUp is the error of a node that ended while it started.
func gaveUp(n local.Node) error {
	return fulcrum.Errorf(fulcrum.CodeDisk, "it ended at once; the end of %s:\n%s", n.Log, tail(n.Log)).
		WithHint("when its files are damaged: wipe it, and it rebuilds from the others")
}

// waitForgotten waits, if a node was wiped, until the lease of its former self is over
// for the node that leads the catalog.
func (w *World) waitForgotten(ctx context.Context, name fulcrum.NodeID) {
	w.mu.Lock()
	wiped, died := w.wiped[name], w.died[name]
	delete(w.wiped, name)
	w.mu.Unlock()
	if !wiped {
		return
	}
	left := time.NewTimer(time.Until(died.Add(forgetTime)))
	defer left.Stop()
	select {
	case <-left.C:
	case <-ctx.Done():
	}
}

// answers waits until a node's HTTP port takes connections, or the process ends.
func answers(ctx context.Context, n local.Node) error {
	d := net.Dialer{Timeout: askTime}
	for {
		if !n.Running() {
			return gaveUp(n)
		}
		c, err := d.DialContext(ctx, "tcp", n.HTTPAddr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "%s does not answer: %w", n.HTTPAddr, err).WithHint("its log is %s", n.Log)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tail is the end of a log.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// portTime is what a port of a node that has just ended gets to be free again.
const portTime = 5 * time.Second

// launch starts a node's process. That its ports are still held, by its last life or by
// somebody who looks for free ones just then, passes.
func (w *World) launch(ctx context.Context, name fulcrum.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, portTime)
	defer cancel()
	for {
		err := w.cluster.Launch(name)
		if !errors.Is(err, fulcrum.ErrExists) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Pause stops processes where they stand (SIGSTOP) and returns when the kernel says
// that they stand still.
func (w *World) Pause(ctx context.Context, nodes ...fulcrum.NodeID) error {
	return w.change(ctx, "pause", nodes, func(n local.Node) bool { return n.Running() && !n.Paused }, func(nodes []fulcrum.NodeID) error {
		w.lastLook(ctx, nodes)
		var errs []error
		for _, name := range nodes {
			errs = append(errs, w.cluster.Pause(name))
		}
		w.remember()
		for _, name := range nodes {
			n, err := w.cluster.Node(name)
			if err == nil && n.Paused {
				err = w.stands(ctx, *n)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// stands waits until a process has the state T, and counts it.
func (w *World) stands(ctx context.Context, n local.Node) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	for {
		state, err := stateOf(n.PID)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		if state == 'T' {
			w.count("pause", 1)
			return nil
		}
		select {
		case <-ctx.Done():
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "%s (pid %d) is in state %c, not stopped", n.Name, n.PID, state)
		case <-time.After(time.Millisecond):
		}
	}
}

// stateOf reads a process's state: the letter behind its name, which stands in
// brackets and may hold anything; see proc(5).
func stateOf(pid int) (byte, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 || i+2 >= len(b) {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	return b[i+2], nil
}

// Resume lets paused processes go on, and tells them of faults that came and went
// meanwhile.
func (w *World) Resume(ctx context.Context, nodes ...fulcrum.NodeID) error {
	return w.change(ctx, "pause", nodes, func(n local.Node) bool { return n.Running() && n.Paused }, func(nodes []fulcrum.NodeID) error {
		var errs []error
		for _, name := range nodes {
			errs = append(errs, w.cluster.Resume(name))
		}
		w.remember()
		errs = append(errs, everywhere(nodes, func(name fulcrum.NodeID) error {
			w.mu.Lock()
			outdated := w.outdated[name]
			w.mu.Unlock()
			if !outdated {
				return nil
			}
			return w.agree(ctx, name)
		}))
		return errors.Join(errs...)
	})
}

// change calls do, in its turn, with those of nodes for which it makes sense; none is
// no error.
func (w *World) change(ctx context.Context, what string, nodes []fulcrum.NodeID, sense func(local.Node) bool, do func([]fulcrum.NodeID) error) error {
	if err := w.Can(what); err != nil {
		return err
	}
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	var chosen []fulcrum.NodeID
	for _, name := range nodes {
		n, err := w.cluster.Node(name)
		if err != nil {
			return err
		}
		if sense(*n) && !slices.Contains(chosen, name) {
			chosen = append(chosen, name)
		}
	}
	if len(chosen) == 0 {
		return nil
	}
	return do(chosen)
}
