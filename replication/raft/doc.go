// Package raft keeps the replication contract with the Raft protocol: a majority
// of voters orders every write, and no linearizable read is ever stale.
//
// It stands on hashicorp/raft and replaces what that library leaves unsafe: reads
// are confirmed by a round of our own (confirm.go), heartbeats never run beside
// the main loop (transport.go), and a failing disk stops a replica before anybody
// hears from it again (store.go).
//
// Start reading at Group, the replica of one shard, or at Replica, the same log
// under a machine of the caller's. Both stand on core.
package raft
