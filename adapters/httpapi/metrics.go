package httpapi

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// statusClientGone is the status in metrics of a request whose client went away before it
// was answered. It is never sent.
const statusClientGone = 499

// The names of the streams, as metrics know them.
const (
	nodeStream    = "nodes"
	clusterStream = "cluster"
)

type metrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	redirects prometheus.Counter
	displaced prometheus.Counter
	refused   prometheus.Counter
	streams   *prometheus.GaugeVec
	events    *prometheus.CounterVec
	cutOff    *prometheus.CounterVec
}

func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodesmetadata_http_requests_total",
			Help: "Requests that were answered; a stream counts when it ends. Code 499: the client went away first.",
		}, []string{"route", "method", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "nodesmetadata_http_request_duration_seconds",
			Help:    "How long it took to answer requests, streams aside.",
			Buckets: []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route", "method"}),
		redirects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodesmetadata_http_redirects_total",
			Help: "Requests that were sent on to the leader.",
		}),
		displaced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodesmetadata_http_connections_displaced_total",
			Help: "Connections that had asked for nothing when the room was needed for another one.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodesmetadata_http_connections_refused_total",
			Help: "Connections that were closed at once, because there were as many as may be.",
		}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nodesmetadata_http_streams_open",
			Help: "Streams that are open now.",
		}, []string{"stream"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodesmetadata_http_stream_events_total",
			Help: "Events that were sent, each part of a snapshot being one.",
		}, []string{"stream"}),
		cutOff: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodesmetadata_http_stream_cut_off_total",
			Help: "Streams that were disconnected because their socket took nothing, or a snapshot too slowly.",
		}, []string{"stream"}),
	}
	var faults []error
	for _, c := range []prometheus.Collector{m.requests, m.durations, m.redirects, m.displaced, m.refused, m.streams, m.events, m.cutOff} {
		faults = append(faults, registry.Register(c))
	}
	for _, stream := range []string{nodeStream, clusterStream} {
		m.streams.WithLabelValues(stream)
		m.events.WithLabelValues(stream)
		m.cutOff.WithLabelValues(stream)
	}
	return m, errors.Join(faults...)
}

// callMetrics are the metrics of one route and method, with their labels
// resolved beforehand: looking them up for each request would cost as much as
// reading a node.
type callMetrics struct {
	requests *prometheus.CounterVec     // by status
	usual    map[int]prometheus.Counter // requests, for the most frequent statuses
	duration prometheus.Observer        // nil of streams
}

func (m *metrics) call(route, method string) *callMetrics {
	c := m.untimedCall(route, method)
	c.duration = m.durations.WithLabelValues(route, method)
	return c
}

// untimedCall is for streams.
func (m *metrics) untimedCall(route, method string) *callMetrics {
	c := &callMetrics{
		requests: m.requests.MustCurryWith(prometheus.Labels{"route": route, "method": method}),
		usual:    map[int]prometheus.Counter{},
	}
	for _, status := range []int{http.StatusOK, http.StatusCreated, http.StatusNotModified, http.StatusTemporaryRedirect} {
		c.usual[status] = c.counter(status)
	}
	return c
}

func (c *callMetrics) counter(status int) prometheus.Counter {
	return c.requests.WithLabelValues(strconv.Itoa(status))
}

func (c *callMetrics) count(status int) {
	counter, usual := c.usual[status]
	if !usual {
		counter = c.counter(status)
	}
	counter.Inc()
}

func (c *callMetrics) observe(status int, took time.Duration) {
	c.count(status)
	c.duration.Observe(took.Seconds())
}
