package raft_test

import (
	"testing"

	"fulcrum/consistency"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

func TestKeepsTheContract(t *testing.T) {
	replicationtest.TestGroup(t, replicationtest.Config{
		Open: opener(raft.Tuning{}), Write: consistency.L(consistency.QuorumOf), Read: consistency.L(consistency.Linearizable),
		Atomic: true, Logged: true,
	})
}
