package fulcrum

import "time"

// UntilBeat is how long from now until the next multiple of every on the wall clock: at
// least a quarter of it, at most five. What a node does again and again, it does at such
// instants. To wake an idle process up costs more than most of what it then does, so what
// is due at about the same time should be due at the same time; what goes to one peer
// then shares a frame, and the peers, whose clocks agree more or less, are awake, too.
//
// It is pace, not data: nothing but cost may rest on nodes or groups keeping in step. A
// clock that is set moves one beat.
func UntilBeat(now time.Time, every time.Duration) time.Duration {
	d := every - time.Duration(now.UnixNano()%int64(every))
	if d < every/4 { // a timer that rang a little early by this clock must not ring twice
		d += every
	}
	return d
}
