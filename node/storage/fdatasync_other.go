//go:build !linux

package storage

import "github.com/cockroachdb/pebble/v2/vfs"

func syncData(file vfs.File) error { return file.SyncData() }
