package real

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"fulcrum"
)

// maxAnswer bounds what is read of a node's answer, in bytes.
const maxAnswer = 16 << 20

// get reads a page of one node.
func (w *World) get(ctx context.Context, n fulcrum.NodeID, path string) ([]byte, error) {
	rq, err := http.NewRequestWithContext(ctx, http.MethodGet, w.at[n].http+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := w.http.Do(rq)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s of %s answers %s", path, n, res.Status)
	}
	return body, err
}

// ask reads a JSON page of every node that is awake, at a time; who does not answer is
// left out.
func ask[T any](ctx context.Context, w *World, path string) (map[fulcrum.NodeID]T, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var mu sync.Mutex
	out := map[fulcrum.NodeID]T{}
	err := everywhere(w.awake(), func(n fulcrum.NodeID) error {
		body, err := w.get(ctx, n, path)
		if err != nil {
			return err
		}
		var v T
		if err := json.Unmarshal(body, &v); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		out[n] = v
		return nil
	})
	return out, err
}

// Leader is the leader of the keyspace's first shard, or of the catalog, that most
// nodes name; "" when none is named.
func (w *World) Leader(ctx context.Context, keyspace string) fulcrum.NodeID {
	votes := map[fulcrum.NodeID]int{}
	if keyspace == "" {
		infos, _ := ask[fulcrum.ClusterInfo](ctx, w, "/v1/cluster")
		for _, info := range infos {
			votes[info.CatalogLeader]++
		}
		return most(votes)
	}
	shards, _ := ask[[]fulcrum.ShardInfo](ctx, w, "/v1/shards?keyspace="+url.QueryEscape(keyspace))
	for _, list := range shards {
		if len(list) > 0 {
			votes[list[0].Leader]++
		}
	}
	return most(votes)
}

// most is the winner of a vote, the first by name of those with as many; abstentions
// do not count.
func most(votes map[fulcrum.NodeID]int) (winner fulcrum.NodeID) {
	delete(votes, "")
	for n, v := range votes {
		if winner == "" || v > votes[winner] || v == votes[winner] && n < winner {
			winner = n
		}
	}
	return winner
}

// Mode is the keyspace's mode and the one that it is on its way to, as the node says
// whose catalog is the newest.
func (w *World) Mode(ctx context.Context, keyspace string) (now, target string, err error) {
	infos, err := ask[fulcrum.ClusterInfo](ctx, w, "/v1/cluster")
	if len(infos) == 0 {
		return "", "", errors.Join(fulcrum.Errorf(fulcrum.CodeUnavailable, "no node answers"), err)
	}
	var newest uint64
	found := false
	for _, info := range infos {
		for _, ks := range info.Keyspaces {
			if ks.Name == keyspace && (!found || info.CatalogIndex > newest) {
				found, newest, now, target = true, info.CatalogIndex, ks.Mode, ks.Target
			}
		}
	}
	if !found {
		return "", "", fulcrum.Errorf(fulcrum.CodeNotFound, "no keyspace %q", keyspace)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if last, ok := w.modes[keyspace]; ok && last != now {
		w.modes[keyspace] = now
		w.seen["switch"]++
	}
	return now, target, nil
}

// life is a node's counters: those of its process now, and the sum of its earlier ones.
type life struct{ before, now map[string]int64 }

// lifeOf needs mu.
func (w *World) lifeOf(n fulcrum.NodeID) *life {
	if w.lives[n] == nil {
		w.lives[n] = &life{before: map[string]int64{}, now: map[string]int64{}}
	}
	return w.lives[n]
}

// update takes in what a process counts. A counter that fell means that it is another
// process, of whose predecessor only the last look is known.
func (l *life) update(counts map[string]int64) {
	for kind, v := range l.now {
		if counts[kind] < v {
			l.end()
			break
		}
	}
	l.now = counts
}

// end folds the counters of a process that is gone.
func (l *life) end() {
	for kind, v := range l.now {
		l.before[kind] += v
	}
	l.now = map[string]int64{}
}

// count adds to what was observed from here.
func (w *World) count(kind string, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[kind] += n
}

// lastLook reads the counters of nodes that are about to die or to freeze.
func (w *World) lastLook(ctx context.Context, nodes []fulcrum.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	w.scrape(ctx, nodes)
}

// scrape reads the counters of nodes; who does not answer keeps what was seen last.
func (w *World) scrape(ctx context.Context, nodes []fulcrum.NodeID) {
	_ = everywhere(nodes, func(n fulcrum.NodeID) error {
		page, err := w.get(ctx, n, "/metrics")
		if err != nil {
			return err
		}
		counts := hitsOf(string(page))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lifeOf(n).update(counts)
		return nil
	})
}

// hitsOf finds fulcrum_fault_hits_total{kind="..."} on a page of metrics.
func hitsOf(page string) map[string]int64 {
	out := map[string]int64{}
	for line := range strings.Lines(page) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), `fulcrum_fault_hits_total{kind="`)
		if !ok {
			continue
		}
		kind, value, ok := strings.Cut(rest, `"} `)
		v, err := strconv.ParseFloat(value, 64)
		if ok && err == nil {
			out[kind] += int64(v)
		}
	}
	return out
}

// Hits counts what faults did: nodes count for themselves what they did to links,
// clocks and disks; deaths, pauses, damages and changes of mode were seen from here.
func (w *World) Hits(ctx context.Context) map[string]int64 {
	scrapeCtx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	w.scrape(scrapeCtx, w.awake())
	w.mu.Lock()
	var switched []string
	for keyspace := range w.modes {
		switched = append(switched, keyspace)
	}
	w.mu.Unlock()
	for _, keyspace := range switched {
		_, _, _ = w.Mode(ctx, keyspace) // counts it
	}
	if w.net != nil && w.take(ctx) == nil {
		lost := w.net.hits(ctx)
		w.give()
		w.mu.Lock()
		w.packets = lost
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out := maps.Clone(w.seen)
	for kind, v := range w.packets {
		out[kind] += v
	}
	for _, l := range w.lives {
		for _, counts := range []map[string]int64{l.before, l.now} {
			for kind, v := range counts {
				out[kind] += v
			}
		}
	}
	return out
}

// rest pauses before something is asked again; false: ctx has ended.
func rest(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}
