package lab

import "time"

// probe is one outcome that a watch saw.
type probe struct {
	began, ended time.Duration // after the cut
	answered     bool
}

// watch is a row of probes of one operation on one side.
type watch struct {
	keyspace, side, operation, level string

	probes []probe
}

// lastRun is the first probe of the last run of equal outcomes, and how often the
// outcome changed before it. The zero probe when there is none.
func (w *watch) lastRun() (start probe, flips int) {
	for i, p := range w.probes {
		if i == 0 || p.answered != start.answered {
			if i > 0 {
				flips++
			}
			start = p
		}
	}
	return start, flips
}

// settled reports whether at the time now (after the cut) the outcome has been the
// same for calm.
func (w *watch) settled(now, calm time.Duration) bool {
	start, _ := w.lastRun()
	return len(w.probes) > 0 && now-start.ended >= calm
}

// change sums the watch up. A side ceased to answer before the first probe that was
// not answered began, and began to before the first that was had its answer.
func (w *watch) change() Change {
	start, flips := w.lastRun()
	at := start.began
	if start.answered {
		at = start.ended
	}
	return Change{Keyspace: w.keyspace, Side: w.side, Operation: w.operation, Level: w.level, Probes: len(w.probes),
		First: w.probes[0].answered, Last: start.answered, Flips: flips, At: seconds(at)}
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
