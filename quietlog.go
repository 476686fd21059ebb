package fulcrum

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// QuietLog lets one line of each kind a second through, so that a stranger at a port cannot
// fill the log. What was left out is counted in the next line of its kind.
type QuietLog struct {
	log *slog.Logger

	mu    sync.Mutex
	kinds map[string]*repeated // by message, of which there are few
}

type repeated struct {
	next    time.Time
	skipped int
}

// NewQuietLog returns a QuietLog that writes to log.
func NewQuietLog(log *slog.Logger) *QuietLog {
	return &QuietLog{log: log, kinds: map[string]*repeated{}}
}

// Info logs what is of no interest to an operator by itself. msg, a constant, is the kind.
func (q *QuietLog) Info(msg string, args ...any) { q.write(slog.LevelInfo, msg, args) }

// Warn logs what an operator will notice.
func (q *QuietLog) Warn(msg string, args ...any) { q.write(slog.LevelWarn, msg, args) }

func (q *QuietLog) write(level slog.Level, msg string, args []any) {
	skipped, ok := q.due(msg)
	if !ok {
		return
	}
	if skipped > 0 {
		args = append(args, "like_it_before", skipped)
	}
	q.log.Log(context.Background(), level, msg, args...)
}

// due reports whether a line of a kind may be written now, and how many were not.
func (q *QuietLog) due(kind string) (skipped int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	k := q.kinds[kind]
	if k == nil {
		k = &repeated{}
		q.kinds[kind] = k
	}
	now := time.Now()
	if now.Before(k.next) {
		k.skipped++
		return 0, false
	}
	skipped = k.skipped
	k.next, k.skipped = now.Add(time.Second), 0
	return skipped, true
}
