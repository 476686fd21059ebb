package quorum

import (
	"bytes"
	"context"
	"encoding/binary"

	"fulcrum"
	"fulcrum/replication"
)

// page is one replica's entries from a start key on, tombstones included, in key
// order. More says that there may be others behind the last.
type page struct {
	at      int
	entries []fulcrum.Entry
	more    bool
	err     error
}

func (p page) who() (int, error) { return p.at, p.err }

// Scan merges what enough replicas hold, in key order; see replication.Group. Each
// key keeps what Read promises at the level, repair included; the keys together are
// not one picture at one moment.
func (g *Group) Scan(ctx context.Context, req replication.ScanRequest) (replication.ScanReply, error) {
	ctx, cancel := deadline(ctx)
	defer cancel()
	level, n, reach, err := g.admitRead(ctx, req.Level, req.Min)
	if err != nil {
		return replication.ScanReply{}, err
	}
	out := replication.Outcome{Given: level, Needed: n.total(), Staleness: -1}
	page, now := replication.PageOf(req), g.env.Now().UnixMilli()
	for start := req.Start; !page.More; {
		pages, err := g.gatherPages(ctx, n, reach, start, req.End, page.Room()+1)
		if err != nil {
			return replication.ScanReply{}, err
		}
		merged, readings, next := mergePages(pages)
		repaired, err := g.repair(ctx, n, level, merged, readings)
		if err != nil {
			return replication.ScanReply{}, err
		}
		out.Acks, out.Repaired = len(pages), max(out.Repaired, repaired)
		for _, e := range merged {
			out.Position.Index = max(out.Position.Index, e.Version.Time)
			if e.Live(now) && !page.Take(e) {
				break
			}
		}
		if next == nil {
			break
		}
		start = next
	}
	if g.fenced.Load() {
		return replication.ScanReply{}, g.errFenced()
	}
	return replication.ScanReply{Entries: page.Entries, More: page.More, Outcome: out}, nil
}

// gatherPages asks for one page each of the replicas that the level needs.
func (g *Group) gatherPages(ctx context.Context, n need, reach set, start, end []byte, limit int) ([]page, error) {
	limit = min(limit, maxItems)
	own := page{at: g.topo.self}
	if reach.has(g.topo.self) {
		var err error
		if own.entries, own.more, err = g.scanHere(start, end, limit); err != nil {
			return nil, err
		}
		if n.met(set(0).with(g.topo.self)) {
			return []page{own}, nil
		}
	}
	msg := fulcrum.AppendBytes([]byte{kindScan}, start)
	msg = fulcrum.AppendBytes(msg, end)
	msg = binary.AppendUvarint(msg, uint64(limit))
	return collect(ctx, g, n, reach, own, func(ctx context.Context, p *peer) page {
		b, err := g.call(ctx, p, msg)
		if err != nil {
			return page{at: p.at, err: err}
		}
		pg := page{at: p.at}
		var rest []byte
		if pg.entries, rest, pg.err = decodeEntries(b); pg.err == nil && (len(rest) != 1 || (rest[0] == 1 && len(pg.entries) == 0)) {
			pg.err = fulcrum.ErrShort
		}
		pg.more = pg.err == nil && rest[0] == 1
		return pg
	})
}

// scanHere returns this replica's entries, tombstones included, up to the limit or
// a page's worth of bytes.
func (g *Group) scanHere(start, end []byte, limit int) (es []fulcrum.Entry, more bool, err error) {
	size := 0
	err = g.env.State.Scan(start, end, func(e fulcrum.Entry) bool {
		if len(es) == limit || (size > pageBytes && len(es) > 0) {
			more = true
			return false
		}
		es = append(es, cloned(e))
		size += entryBytes(e)
		return true
	})
	if err != nil {
		return nil, false, g.errorf(fulcrum.CodeDisk, "scan: %w", err)
	}
	return es, more, nil
}

// mergePages merges by version. A page that was cut off says nothing about keys
// behind its last, so the merge ends at the smallest last key of those; next is
// where to go on, nil when every page was whole. Readings are the pages in the form
// that repair takes.
func mergePages(pages []page) (merged []fulcrum.Entry, readings []reading, next []byte) {
	var last []byte
	for _, p := range pages {
		if p.more {
			if l := p.entries[len(p.entries)-1].Key; last == nil || bytes.Compare(l, last) < 0 {
				last = l
			}
		}
	}
	if last != nil {
		next = append(bytes.Clone(last), 0)
	}
	at := make([]int, len(pages))
	readings = make([]reading, len(pages))
	for i, p := range pages {
		readings[i].at = p.at
	}
	for {
		var newest fulcrum.Entry
		for i, p := range pages {
			if at[i] == len(p.entries) || (last != nil && bytes.Compare(p.entries[at[i]].Key, last) > 0) {
				continue
			}
			e := p.entries[at[i]]
			c := bytes.Compare(e.Key, newest.Key)
			if newest.Key == nil || c < 0 || (c == 0 && newest.Version.Less(e.Version)) {
				newest = e
			}
		}
		if newest.Key == nil {
			return merged, readings, next
		}
		merged = append(merged, newest)
		for i, p := range pages {
			a := answer{}
			if at[i] < len(p.entries) && bytes.Equal(p.entries[at[i]].Key, newest.Key) {
				a.version = p.entries[at[i]].Version
				at[i]++
			}
			readings[i].answers = append(readings[i].answers, a)
		}
	}
}
