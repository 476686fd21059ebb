package leaderfollower

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"fulcrum"
)

// lostWrite is one entry that this node ordered as a leader and that no later
// leader had. It is one line of the lost file.
type lostWrite struct {
	Group        fulcrum.GroupID `json:"group"`
	Epoch        fulcrum.Epoch   `json:"epoch"`
	Term         uint64          `json:"term"`
	Index        uint64          `json:"index"`
	Acknowledged string          `json:"acknowledged"` // yes; maybe: a restart forgot; no: its caller was told "unknown"
	Key          []byte          `json:"key"`          // base64, as JSON has no bytes
	Value        []byte          `json:"value"`
	Version      fulcrum.Version `json:"version"`
	Tombstone    bool            `json:"tombstone,omitempty"`
	ExpireAt     int64           `json:"expire_at,omitempty"`
	LostAt       time.Time       `json:"lost_at"`
}

// lostOf lists what this node had ordered of a tail that begins at index. What it
// acknowledged is known for this life; of earlier lives everything may have been.
func (g *Group) lostOf(index uint64, tail []record) (lost []lostWrite) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, r := range tail {
		at := index + uint64(i)
		if r.kind != kindWrite || r.leader != g.env.Node {
			continue
		}
		acked := "no"
		if _, ok := g.weakAcks[at]; ok {
			acked = "yes"
		} else if at <= g.openLast {
			acked = "maybe"
		}
		for _, e := range r.entries {
			lost = append(lost, lostWrite{Group: g.env.Group, Epoch: g.env.Epoch, Term: r.term >> lifeBits, Index: at, Acknowledged: acked,
				Key: e.Key, Value: e.Value, Version: e.Version, Tombstone: e.Tombstone, ExpireAt: e.ExpireAt, LostAt: g.env.Now().UTC()})
		}
	}
	return lost
}

// keepLost writes lost to LostDir, durably, and counts what was or may have been
// acknowledged. It comes before the truncation: a crash in between repeats both,
// so a write may be in the file twice and is never in it not at all.
func (g *Group) keepLost(lost []lostWrite) error {
	if len(lost) == 0 {
		return nil
	}
	files := map[uint64][]byte{}
	acked := 0
	for _, l := range lost {
		line, err := json.Marshal(l)
		if err != nil {
			return err
		}
		files[l.Term] = append(append(files[l.Term], line...), '\n')
		if l.Acknowledged != "no" {
			acked++
		}
	}
	if g.opt.LostDir != "" {
		if err := os.MkdirAll(g.opt.LostDir, 0o700); err != nil {
			return err
		}
		for term, lines := range files {
			name := fmt.Sprintf("lost-%d-%d-%d.jsonl", g.env.Group, g.env.Epoch, term)
			if err := appendSynced(filepath.Join(g.opt.LostDir, name), lines); err != nil {
				return err
			}
		}
		if err := syncDir(g.opt.LostDir); err != nil {
			return err
		}
	}
	g.env.Metrics.LostAcknowledged(acked)
	g.env.Logger.Warn("a former leadership of this node ordered writes that the new leader does not have; they are dropped here",
		"group", g.env.Group, "epoch", g.env.Epoch, "writes", len(lost), "acknowledged", acked, "kept_in", g.opt.LostDir)
	return nil
}

func appendSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
