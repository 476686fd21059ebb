package node

import (
	"errors"
	"fmt"

	"fulcrum"
)

// sweep removes what a crash left on the disk between two steps, and nobody would ever look
// at again: logs of epochs before the one that a replica's State stands at, and what there
// is of groups whose keyspace was dropped. Numbers of groups only rise, so a group below the
// next one that this copy of the catalog does not have will not be there again.
func (h *host) sweep() error {
	groups, err := h.n.store.Groups()
	if err != nil {
		return err
	}
	st := h.n.machine.State()
	saved := false
	var errs []error
	for _, on := range groups {
		_, there := st.Group(on.Group)
		_, damaged := h.n.store.Damage(on.Group)
		if on.Group == fulcrum.CatalogGroup || on.Group >= st.NextGroup || damaged {
			continue // the node's own, not known yet here, or kept for whoever heals it
		}
		rec, err := h.record(on.Group)
		if err == nil && !there && !saved { // as in drop
			err, saved = h.n.saveCatalog(), true
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range on.Epochs {
			if !there || rec != nil && e < rec.Epoch {
				errs = append(errs, h.n.store.DropLog(on.Group, e))
			}
		}
		if !there && on.State {
			errs = append(errs, h.n.store.DropState(on.Group))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what is left of earlier replicas: %w", err)
	}
	return nil
}
