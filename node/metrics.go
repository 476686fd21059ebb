package node

import (
	"maps"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
	"fulcrum/replication"
)

// metrics are the figures that only a whole node knows. Labels are small sets:
// keyspaces, modes, levels, operations, outcomes.
type metrics struct {
	n *Node

	mu    sync.Mutex                          // held while known is replaced
	known atomic.Pointer[map[series]observed] // never modified: to find a series by its labels costs more than to count
	begun map[string]time.Time                // keyspaces with series, and since when they are dropped; only begin uses it

	requests      *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	staleness     *prometheus.HistogramVec
	readRepairs   *prometheus.CounterVec
	antiEntropy   *prometheus.CounterVec
	lost          *prometheus.CounterVec
	leaderChanges *prometheus.CounterVec
	commits       *prometheus.HistogramVec
	lateWrites    *prometheus.CounterVec
	switches      *prometheus.CounterVec
	switchTime    *prometheus.HistogramVec
	moves         *prometheus.CounterVec
	handedOver    *prometheus.CounterVec
	watchEvents   *prometheus.CounterVec
	rebuilds      *prometheus.CounterVec
}

// buckets of latencies, in seconds.
func buckets() []float64 {
	return []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

func newMetrics(n *Node) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets(), NativeHistogramBucketFactor: 1.1}, labels)
	}
	m := &metrics{
		n:             n,
		begun:         make(map[string]time.Time),
		requests:      counter("fulcrum_requests_total", "Requests coordinated by this node.", "keyspace", "mode", "op", "level", "outcome"),
		duration:      histogram("fulcrum_request_duration_seconds", "Time from a request's arrival to its answer.", "keyspace", "mode", "op", "level"),
		staleness:     histogram("fulcrum_staleness_seconds", "How old answers to reads may be at the most, where it is known.", "keyspace"),
		readRepairs:   counter("fulcrum_read_repairs_total", "Replicas brought up to date by a read.", "keyspace"),
		antiEntropy:   counter("fulcrum_antientropy_keys_repaired_total", "Keys brought up to date by comparing replicas in the background.", "keyspace"),
		lost:          counter("fulcrum_lost_acknowledged_writes_total", "Writes that this node acknowledged at a weak level and then lost to a failover; they are kept in the data directory under lost/.", "keyspace"),
		leaderChanges: counter("fulcrum_leader_changes_total", "Times that a replica here saw its leader change.", "keyspace", "mode"),
		commits:       histogram("fulcrum_group_commit_duration_seconds", "Time for a group's append to the log, fsync included.", "keyspace", "mode"),
		lateWrites:    counter("fulcrum_late_writes_total", "Writes of a closed epoch handed over by this node behind a switch.", "keyspace"),
		switches:      counter("fulcrum_mode_switch_shards_total", "Shards that this node, as controller, brought into another mode.", "keyspace", "to"),
		switchTime:    histogram("fulcrum_mode_switch_shard_duration_seconds", "Time from fencing a shard to its next epoch.", "keyspace"),
		handedOver:    counter("fulcrum_leader_handovers_total", "Leaderships of shards that this node gave to another: to spread them, before it stopped, or because its disk was almost full.", "keyspace", "why"),
		moves:         counter("fulcrum_shard_moves_total", "Changes of a shard's replicas that this node, as controller, carried out.", "keyspace"),
		rebuilds:      counter("fulcrum_replica_rebuilds_total", "Replicas of this node that were begun anew because their data on its disk was damaged.", "keyspace"),
		watchEvents:   counter("fulcrum_watch_events_total", "Changes told to watches on this node.", "keyspace"),
	}
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "fulcrum_build_info", Help: "Version of the running binary.",
		ConstLabels: prometheus.Labels{"version": n.opt.Version, "goversion": runtime.Version()}}, func() float64 { return 1 })
	n.opt.Registry.MustRegister(m.requests, m.duration, m.staleness, m.readRepairs, m.antiEntropy, m.lost, m.leaderChanges, m.commits,
		m.lateWrites, m.switches, m.switchTime, m.moves, m.handedOver, m.watchEvents, m.rebuilds, build, gauges{n}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// outcomes as labels.
const (
	outcomeDone    = "done"
	outcomeNotDone = "not_done"
	outcomeUnknown = "unknown"
	outcomeRefused = "refused" // the request itself was wrong
)

func outcomeOf(err error) string {
	e := fulcrum.AsError(err)
	switch {
	case e == nil:
		return outcomeDone
	case e.Maybe:
		return outcomeUnknown
	case e.Code == fulcrum.CodeUnavailable || e.Code == fulcrum.CodeOverloaded || e.Code == fulcrum.CodeDisk:
		return outcomeNotDone
	}
	return outcomeRefused
}

// series is what the requests are told apart by.
type series struct {
	keyspace, op, outcome string
	mode                  consistency.Mode
	level                 consistency.Kind
}

type observed struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

// of finds the metrics of a series, and makes them the first time.
func (m *metrics) of(s series) observed {
	if known := m.known.Load(); known != nil {
		if o, ok := (*known)[s]; ok {
			return o
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	more := map[series]observed{}
	if known := m.known.Load(); known != nil {
		maps.Copy(more, *known)
	}
	mode, level := s.mode.String(), s.level.String()
	if s.keyspace == "" { // none, so in no mode
		mode = ""
	}
	more[s] = observed{m.requests.WithLabelValues(s.keyspace, mode, s.op, level, s.outcome), m.duration.WithLabelValues(s.keyspace, mode, s.op, level)}
	m.known.Store(&more)
	return more[s]
}

func (m *metrics) request(r *consistency.Receipt, op string, err error) {
	s := series{keyspace: r.Keyspace, op: op, outcome: outcomeOf(err), mode: r.Mode, level: r.Level.Kind}
	if _, known := m.n.machine.State().Keyspaces[r.Keyspace]; !known {
		s.keyspace = "" // a name somebody made up must not become a label
	}
	o := m.of(s)
	o.requests.Inc()
	o.duration.Observe(r.Latency.Seconds())
	if err == nil && r.Staleness >= 0 && op != "write" && op != "txn" {
		m.staleness.WithLabelValues(s.keyspace).Observe(r.Staleness.Seconds())
	}
}

func (m *metrics) switched(keyspace string, sh *catalog.Shard, took time.Duration) {
	if sh.Mode != sh.Next.Mode {
		m.switches.WithLabelValues(keyspace, sh.Next.Mode.String()).Inc()
		m.switchTime.WithLabelValues(keyspace).Observe(took.Seconds())
		return
	}
	m.moves.WithLabelValues(keyspace).Inc()
}

// straggling is for how long something may still be counted for a keyspace that was dropped:
// a watch that ends, a leadership that is handed over.
const straggling = time.Minute

// begin makes what counts for each keyspace, wherever its replicas are, be there from the
// start, at zero, so that rates have a beginning. What counted for keyspaces that were dropped
// goes: names come and go, and would be labels for good.
func (m *metrics) begin(st *catalog.State) {
	for keyspace, gone := range m.begun {
		switch _, there := st.Keyspaces[keyspace]; {
		case there:
		case gone.IsZero():
			m.begun[keyspace] = time.Now()
			m.forget(keyspace)
		case time.Since(gone) < straggling:
			m.forget(keyspace)
		default:
			delete(m.begun, keyspace)
		}
	}
	for _, keyspace := range st.Names() {
		m.begun[keyspace] = time.Time{}
		m.watchEvents.WithLabelValues(keyspace)
		m.switchTime.WithLabelValues(keyspace)
		for _, mode := range consistency.Modes {
			m.switches.WithLabelValues(keyspace, mode.String())
		}
	}
}

// forget removes every series of a keyspace.
func (m *metrics) forget(keyspace string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.known.Load(); known != nil {
		rest := maps.Clone(*known)
		maps.DeleteFunc(rest, func(s series, _ observed) bool { return s.keyspace == keyspace })
		m.known.Store(&rest)
	}
	label := prometheus.Labels{"keyspace": keyspace}
	for _, v := range []interface{ DeletePartialMatch(prometheus.Labels) int }{m.requests, m.duration, m.staleness, m.readRepairs, m.antiEntropy, m.lost,
		m.leaderChanges, m.commits, m.lateWrites, m.switches, m.switchTime, m.moves, m.handedOver, m.watchEvents, m.rebuilds} {
		v.DeletePartialMatch(label)
	}
}

// group returns what the replicas of a keyspace count with. What else is counted by
// keyspace alone is there from now on too, at zero, so that rates have a beginning.
func (m *metrics) group(keyspace string, mode consistency.Mode) replication.Metrics {
	m.moves.WithLabelValues(keyspace)
	m.lateWrites.WithLabelValues(keyspace)
	m.rebuilds.WithLabelValues(keyspace)
	if mode == consistency.Raft {
		m.handedOver.WithLabelValues(keyspace, "spread")
		m.handedOver.WithLabelValues(keyspace, "stop")
		m.handedOver.WithLabelValues(keyspace, "disk")
	}
	return groupMetrics{
		repairs: m.readRepairs.WithLabelValues(keyspace), anti: m.antiEntropy.WithLabelValues(keyspace), lost: m.lost.WithLabelValues(keyspace),
		leaders: m.leaderChanges.WithLabelValues(keyspace, mode.String()), commits: m.commits.WithLabelValues(keyspace, mode.String()),
	}
}

type groupMetrics struct {
	repairs, anti, lost, leaders prometheus.Counter
	commits                      prometheus.Observer
}

func (g groupMetrics) LeaderChange()             { g.leaders.Inc() }
func (g groupMetrics) ReadRepair(n int)          { g.repairs.Add(float64(n)) }
func (g groupMetrics) AntiEntropyRepaired(n int) { g.anti.Add(float64(n)) }
func (g groupMetrics) LostAcknowledged(n int)    { g.lost.Add(float64(n)) }
func (g groupMetrics) Commit(d time.Duration)    { g.commits.Observe(d.Seconds()) }

// gauges are read from the groups at each scrape: nothing is kept up to date that
// nobody looks at.
type gauges struct{ n *Node }

var (
	descLagSeconds = desc("fulcrum_replication_lag_seconds", "For how long this replica has been behind; the longest of the keyspace's shards.", "keyspace", "mode")
	descLagEntries = desc("fulcrum_replication_lag_entries", "Log entries that this replica lacks, as far as it knows; summed over shards.", "keyspace", "mode")
	descHints      = desc("fulcrum_hints_pending", "Writes kept here for replicas that are away.", "keyspace")
	descSiblings   = desc("fulcrum_siblings", "Concurrent versions kept side by side; always 0 under last-writer-wins.", "keyspace")
	descLeader     = desc("fulcrum_shard_leader", "Shards of the keyspace that this node leads.", "keyspace", "mode")
	descReplicas   = desc("fulcrum_shard_replicas", "Replicas of the keyspace's shards that run on this node.", "keyspace", "mode")
	descBytes      = desc("fulcrum_shard_bytes", "Bytes of keys and values in this node's replicas.", "keyspace")
	descKeys       = desc("fulcrum_shard_keys", "Keys in this node's replicas, tombstones included.", "keyspace")
	descCatching   = desc("fulcrum_shard_catching_up", "Replicas here that are receiving their shard and do not answer yet.", "keyspace")
	descLearning   = desc("fulcrum_shard_learning", "Shards that are moved to this node and follow their log here without a vote.", "keyspace")
	descDamaged    = desc("fulcrum_replicas_damaged", "Replicas here whose data on this node's disk is damaged and which are not rebuilt yet.", "keyspace")
	descFaults     = desc("fulcrum_faults_active", "Injected faults active on this node.", "kind")
	descFaultHits  = desc("fulcrum_fault_hits_total", "Times that an injected fault acted here: on a message, a clock that was read, a write to disk.", "kind")
	descSwitching  = desc("fulcrum_mode_switch_in_progress", "1 while the keyspace is being switched to another mode.", "keyspace")
	descTerm       = desc("fulcrum_group_term", "Term of the replication group, at this replica.", "keyspace", "group")
	descApplied    = desc("fulcrum_group_applied_index", "Log position visible to reads at this replica.", "keyspace", "group")
	descCatalog    = desc("fulcrum_catalog_index", "Index of this node's copy of the catalog.")
	descCatLeader  = desc("fulcrum_catalog_leader", "1 if this node leads the catalog.")
	descWatches    = desc("fulcrum_watches", "Watches under way on this node.")
	descLate       = desc("fulcrum_late_writes_pending", "Writes of closed epochs that this node has yet to hand over.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe sends every description.
func (g gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLagSeconds, descLagEntries, descHints, descSiblings, descLeader, descReplicas, descBytes, descKeys,
		descCatching, descLearning, descDamaged, descFaults, descFaultHits, descSwitching, descTerm, descApplied, descCatalog, descCatLeader, descWatches, descLate} {
		ch <- d
	}
}

// sums are one keyspace's figures on this node.
type sums struct {
	mode                                     string
	lag                                      time.Duration
	behind                                   uint64
	hints, leaders, replicas, keys, catching int
	damaged, learning                        int
	bytes                                    int64
}

// Collect reads every group once.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	n := g.n
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	st := n.machine.State()
	by := map[string]*sums{}
	for _, name := range st.Names() {
		ks := st.Keyspaces[name]
		by[name] = &sums{mode: ks.Mode.String()}
		switching := 0.0
		if ks.Mode != ks.Target {
			switching = 1
		}
		gauge(descSwitching, switching, name)
	}
	if n.host != nil {
		for _, h := range n.host.all() {
			s, ok := by[h.keyspace]
			if !ok {
				continue
			}
			status := n.counted(h)
			s.add(status)
			if ref, ok := st.Group(h.shard); ok && ref.Shard.Learns(n.opt.Name) {
				s.learning++
			}
			gauge(descTerm, float64(status.Term), h.keyspace, groupLabel(h.shard))
			gauge(descApplied, float64(status.Applied), h.keyspace, groupLabel(h.shard))
		}
	}
	for _, d := range n.store.Damages() {
		if ref, ok := st.Group(d.Group); ok {
			by[ref.Keyspace.Name].damaged++
		}
	}
	for name, s := range by {
		gauge(descLagSeconds, s.lag.Seconds(), name, s.mode)
		gauge(descLagEntries, float64(s.behind), name, s.mode)
		gauge(descHints, float64(s.hints), name)
		gauge(descSiblings, 0, name)
		gauge(descLeader, float64(s.leaders), name, s.mode)
		gauge(descReplicas, float64(s.replicas), name, s.mode)
		gauge(descBytes, float64(s.bytes), name)
		gauge(descKeys, float64(s.keys), name)
		gauge(descCatching, float64(s.catching), name)
		gauge(descLearning, float64(s.learning), name)
		gauge(descDamaged, float64(s.damaged), name)
	}
	for kind, count := range n.faults.Active() {
		gauge(descFaults, float64(count), kind)
	}
	for kind, count := range n.faults.Hits() {
		ch <- prometheus.MustNewConstMetric(descFaultHits, prometheus.CounterValue, float64(count), kind)
	}
	gauge(descCatalog, float64(st.Index))
	self := 0.0
	if n.catalog != nil {
		if _, leads := n.catalog.Leader(); leads {
			self = 1
		}
	}
	gauge(descCatLeader, self)
	gauge(descWatches, float64(n.watching.now()))
	if n.late != nil {
		gauge(descLate, float64(n.late.state.Keys()))
	}
}

func (s *sums) add(st replication.Status) {
	s.lag = max(s.lag, st.BehindFor)
	s.behind += st.Behind
	s.hints += st.Hints
	s.replicas++
	s.keys += st.Keys
	s.bytes += st.Bytes
	if st.IsLeader {
		s.leaders++
	}
	if st.CatchingUp {
		s.catching++
	}
}

func groupLabel(g fulcrum.GroupID) string { return strconv.FormatUint(uint64(g), 10) }
