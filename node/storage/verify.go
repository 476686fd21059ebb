package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// verifyLog refuses a log that has lost what was synced. Pebble takes whatever it
// cannot read for the torn end of the newest log or of the manifest, and goes on
// without the rest. Here that is allowed only where nothing proves that the rest
// had been synced: neither the file of synced, nor what stands behind the damage,
// nor a chunk that is right but for one bit.
//
// The torn ends are returned, to explain what pebble then may refuse by itself.
func verifyLog(fsys vfs.FS, dir string) (torn []string, err error) {
	known, _, err := readSynced(fsys, fsys.PathJoin(dir, syncedFile))
	if err != nil {
		return nil, diskError(err, "read %s", fsys.PathJoin(dir, syncedFile))
	}
	names, err := fsys.List(dir)
	if err != nil {
		return nil, diskError(err, "list %s", dir)
	}
	slices.Sort(names)
	manifest := currentManifest(names)
	if manifest == "" && known.wals[0].bytes > 0 {
		return nil, fulcrum.Errorf(fulcrum.CodeDisk, "%s names no manifest, and had one", dir).WithHint("%s", restoreHint)
	}
	for _, name := range names {
		if name != manifest && !isWAL(name) {
			continue
		}
		number, log := numberOf(name)
		synced, path := int64(known.of(number, log)), fsys.PathJoin(dir, name)
		e, err := verifyFile(fsys, path, chunkReader{manifest: !log, number: uint32(number)})
		if err != nil {
			return nil, diskError(err, "read %s", path)
		}
		if e.why == "" && synced > e.at+trailerSize(log) {
			e.why = fmt.Sprintf("%d bytes of it had been synced", synced)
		}
		if e.why != "" {
			return nil, fulcrum.Errorf(fulcrum.CodeDisk, "%s is damaged at offset %d: %s", path, e.at, e.why).WithHint("%s", restoreHint)
		}
		if e.torn {
			torn = append(torn, fmt.Sprintf("%s cannot be read from offset %d on", path, e.at))
		}
	}
	return torn, nil
}

// trailerSize is what may follow the last chunk of a log that was closed; nothing
// is lost with it.
func trailerSize(log bool) int64 {
	if log {
		return numberHeader
	}
	return 0
}

const rebuildHint = "the node rebuilds this replica from its peers by itself, once a majority of them is there"

const restoreHint = "restore the directory, or wipe it: the node then comes back as a new one and rebuilds from its peers"

func verifyFile(fsys vfs.FS, path string, r chunkReader) (ending, error) {
	f, err := fsys.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return ending{}, err
	}
	e, err := r.scan(f)
	return e, errors.Join(err, f.Close())
}

// currentManifest is the one that the newest marker names, "" without a marker: of
// marker.manifest.000007.MANIFEST-000012 the first number counts.
func currentManifest(names []string) (manifest string) {
	var newest uint64
	for _, name := range names {
		parts := strings.SplitN(name, ".", 4)
		if len(parts) != 4 || parts[0] != "marker" || parts[1] != "manifest" {
			continue
		}
		if n, err := strconv.ParseUint(parts[2], 10, 64); err == nil && n >= newest {
			newest, manifest = n, parts[3]
		}
	}
	return manifest
}
