// Package replicationtest holds what every mode is tested with: a log, a state
// and a network in memory that can crash, fail and be cut, a Cluster that opens
// replicas over them, and TestGroup, the suite that each keeper of
// replication.Group passes.
//
// Everything runs inside a testing/synctest bubble: no socket, no file, and no
// goroutine outlives Cluster.Close.
//
// Start reading at TestGroup, or at NewCluster for a test of one mode alone.
package replicationtest
