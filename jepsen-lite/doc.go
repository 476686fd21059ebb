// Package jepsen runs a workload against a cluster while a nemesis breaks it, records
// what every client saw, and has the record judged. The cluster is simulated (sim) or
// of real processes (real); workloads, nemeses, checkers and reports are the same.
//
// Start reading at Test, which says what to run, and Run. Suite lists the tests that
// must hold, with the weaker levels that must be seen to fail.
package jepsen
