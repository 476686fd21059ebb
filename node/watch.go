package node

import (
	"context"

	"fulcrum"
	"fulcrum/node/api"
)

// Watch tells changes: see api.Backend.
func (n *Node) Watch(context.Context, api.Call, api.Watch, func(api.WatchBatch) error) error {
	return fulcrum.Errorf(fulcrum.CodeMode, "watches are not offered yet")
}
