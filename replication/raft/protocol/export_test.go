package protocol

import "fulcrum"

// ProgressOf is what a leader knows of another replica; ok is false if it knows none.
func (r *Raft) ProgressOf(id fulcrum.NodeID) (match, next uint64, ok bool) {
	if p := r.peers[id]; p != nil {
		return p.match, p.next, true
	}
	return 0, 0, false
}

// CommittedConfiguration is the one to go back to when the one in force is cut off.
func (r *Raft) CommittedConfiguration() Configuration { return r.conf.committed }
