package node

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
	"fulcrum/node/catalog"
	"fulcrum/node/storage"
)

// A copy of the catalog from before a replica came here must not have it dropped: its mark
// is all that keeps it from voting anew in the epoch that it ran in.
func TestADamagedReplicaIsNotDroppedByAnOldCatalog(t *testing.T) {
	store, err := storage.Open(storage.Options{Dir: t.TempDir(), LogFS: vfs.NewMem(), ClusterID: "c", Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	log, err := store.Log(7, 3, storage.Fsync)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Reset(0); err != nil {
		t.Fatal(err)
	}
	h := newHost(&Node{store: store})
	for epoch, want := range map[fulcrum.Epoch]bool{2: true, 3: false, 4: false} {
		if got, err := h.ahead(&catalog.Shard{Group: 7, Epoch: epoch}); got != want || err != nil {
			t.Errorf("the copy is at epoch %d, the log at 3: %v, %v", epoch, got, err)
		}
	}
}
