package storage

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fulcrum"
)

// metrics are the figures of a Store; a nil *metrics counts nothing.
type metrics struct {
	reg        prometheus.Registerer
	logSync    prometheus.Histogram
	engine     prometheus.Histogram
	registered []prometheus.Collector
}

func newMetrics(reg prometheus.Registerer, s *Store) (*metrics, error) {
	if reg == nil {
		return nil, nil
	}
	m := &metrics{
		reg:     reg,
		logSync: duration("fulcrum_storage_commit_duration_seconds", "Time to make one append to the log durable."),
		engine:  duration("fulcrum_storage_engine_commit_duration_seconds", "Time of one background commit of applied states to the engine."),
	}
	overlay := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fulcrum_storage_overlay_bytes",
		Help: "Bytes applied in memory and not yet committed to the engine.",
	}, func() float64 { return float64(s.overlayBytes.Load()) })
	healthy := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fulcrum_storage_disk_healthy",
		Help: "1 while the disk writes and syncs, 0 after a failed or during a stalled sync.",
	}, func() float64 {
		if s.Health() != nil {
			return 0
		}
		return 1
	})
	room := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fulcrum_storage_disk_low",
		Help: "1 while the disk has so little room that this node takes no writes of clients.",
	}, func() float64 {
		if s.Room() != nil {
			return 1
		}
		return 0
	})
	for _, c := range []prometheus.Collector{m.logSync, m.engine, overlay, healthy, room} {
		if err := reg.Register(c); err != nil {
			m.unregister()
			return nil, fulcrum.Errorf(fulcrum.CodeInternal, "register the metrics of storage: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

func duration(name, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:                        name,
		Help:                        help,
		Buckets:                     []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		NativeHistogramBucketFactor: 1.1,
	})
}

func (m *metrics) logSynced(d time.Duration) {
	if m != nil {
		m.logSync.Observe(d.Seconds())
	}
}

func (m *metrics) engineCommitted(d time.Duration) {
	if m != nil {
		m.engine.Observe(d.Seconds())
	}
}

func (m *metrics) unregister() {
	for _, c := range m.registered {
		m.reg.Unregister(c)
	}
}
