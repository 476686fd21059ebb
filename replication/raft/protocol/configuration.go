package protocol

import (
	"encoding/binary"
	"fmt"
	"slices"

	"fulcrum"
)

// Member is a server of a configuration. One without a vote follows the log.
type Member struct {
	ID    fulcrum.NodeID
	Voter bool
}

// Configuration is who takes part.
type Configuration struct{ Members []Member }

// ConfigurationAt is a configuration at its place in the log.
type ConfigurationAt struct {
	Configuration
	Index uint64
}

const maxMembers = 1024

// Has reports whether id is a member.
func (c Configuration) Has(id fulcrum.NodeID) bool {
	return slices.ContainsFunc(c.Members, func(m Member) bool { return m.ID == id })
}

// Voter reports whether id has a vote.
func (c Configuration) Voter(id fulcrum.NodeID) bool {
	return slices.Contains(c.Members, Member{id, true})
}

// Voters returns those with a vote.
func (c Configuration) Voters() []fulcrum.NodeID {
	ids := make([]fulcrum.NodeID, 0, len(c.Members))
	for _, m := range c.Members {
		if m.Voter {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// quorum is how many voters are a majority.
func (c Configuration) quorum() int { return len(c.Voters())/2 + 1 }

// With returns the configuration with m in the place of a member of that name.
func (c Configuration) With(m Member) Configuration {
	out := c.Without(m.ID)
	out.Members = append(out.Members, m)
	return out
}

// Without returns the configuration without id.
func (c Configuration) Without(id fulcrum.NodeID) Configuration {
	return Configuration{slices.DeleteFunc(slices.Clone(c.Members), func(m Member) bool { return m.ID == id })}
}

// Append appends the configuration: the data of an entry of kind Members.
func (c Configuration) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(c.Members)))
	for _, m := range c.Members {
		var vote byte
		if m.Voter {
			vote = 1
		}
		b = fulcrum.AppendBytes(append(b, vote), []byte(m.ID))
	}
	return b
}

// ReadConfiguration reads what Append wrote.
func ReadConfiguration(r *fulcrum.Reader) (c Configuration, err error) {
	n := r.Uvarint()
	if n > maxMembers {
		return c, fmt.Errorf("configuration of %d servers: %w", n, fulcrum.ErrShort)
	}
	for range n {
		vote, id := r.Byte(), fulcrum.NodeID(r.String())
		if r.Err() != nil || vote > 1 || id == "" || c.Has(id) {
			return c, fmt.Errorf("server of a configuration: %w", fulcrum.ErrShort)
		}
		c.Members = append(c.Members, Member{id, vote == 1})
	}
	return c, r.Err()
}

// configure puts a configuration into force, at its place in the log.
func (r *Raft) configure(c ConfigurationAt) {
	r.conf.committed, r.conf.committedAtMost = r.conf.current, r.conf.index
	r.conf.current, r.conf.index = c.Configuration, c.Index
}

// configureFrom puts the configurations among entries into force. An entry that cannot
// be read does not get here: who reads entries checks them.
func (r *Raft) configureFrom(entries []Entry) {
	for _, e := range entries {
		if e.Kind != Members {
			continue
		}
		c, err := ReadConfiguration(fulcrum.NewReader(e.Data))
		if err != nil {
			r.broken = fmt.Errorf("entry %d: %w", e.Index, err)
			return
		}
		r.configure(ConfigurationAt{c, e.Index})
	}
}

// reconfigureAfterCut goes back to the configuration before one that is cut off: at most
// one is not committed.
func (r *Raft) reconfigureAfterCut(at uint64) {
	if r.conf.index > at {
		r.conf.current, r.conf.index = r.conf.committed, r.conf.committedAtMost
	}
}
