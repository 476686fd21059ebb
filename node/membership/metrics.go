package membership

import (
	"fulcrum"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the figures of gossip. Without a registerer they count for nobody.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector // registered ones

	sent, received                 prometheus.Counter
	refusedPackets, refusedStreams prometheus.Counter
	rejoins, conflicts             prometheus.Counter
}

func newMetrics(r prometheus.Registerer, v *view) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	packets := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fulcrum_gossip_packets_total",
		Help: "Gossip packets sent (out), and taken in from members of this cluster (in).",
	}, []string{"direction"})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fulcrum_gossip_refused_total",
		Help: "Gossip packets and streams refused: malformed, too large, too many, or of another cluster.",
	}, []string{"kind"})
	m := &metrics{
		registerer:     r,
		sent:           packets.WithLabelValues("out"),
		received:       packets.WithLabelValues("in"),
		refusedPackets: refused.WithLabelValues("packet"),
		refusedStreams: refused.WithLabelValues("stream"),
		rejoins:        counter("fulcrum_gossip_rejoins_total", "Attempts to rejoin a peer that is not alive."),
		conflicts:      counter("fulcrum_gossip_conflicts_total", "Messages of a second node that uses a member's name from another address."),
	}
	if r == nil {
		return m, nil
	}
	collectors := []prometheus.Collector{packets, refused, m.rejoins, m.conflicts}
	for _, state := range []string{StateAlive, StateSuspect, StateDead, StateLeft} {
		collectors = append(collectors, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "fulcrum_gossip_members",
			Help:        "Members in each state, in this node's opinion, itself included.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(v.count(state)) }))
	}
	for _, c := range collectors {
		if err := r.Register(c); err != nil {
			m.unregister()
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "register gossip metrics: %w", err)
		}
		m.all = append(m.all, c)
	}
	return m, nil
}

func (m *metrics) unregister() {
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}
