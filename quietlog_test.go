package fulcrum

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestQuietLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		q := NewQuietLog(slog.New(slog.NewTextHandler(&out, nil)))
		lines := func(want ...string) {
			t.Helper()
			got := strings.Split(strings.TrimSpace(out.String()), "\n")
			out.Reset()
			if len(got) != len(want) {
				t.Fatalf("%d lines, want %d: %v", len(got), len(want), got)
			}
			for i := range want {
				if !strings.HasSuffix(got[i], want[i]) {
					t.Errorf("%s; want ... %s", got[i], want[i])
				}
			}
		}
		for i := range 100 {
			q.Info("garbage", "i", i)
			q.Warn("refused", "i", i)
		}
		lines("level=INFO msg=garbage i=0", "level=WARN msg=refused i=0")
		time.Sleep(time.Second)
		q.Info("garbage", "i", 100)
		q.Info("garbage", "i", 101)
		lines("msg=garbage i=100 like_it_before=99")
		time.Sleep(time.Second)
		q.Info("garbage", "i", 102)
		lines("msg=garbage i=102 like_it_before=1")
		time.Sleep(time.Second)
		q.Info("garbage", "i", 103)
		lines("msg=garbage i=103")
	})
}
