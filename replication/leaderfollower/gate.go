package leaderfollower

import "context"

// gate is a lock that may be held across disk work: whoever waits for it can give
// up, and a synctest bubble sees it as waiting.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) leave() { <-g }

// kick wakes a loop that waits on c, without waiting for it.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
