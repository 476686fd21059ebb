package sim_test

import (
	"context"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// "found" and "version" of a receipt are of what stands at the key once the request is
// done, whatever the request was.
func TestAReceiptTellsWhatStandsAtTheKey(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3, Seed: 1}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range map[string]consistency.Mode{"cp": consistency.Raft, "ap": consistency.Quorum, "lf": consistency.LeaderFollower} {
			create(t, c, name, mode)
			var stands fulcrum.Version
			for _, step := range []struct {
				what           string
				write          fulcrum.Write
				found, version bool // the version is there, and that of what stood there before
				atomic         bool
			}{
				{"delete of nothing", fulcrum.Write{Op: fulcrum.OpDelete}, false, false, false},
				{"put", fulcrum.Write{Op: fulcrum.OpPut, Value: []byte("v")}, true, false, false},
				{"quiet put", fulcrum.Write{Op: fulcrum.OpPut, Value: []byte("w"), Quiet: true}, true, false, false},
				{"put that is refused", fulcrum.Write{Op: fulcrum.OpPut, Value: []byte("x"), If: fulcrum.IfAbsent}, true, true, true},
				{"delete", fulcrum.Write{Op: fulcrum.OpDelete}, false, false, false},
				{"put that is refused, of nothing", fulcrum.Write{Op: fulcrum.OpPut, Value: []byte("x"), If: fulcrum.IfPresent}, false, true, true},
			} {
				if step.atomic && mode == consistency.Quorum {
					continue
				}
				step.write.Key = []byte("k")
				err := c.Call(context.Background(), "n2", func(ctx context.Context, b api.Backend) error {
					_, rc, err := b.Write(ctx, api.Call{Keyspace: name}, []fulcrum.Write{step.write})
					if err == nil && (rc.Found != step.found || (rc.Version == stands) != step.version) {
						t.Errorf("%s in %s: found %v, version %s, before %s; want found %v", step.what, name, rc.Found, rc.Version, stands, step.found)
					}
					stands = rc.Version
					return err
				})
				if err != nil {
					t.Errorf("%s in %s: %v", step.what, name, err)
				}
			}
		}
	})
}
