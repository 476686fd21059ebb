// Package raft keeps the replication contract with the Raft protocol: a majority
// of voters orders every write, and no linearizable read is ever stale.
//
// What is said, stored and committed when is decided by package protocol, a pure state
// machine. Here it is put to work: its events are handled one at a time (instance.go),
// its messages go out and come in (outbound.go, inbound.go), its log is kept (store.go,
// durable.go), and what is committed is applied (apply.go). What goes beyond it is here,
// too: a round that confirms reads (confirm.go), leases (lease.go), hand-overs
// (handover.go), and a leader whose disk stands still (stall.go). A failing disk stops a
// replica before anybody hears from it again (store.go).
//
// All of it is simulated from seeds, over disks, networks and machines that misbehave
// (sim_test.go), as the protocol is by itself.
//
// Start reading at Group, the replica of one shard, or at Replica, the same log
// under a machine of the caller's. Both stand on core.
package raft
