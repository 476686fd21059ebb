package lab

import (
	"slices"

	"fulcrum"
)

// chooseSides cuts nodes in two such that the larger side has a majority of every
// replica set. The smaller side takes nodes of prefer first, in that order: those
// whose loss is worth seeing.
func chooseSides(nodes, prefer []fulcrum.NodeID, sets [][]fulcrum.NodeID) (minority, majority []fulcrum.NodeID, err error) {
	if len(nodes) < 3 {
		return nil, nil, fulcrum.Errorf(fulcrum.CodeInvalid, "the cluster has %d nodes: a majority and a minority side need 3 at least", len(nodes)).
			WithHint("fulcrum lab run cap without --endpoint starts a cluster of its own")
	}
	fits := func(with fulcrum.NodeID) bool {
		for _, set := range sets {
			away := 0
			for _, n := range set {
				if n == with || slices.Contains(minority, n) {
					away++
				}
			}
			if 2*(len(set)-away) <= len(set) {
				return false
			}
		}
		return true
	}
	for _, n := range slices.Concat(prefer, nodes) {
		if len(minority) < (len(nodes)-1)/2 && slices.Contains(nodes, n) && !slices.Contains(minority, n) && fits(n) {
			minority = append(minority, n)
		}
	}
	if len(minority) == 0 {
		return nil, nil, fulcrum.Errorf(fulcrum.CodeInvalid, "no node can be cut off: a replica set has fewer than 3 replicas")
	}
	slices.Sort(minority)
	for _, n := range nodes {
		if !slices.Contains(minority, n) {
			majority = append(majority, n)
		}
	}
	slices.Sort(majority)
	return minority, majority, nil
}
