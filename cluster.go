package fulcrum

import "time"

// The types below are what HTTP, the CLI and the Go client say to each other about
// the cluster, in JSON. Names are stable; fields are only ever added.

// ClusterInfo is GET /v1/cluster: one node's view of the whole.
type ClusterInfo struct {
	ClusterID     string         `json:"cluster_id"`
	Node          NodeID         `json:"node"`           // who says so
	CatalogLeader NodeID         `json:"catalog_leader"` // empty: none known
	CatalogIndex  uint64         `json:"catalog_index"`
	FaultsAllowed bool           `json:"faults_allowed"`
	Version       string         `json:"version"`
	Nodes         []NodeInfo     `json:"nodes"`
	Keyspaces     []KeyspaceInfo `json:"keyspaces"`
	Faults        []Fault        `json:"faults"`
}

// NodeInfo is one node of GET /v1/nodes.
type NodeInfo struct {
	Name       NodeID  `json:"name"`
	Zone       string  `json:"zone,omitempty"`
	RedisAddr  string  `json:"redis_addr"`
	HTTPAddr   string  `json:"http_addr"`
	PeerAddr   string  `json:"peer_addr"`
	GossipAddr string  `json:"gossip_addr"`
	Voter      bool    `json:"catalog_voter"`
	Live       bool    `json:"live"`   // its liveness lease holds, as far as the asked node knows
	Gossip     string  `json:"gossip"` // alive, suspect, dead or unknown: an opinion
	Epoch      uint64  `json:"liveness_epoch"`
	Replicas   int     `json:"replicas"`
	Leaders    int     `json:"leaders"`
	Self       bool    `json:"self,omitempty"`
	State      string  `json:"state"` // active or removing
	Actor      uint32  `json:"actor"`
	SeenAgo    float64 `json:"seen_seconds_ago"` // since gossip or a message last showed it alive; -1: never
}

// KeyspaceInfo is one keyspace of GET /v1/keyspaces.
type KeyspaceInfo struct {
	Name       string      `json:"name"`
	ID         uint32      `json:"id"` // its Redis database number
	Mode       string      `json:"mode"`
	Target     string      `json:"target_mode"` // differs from Mode while it is being switched
	ShardBy    string      `json:"shard_by"`
	Shards     int         `json:"shards"`
	Replicas   int         `json:"replicas"`
	Placed     int         `json:"replicas_placed"` // of the shard that has the fewest; below Replicas until there are nodes enough
	ReadLevel  string      `json:"read_level"`
	WriteLevel string      `json:"write_level"`
	Durability string      `json:"durability"`
	Conflict   string      `json:"conflict"`
	Engine     string      `json:"engine"`
	Switch     *SwitchInfo `json:"switch,omitempty"` // the last or current switch
	ShardList  []ShardInfo `json:"shard_list,omitempty"`
}

// SwitchInfo is the progress of a mode switch.
type SwitchInfo struct {
	From      string    `json:"from"`
	To        string    `json:"to"`
	State     string    `json:"state"` // running, done, aborting or aborted
	Done      int       `json:"shards_done"`
	Total     int       `json:"shards_total"`
	Started   time.Time `json:"started"`
	Finished  time.Time `json:"finished,omitzero"`
	LateKeys  int       `json:"late_writes"` // handed over by replicas that came back
	Conflicts int       `json:"conflicts"`
	Message   string    `json:"message,omitempty"` // what it is waiting for
}

// ShardInfo is one shard of GET /v1/shards.
type ShardInfo struct {
	Group    GroupID       `json:"group"`
	Keyspace string        `json:"keyspace"`
	Start    string        `json:"start"` // token, quoted as Go does
	End      string        `json:"end"`   // empty: no end
	Mode     string        `json:"mode"`
	Epoch    Epoch         `json:"epoch"`
	Phase    string        `json:"phase"` // active, fencing or reconciling
	Leader   NodeID        `json:"leader,omitempty"`
	Replicas []ReplicaInfo `json:"replicas"`
	Learners []ReplicaInfo `json:"learners,omitempty"` // are being filled, without a vote, to be replicas
}

// ReplicaInfo is one replica of a shard. Fields but Node are zero where the asked
// node does not know them.
type ReplicaInfo struct {
	Node       NodeID  `json:"node"`
	Known      bool    `json:"known"` // the figures below were reported
	Leader     bool    `json:"leader,omitempty"`
	CatchingUp bool    `json:"catching_up,omitempty"`
	Applied    uint64  `json:"applied"`
	Behind     uint64  `json:"behind"`
	BehindFor  float64 `json:"behind_seconds"`
	Keys       int     `json:"keys"`
	Bytes      int64   `json:"bytes"`
	Hints      int     `json:"hints"`
	Damaged    string  `json:"damaged,omitempty"` // what of its data, which is to be rebuilt from the other replicas
}

// KeyspaceSpec is the body of POST /v1/keyspaces. Empty fields take defaults.
type KeyspaceSpec struct {
	Name       string `json:"name"`
	Mode       string `json:"mode,omitempty"`     // raft
	ShardBy    string `json:"shard_by,omitempty"` // hash
	Shards     int    `json:"shards,omitempty"`   // 4
	Replicas   int    `json:"replicas,omitempty"` // 3, or fewer nodes if there are fewer
	ReadLevel  string `json:"read_level,omitempty"`
	WriteLevel string `json:"write_level,omitempty"`
	Durability string `json:"durability,omitempty"` // fsync
	Conflict   string `json:"conflict,omitempty"`   // lww
	Engine     string `json:"engine,omitempty"`     // bbolt
	Home       string `json:"home,omitempty"`       // zone sharding: where unprefixed keys live
}

// KeyspacePatch is the body of PATCH /v1/keyspaces/{name}. Nil fields stay.
type KeyspacePatch struct {
	Mode       *string `json:"mode,omitempty"` // starts the online switch
	Abort      bool    `json:"abort,omitempty"`
	ReadLevel  *string `json:"read_level,omitempty"`
	WriteLevel *string `json:"write_level,omitempty"`
	Durability *string `json:"durability,omitempty"`
	Conflict   *string `json:"conflict,omitempty"`
}

// Fault is one injected failure: what POST /v1/faults takes and GET lists.
type Fault struct {
	ID    string     `json:"id,omitempty"`    // given by the CLI, the same on every node
	Kind  string     `json:"kind"`            // partition, isolate, link, clock or disk
	Sides [][]NodeID `json:"sides,omitempty"` // partition: nodes of different sides cannot talk; nodes in none talk to all

	Node   NodeID `json:"node,omitempty"` // isolate, clock, disk
	From   NodeID `json:"from,omitempty"` // link
	To     NodeID `json:"to,omitempty"`
	OneWay bool   `json:"oneway,omitempty"` // link: only From to To

	Drop   bool     `json:"drop,omitempty"`
	Delay  Duration `json:"delay,omitempty"`
	Jitter Duration `json:"jitter,omitempty"` // uniform in [0, Jitter), added to Delay
	Loss   float64  `json:"loss,omitempty"`   // 0..1: of packets lost; on TCP it shows as retransmission delay
	Rate   int64    `json:"rate,omitempty"`   // bytes a second; 0: no limit
	Only   string   `json:"only,omitempty"`   // "", "peers" or "gossip"

	Skew  Duration `json:"skew,omitempty"`  // clock
	Stall Duration `json:"stall,omitempty"` // disk: each sync takes this much longer
	Full  bool     `json:"full,omitempty"`  // disk: writes fail as on a full disk
	Fail  bool     `json:"fail,omitempty"`  // disk: syncs fail

	Since time.Time `json:"since,omitzero"`
}

// Duration is a time.Duration that reads and writes JSON as "100ms".
type Duration time.Duration

// MarshalText writes the form of time.Duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads the form of time.Duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Health is what /livez and /readyz report of one check; Err is empty when it passes.
type Health struct {
	Check string `json:"check"`
	Err   string `json:"error,omitempty"`
}
