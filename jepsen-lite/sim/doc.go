// Package sim runs a whole cluster inside one testing/synctest bubble: nodes as
// users run them, on a network and a log disk in memory, so that nothing waits on
// the real world and virtual time can jump ahead.
//
// Start reading at Cluster; then Network, which it stands on.
package sim
