package local

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
)

func TestNodesShareTheCores(t *testing.T) {
	cores := runtime.NumCPU()
	for _, tt := range []struct {
		env   []string
		nodes int
		want  []string
	}{
		{[]string{"A=1"}, 1, []string{"A=1", fmt.Sprintf("GOMAXPROCS=%d", cores)}},
		{nil, cores, []string{"GOMAXPROCS=1"}},
		{nil, 10 * cores, []string{"GOMAXPROCS=1"}},
		{nil, 0, []string{fmt.Sprintf("GOMAXPROCS=%d", cores)}},
		{[]string{"GOMAXPROCS=7"}, 3, []string{"GOMAXPROCS=7"}},
	} {
		if got := WithShare(tt.env, tt.nodes); !slices.Equal(got, tt.want) {
			t.Errorf("%d nodes on %d cores with %v: %v, want %v", tt.nodes, cores, tt.env, got, tt.want)
		}
	}
}
