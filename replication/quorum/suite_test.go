package quorum_test

import (
	"testing"

	"fulcrum/consistency"
	"fulcrum/replication/quorum"
	rt "fulcrum/replication/replicationtest"
)

func TestGroup(t *testing.T) {
	for _, k := range []consistency.Kind{consistency.QuorumOf, consistency.Linearizable} {
		t.Run(consistency.L(k).String(), func(t *testing.T) {
			rt.TestGroup(t, rt.Config{Open: open(quorum.Options{}), Write: consistency.L(k), Read: consistency.L(k), Weak: consistency.L(consistency.One)})
		})
	}
}
