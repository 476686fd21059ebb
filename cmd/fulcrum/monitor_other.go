//go:build !linux

package main

// quietMonitor has nothing to set here: timer slack is Linux's.
func quietMonitor() {}
