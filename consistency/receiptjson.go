package consistency

import (
	"encoding/json"
	"time"

	"fulcrum"
)

// receiptJSON is the JSON form of a Receipt. Names are stable.
type receiptJSON struct {
	Keyspace  string          `json:"keyspace"`
	Mode      Mode            `json:"mode"`
	Shard     fulcrum.GroupID `json:"shard"`
	Epoch     fulcrum.Epoch   `json:"epoch"`
	Level     Level           `json:"level"`
	Given     Level           `json:"given,omitzero"` // absent: the request failed
	Node      fulcrum.NodeID  `json:"node"`
	Leader    fulcrum.NodeID  `json:"leader,omitempty"`
	Acks      int             `json:"acks"`
	Needed    int             `json:"needed"`
	Replicas  int             `json:"replicas"`
	Version   fulcrum.Version `json:"version"`
	Found     bool            `json:"found"`
	Durable   string          `json:"durable,omitempty"`
	Staleness *float64        `json:"staleness_ms,omitempty"`   // absent: not known
	Bound     *float64        `json:"clock_bound_ms,omitempty"` // absent: it rests on no clock
	Hinted    int             `json:"hinted"`
	Repaired  int             `json:"repaired"`
	Siblings  int             `json:"siblings,omitempty"`
	Session   Token           `json:"session,omitempty"`
	Latency   int64           `json:"latency_us"`
}

// MarshalJSON writes r with stable snake_case names; staleness_ms is left out
// when it is not known.
func (r Receipt) MarshalJSON() ([]byte, error) {
	j := receiptJSON{r.Keyspace, r.Mode, r.Shard, r.Epoch, r.Level, r.Given, r.Node, r.Leader, r.Acks, r.Needed, r.Replicas,
		r.Version, r.Found, r.Durable, nil, nil, r.Hinted, r.Repaired, r.Siblings, r.Session, r.Latency.Microseconds()}
	if r.Staleness >= 0 {
		ms := float64(r.Staleness) / float64(time.Millisecond)
		j.Staleness = &ms
	}
	if r.ClockBound > 0 {
		ms := float64(r.ClockBound) / float64(time.Millisecond)
		j.Bound = &ms
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Receipt) UnmarshalJSON(b []byte) error {
	var j receiptJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*r = Receipt{j.Keyspace, j.Mode, j.Shard, j.Epoch, j.Level, j.Given, j.Node, j.Leader, j.Acks, j.Needed, j.Replicas,
		j.Version, j.Found, j.Durable, -1, 0, j.Hinted, j.Repaired, j.Siblings, j.Session, time.Duration(j.Latency) * time.Microsecond, nil}
	if j.Staleness != nil {
		r.Staleness = time.Duration(*j.Staleness * float64(time.Millisecond))
	}
	if j.Bound != nil {
		r.ClockBound = time.Duration(*j.Bound * float64(time.Millisecond))
	}
	return nil
}
