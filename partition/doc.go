// Package partition says which shard holds a key, and which nodes hold a shard.
//
// A Scheme turns a key into a token; a Table cuts the space of tokens into
// contiguous ranges, one a shard, and never changes: a new cut is a new Table
// with a higher epoch. Place chooses the nodes of a group, and Plan lists the moves
// between two placements. The package talks to nobody: membership decides when a
// new table is due, node carries the moves out.
//
// "Partition" here always means the data's. The network's is in node/fault.
//
// Start reading at Table.
package partition
