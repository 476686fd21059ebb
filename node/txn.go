package node

import (
	"context"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// Txn coordinates a transaction: see api.Backend.
func (n *Node) Txn(context.Context, api.Call, api.Txn) (api.TxnReply, consistency.Receipt, error) {
	return api.TxnReply{}, consistency.Receipt{}, fulcrum.Errorf(fulcrum.CodeMode, "transactions are not offered yet")
}
