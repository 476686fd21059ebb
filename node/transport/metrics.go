package transport

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are a Transport's. No label names a peer, so their number is fixed.
type metrics struct {
	framesIn, framesOut prometheus.Counter
	bytesIn, bytesOut   prometheus.Counter
	connsIn, connsOut   prometheus.Gauge
	badFrames           prometheus.Counter
	overloaded          prometheus.Counter
	refused             prometheus.Counter
	callSeconds         prometheus.Histogram
}

// newMetrics registers the metrics with r, unless it is nil.
func newMetrics(r prometheus.Registerer) *metrics {
	direction := []string{"direction"}
	frames := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fulcrum_peer_frames_total", Help: "Frames exchanged with other nodes.",
	}, direction)
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fulcrum_peer_bytes_total", Help: "Bytes exchanged with other nodes after the handshake.",
	}, direction)
	conns := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fulcrum_peer_connections", Help: "Open connections with other nodes, by who dialed (out: this node).",
	}, direction)
	m := &metrics{
		framesIn: frames.WithLabelValues("in"), framesOut: frames.WithLabelValues("out"),
		bytesIn: bytes.WithLabelValues("in"), bytesOut: bytes.WithLabelValues("out"),
		connsIn: conns.WithLabelValues("in"), connsOut: conns.WithLabelValues("out"),
		badFrames: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fulcrum_peer_bad_frames_total", Help: "Frames that made no sense; each cost its connection.",
		}),
		overloaded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fulcrum_peer_overloaded_total", Help: "Messages refused because a queue was full.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fulcrum_peer_refused_connections_total", Help: "Connections refused, by this node or by the other, before anything was sent.",
		}),
		callSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fulcrum_peer_call_duration_seconds", Help: "Time from asking another node to its answer, for calls that were sent.",
			Buckets:                         prometheus.ExponentialBuckets(0.0001, 2.5, 13),
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}),
	}
	if r != nil {
		r.MustRegister(frames, bytes, conns, m.badFrames, m.overloaded, m.refused, m.callSeconds)
	}
	return m
}

func (m *metrics) connections(inbound bool) prometheus.Gauge {
	if inbound {
		return m.connsIn
	}
	return m.connsOut
}
