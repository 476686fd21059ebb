package fulcrum_test

import (
	"testing"
	"time"

	"fulcrum"
)

func TestUntilBeat(t *testing.T) {
	at := func(d time.Duration) time.Time { return time.Unix(1e9, 0).Add(d) }
	tests := []struct {
		name string
		now  time.Time
		want time.Duration
	}{
		{"on the beat", at(0), time.Second},
		{"after it", at(10 * time.Millisecond), 990 * time.Millisecond},
		{"between two", at(700 * time.Millisecond), 300 * time.Millisecond},
		{"a little before it, which is as good as on it", at(999 * time.Millisecond), 1001 * time.Millisecond},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := fulcrum.UntilBeat(tc.now, time.Second); got != tc.want {
				t.Errorf("the next beat is in %v, want %v", got, tc.want)
			}
		})
	}
}
