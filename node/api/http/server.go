// Package httpapi is a node's HTTP edge: keys as resources for people and
// programs, the control plane, and what operations need (metrics, health,
// profiles). It turns requests into calls on api.Backend and back, and holds no
// state. Errors are RFC 9457 problems; preconditions and ETags follow RFC 9110.
//
// Start reading at New; handler.route lists every address.
package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	nethttp "net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"fulcrum"
	"fulcrum/node/api"
)

// Options are what New needs. Only Backend must be set.
type Options struct {
	Backend        api.Backend
	Logger         *slog.Logger        // nil: none
	Gatherer       prometheus.Gatherer // nil: /metrics is not there
	AllowFaults    bool                // POST and DELETE of /v1/faults are refused without it
	Pprof          bool                // serve /debug/pprof/
	RequestTimeout time.Duration       // of one request to keys; 0: fulcrum.DefaultRequestLimit
	MaxInFlight    int                 // requests at a time, without watches; above it 429 at once; 0: 512
	ReaderPatience time.Duration       // how long the reader of a watch may take nothing; 0: 30s
}

// Bounds that a request meets before it reaches the backend.
const (
	adminTimeout   = 30 * time.Second // catalog changes
	drainTimeout   = 10 * time.Minute // DELETE /v1/nodes: replicas move away first
	maxAdminBody   = 1 << 20
	maxHeaderBytes = 256 << 10 // an 8 KiB key in percent-encoding, and the largest session token
	maxScan        = 10_000
)

type handler struct {
	Options
	metrics nethttp.Handler
	quiet   *fulcrum.QuietLog // for what any client can bring about
	slots   chan struct{}     // one element a request in flight
	cross   *nethttp.CrossOriginProtection
}

// New makes the handler of one node. It starts no goroutine.
func New(o Options) nethttp.Handler {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = fulcrum.DefaultRequestLimit
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 512
	}
	if o.ReaderPatience <= 0 {
		o.ReaderPatience = readerPatience
	}
	h := &handler{Options: o, quiet: fulcrum.NewQuietLog(o.Logger), slots: make(chan struct{}, o.MaxInFlight), cross: nethttp.NewCrossOriginProtection()}
	if o.Gatherer != nil {
		h.metrics = promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{
			EnableOpenMetrics:   true,
			MaxRequestsInFlight: 8,
			ErrorLog:            slog.NewLogLogger(o.Logger.Handler(), slog.LevelError),
		})
	}
	return h
}

// ServeHTTP answers one request; it never panics, whatever the backend does.
func (h *handler) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	defer func() {
		if p := recover(); p != nil {
			if p == nethttp.ErrAbortHandler {
				panic(p)
			}
			h.Logger.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p)
			h.fail(w, r, fulcrum.Errorf(fulcrum.CodeInternal, "a bug: see this node's log"))
		}
	}()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", "default-src 'self'")
	// A page of another site must not be able to change anything through the
	// browser of someone who can reach this port.
	if err := h.cross.Check(r); err != nil {
		h.problem(w, r, nethttp.StatusForbidden, fulcrum.Errorf(fulcrum.CodeInvalid, "request from another origin"), nil)
		return
	}
	h.route(w, r)
}

// limited runs f in a slot, with a deadline, or refuses with 429 at once.
func (h *handler) limited(timeout time.Duration, f nethttp.HandlerFunc) nethttp.HandlerFunc {
	return func(w nethttp.ResponseWriter, r *nethttp.Request) {
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		default:
			h.fail(w, r, fulcrum.Errorf(fulcrum.CodeOverloaded, "%d requests are under way already", cap(h.slots)))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		f(w, r.WithContext(ctx))
	}
}

// Serve answers on l until ctx ends, then ends watches and lets requests under way
// finish for up to 10 s. It returns nil after that, and an error when l fails.
func Serve(ctx context.Context, l net.Listener, h nethttp.Handler) error {
	server := &nethttp.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      drainTimeout + time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.WithoutCancel(ctx), stoppingKey{}, ctx)
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // TLS and bytes that are no HTTP
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener{l}) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		_ = server.Close() // what has not finished by now is cut off
	}
	if err := <-served; !errors.Is(err, nethttp.ErrServerClosed) {
		return err
	}
	return nil
}
