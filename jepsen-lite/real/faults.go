package real

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"fulcrum"
	"fulcrum/client"
)

// Inject makes a fault active on every node that runs, and on those that start or
// wake up later. Where it returns an error the fault may be active on some nodes; Heal
// ends it there.
func (w *World) Inject(ctx context.Context, f fulcrum.Fault) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	w.mu.Lock()
	if f.ID == "" {
		w.given++
		f.ID = fmt.Sprintf("jepsen-%s-%d", f.Kind, w.given)
	}
	taken := slices.ContainsFunc(w.faults, func(g fulcrum.Fault) bool { return g.ID == f.ID })
	w.mu.Unlock()
	if taken {
		return fulcrum.Errorf(fulcrum.CodeExists, "a fault with the id %q is active already", f.ID).WithHint("heal it first, or choose another id")
	}
	if w.net != nil && w.net.carries(f) {
		if err := w.net.apply(ctx, append(w.packetFaults(), f)); err != nil {
			return errors.Join(err, w.net.apply(ctx, w.packetFaults()))
		}
		w.note(f)
		return nil
	}
	err := w.tell(func(n fulcrum.NodeID) error { return w.add(ctx, n, f) })
	if errors.Is(err, fulcrum.ErrInvalid) {
		return err // it makes no sense, to any node
	}
	w.note(f)
	w.missed()
	return err
}

// tell calls f for all nodes that can hear of it. One that died meanwhile, as a node
// with a bad disk does, took its faults with it.
func (w *World) tell(f func(fulcrum.NodeID) error) error {
	return everywhere(w.awake(), func(n fulcrum.NodeID) error {
		err := f(n)
		if err != nil && !slices.Contains(w.Running(), n) {
			return nil
		}
		return err
	})
}

// note remembers a fault as active.
func (w *World) note(f fulcrum.Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, f)
	w.ours[f.ID] = true
}

// missed marks those that could not hear of a change of faults.
func (w *World) missed() {
	awake := w.awake()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.names {
		if !slices.Contains(awake, n) {
			w.outdated[n] = true
		}
	}
}

// add injects one fault into one node, which may have it already.
func (w *World) add(ctx context.Context, n fulcrum.NodeID, f fulcrum.Fault) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := w.cli.AddFault(ctx, n, f); err != nil && !errors.Is(err, fulcrum.ErrExists) {
		return err
	}
	return nil
}

// Heal ends the faults with these ids; without ids all of them: on a cluster of our
// own also those of others.
func (w *World) Heal(ctx context.Context, ids ...string) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	if len(ids) == 0 && w.cluster == nil {
		if ids = w.active(); len(ids) == 0 {
			return nil
		}
	}
	return w.heal(ctx, ids)
}

// heal ends faults on all nodes that can hear of it; no ids: all. It needs the turn.
func (w *World) heal(ctx context.Context, ids []string) error {
	w.mu.Lock()
	packets := false
	w.faults = slices.DeleteFunc(w.faults, func(f fulcrum.Fault) bool {
		gone := len(ids) == 0 || slices.Contains(ids, f.ID)
		packets = packets || gone && w.net != nil && w.net.carries(f)
		return gone
	})
	w.mu.Unlock()
	var errs []error
	if packets {
		errs = append(errs, w.net.apply(ctx, w.packetFaults()))
	}
	errs = append(errs, w.tell(func(n fulcrum.NodeID) error {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		return w.cli.HealFaults(ctx, n, ids...)
	}))
	w.missed()
	return errors.Join(errs...)
}

// agree makes the faults of a node those that are active: it may have been away while
// they changed.
func (w *World) agree(ctx context.Context, n fulcrum.NodeID) error {
	w.mu.Lock()
	want := slices.DeleteFunc(slices.Clone(w.faults), func(f fulcrum.Fault) bool { return w.net != nil && w.net.carries(f) })
	w.mu.Unlock()
	ask, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	has, err := w.cli.Faults(ask, n)
	if err != nil {
		return err
	}
	var old []string
	for _, f := range has {
		w.mu.Lock()
		ours := w.ours[f.ID]
		w.mu.Unlock()
		if ours && !slices.ContainsFunc(want, func(g fulcrum.Fault) bool { return g.ID == f.ID }) {
			old = append(old, f.ID)
		}
	}
	var errs []error
	if len(old) > 0 {
		errs = append(errs, w.cli.HealFaults(ask, n, old...))
	}
	for _, f := range want {
		errs = append(errs, w.add(ctx, n, f))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.outdated, n)
	return nil
}

// packetFaults lists the active faults that the network carries out.
func (w *World) packetFaults() []fulcrum.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.faults), func(f fulcrum.Fault) bool { return !w.net.carries(f) })
}

// Duplicate makes packets between nodes arrive twice; see nemesis.Cluster.
func (w *World) Duplicate(ctx context.Context, probability float64) error {
	if err := w.Can("packets"); err != nil {
		return err
	}
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	return w.net.duplicate(ctx, probability)
}

// Switch begins a change of mode. One that is under way to the same mode, or done, is
// no error.
func (w *World) Switch(ctx context.Context, keyspace, mode string) error {
	now, target, err := w.Mode(ctx, keyspace)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.modes[keyspace] = now
	w.mu.Unlock()
	if target == mode {
		return nil
	}
	err = fulcrum.Errorf(fulcrum.CodeUnavailable, "no node runs that could be asked")
	for _, n := range w.awake() {
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		ask, cancel := context.WithTimeout(ctx, askTime)
		_, err = w.cli.AlterKeyspace(ask, keyspace, fulcrum.KeyspacePatch{Mode: &mode}, client.On(n), client.NoRetry())
		cancel()
		if err == nil {
			return nil
		}
		if errors.Is(err, fulcrum.ErrConflict) || errors.Is(err, fulcrum.ErrInvalid) || errors.Is(err, fulcrum.ErrNotFound) {
			break // another node says the same
		}
	}
	// An answer that was lost, and our own request told twice, look like a failure.
	if _, target, modeErr := w.Mode(ctx, keyspace); modeErr == nil && target == mode {
		return nil
	}
	return err
}

// Create makes a keyspace, in the place of one of that name, and returns when every
// node that runs knows it and is ready. On a cluster that was not started here one that
// Create did not make is somebody's: that is an error, CodeExists.
func (w *World) Create(ctx context.Context, spec fulcrum.KeyspaceSpec) error {
	made, err := w.create(ctx, spec)
	if err != nil {
		return err
	}
	return everywhere(w.awake(), func(n fulcrum.NodeID) error {
		for {
			info, err := w.cli.Keyspace(ctx, spec.Name, client.On(n))
			if err == nil && info.ID != made.ID {
				err = fulcrum.Errorf(fulcrum.CodeUnavailable, "it still knows another keyspace %s", spec.Name)
			}
			if err == nil {
				if err = w.cli.Ready(ctx, n); err == nil {
					return nil
				}
			}
			if !rest(ctx) {
				return err
			}
		}
	})
}

// create makes the keyspace and notes its id. It goes on when ctx is cancelled: what was
// made and not noted would stay on a cluster that is not ours.
func (w *World) create(ctx context.Context, spec fulcrum.KeyspaceSpec) (fulcrum.KeyspaceInfo, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTime)
	defer cancel()
	made, err := w.cli.CreateKeyspace(ctx, spec) // asked first: a node that is behind does not know what there is
	if errors.Is(err, fulcrum.ErrExists) {
		if err := w.dropOld(ctx, spec.Name); err != nil {
			return made, err
		}
		made, err = w.cli.CreateKeyspace(ctx, spec)
	}
	if err != nil {
		return made, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made[spec.Name] = made.ID
	return made, nil
}

// dropOld drops a keyspace for another of its name, if it may.
func (w *World) dropOld(ctx context.Context, name string) error {
	w.mu.Lock()
	_, ours := w.made[name]
	w.mu.Unlock()
	if len(w.opt.Endpoints) > 0 && !ours {
		return fulcrum.Errorf(fulcrum.CodeExists, "the cluster has a keyspace %s already, which was not made here", name).
			WithHint("another test may be using it; where none runs and nobody needs its data: fulcrum keyspace drop %s --yes --endpoint %s", name, w.opt.Endpoints[0])
	}
	return w.cli.DropKeyspace(ctx, name)
}

// dropMade drops the keyspaces that Create made, unless others stand in their place.
func (w *World) dropMade(ctx context.Context) error {
	w.mu.Lock()
	made := maps.Clone(w.made)
	w.mu.Unlock()
	var errs []error
	for name, id := range made {
		info, err := w.cli.Keyspace(ctx, name)
		if err == nil && info.ID == id {
			if err = w.cli.DropKeyspace(ctx, name); err == nil {
				w.forgotten(ctx, name, id)
			}
		}
		if err != nil && !errors.Is(err, fulcrum.ErrNotFound) {
			errs = append(errs, fmt.Errorf("drop keyspace %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// forgotten waits until the nodes no longer list a keyspace that was dropped, so that
// whoever asks next finds the cluster as it was. One that cannot be asked is left out.
func (w *World) forgotten(ctx context.Context, name string, id uint32) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	_ = everywhere(w.awake(), func(n fulcrum.NodeID) error {
		for {
			info, err := w.cli.Keyspace(ctx, name, client.On(n))
			if err != nil || info.ID != id || !rest(ctx) {
				return nil
			}
		}
	})
}
