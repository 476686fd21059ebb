// Package sim holds what a whole cluster needs to run inside one
// testing/synctest bubble: a network in memory, so that nothing waits on the
// real world and virtual time can jump ahead.
//
// Start reading at Network.
package sim
