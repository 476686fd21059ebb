package httpapi

import (
	"net/http/pprof"
	"net/url"
	"slices"
	"strings"

	nethttp "net/http"

	"fulcrum"
)

// methods is what one address answers to.
type methods map[string]nethttp.HandlerFunc

// route finds the address by hand: nethttp.ServeMux would clean "//" and ".." out
// of keys, which may hold any bytes.
func (h *handler) route(w nethttp.ResponseWriter, r *nethttp.Request) {
	path := r.URL.EscapedPath()
	ms, ok := h.find(path)
	if !ok {
		h.fail(w, r, fulcrum.Errorf(fulcrum.CodeNotFound, "no such address: %s", path).
			WithHint("see /v1/cluster, /v1/keyspaces, /v1/kv/KEYSPACE/KEY, /v1/txn/KEYSPACE, /v1/watch/KEYSPACE, /v1/levels, /metrics"))
		return
	}
	if f, ok := ms[r.Method]; ok {
		f(w, r)
		return
	}
	allowed := make([]string, 0, len(ms)+1)
	for m := range ms {
		allowed = append(allowed, m)
	}
	slices.Sort(allowed)
	w.Header().Set("Allow", strings.Join(append(allowed, nethttp.MethodOptions), ", "))
	if r.Method == nethttp.MethodOptions {
		w.WriteHeader(nethttp.StatusNoContent)
		return
	}
	h.problem(w, r, nethttp.StatusMethodNotAllowed, fulcrum.Errorf(fulcrum.CodeInvalid, "%s does not take %s", path, r.Method).
		WithHint("use %s", strings.Join(allowed, ", ")), nil)
}

func (h *handler) find(path string) (methods, bool) {
	switch path {
	case "/":
		return get(h.status), true
	case "/status.css":
		return get(h.style), true
	case "/livez", "/healthz":
		return get(h.health(h.Backend.Live)), true
	case "/readyz":
		return get(h.health(h.Backend.Ready)), true
	case "/metrics":
		if h.metrics != nil {
			return get(h.metrics.ServeHTTP), true
		}
		return nil, false
	}
	if rest, ok := strings.CutPrefix(path, "/debug/pprof/"); ok && h.Pprof {
		return profiles(rest), true
	}
	rest, ok := strings.CutPrefix(path, "/v1/")
	if !ok {
		return nil, false
	}
	kind, rest, sub := strings.Cut(rest, "/")
	switch kind {
	case "kv":
		return h.findKeys(rest)
	case "watch":
		return h.findWatch(rest)
	case "txn":
		keyspace, err := url.PathUnescape(rest)
		return methods{nethttp.MethodPost: h.limited(h.RequestTimeout, h.txn(keyspace))}, err == nil && keyspace != "" && !strings.Contains(rest, "/")
	}
	if sub {
		name, err := url.PathUnescape(rest)
		if err != nil || name == "" {
			return nil, false
		}
		return h.findNamed(kind, name)
	}
	return h.findAll(kind)
}

func (h *handler) findKeys(rest string) (methods, bool) {
	space, key, isKey := strings.Cut(rest, "/")
	keyspace, err := url.PathUnescape(space)
	if err != nil || keyspace == "" {
		return nil, false
	}
	if !isKey {
		return methods{nethttp.MethodGet: h.limited(h.RequestTimeout, h.scan(keyspace))}, true
	}
	raw, err := url.PathUnescape(key)
	if err != nil {
		return nil, false
	}
	on := func(f func(nethttp.ResponseWriter, *nethttp.Request, string, []byte)) nethttp.HandlerFunc {
		return h.limited(h.RequestTimeout, func(w nethttp.ResponseWriter, r *nethttp.Request) { f(w, r, keyspace, []byte(raw)) })
	}
	return methods{
		nethttp.MethodGet:    on(h.getKey),
		nethttp.MethodHead:   on(h.getKey),
		nethttp.MethodPut:    on(h.putKey),
		nethttp.MethodDelete: on(h.deleteKey),
	}, true
}

func (h *handler) findAll(kind string) (methods, bool) {
	switch kind {
	case "cluster":
		return get(h.cluster), true
	case "nodes":
		return get(h.nodes), true
	case "shards":
		return get(h.shards), true
	case "levels":
		return get(h.levels), true
	case "keyspaces":
		ms := get(h.keyspaces)
		ms[nethttp.MethodPost] = h.limited(adminTimeout, h.createKeyspace)
		return ms, true
	case "faults":
		ms := get(h.faults)
		ms[nethttp.MethodPost] = h.limited(adminTimeout, h.addFaults)
		ms[nethttp.MethodDelete] = h.limited(adminTimeout, h.healFaults)
		return ms, true
	}
	return nil, false
}

func (h *handler) findNamed(kind, name string) (methods, bool) {
	on := func(f func(nethttp.ResponseWriter, *nethttp.Request, string)) nethttp.HandlerFunc {
		return func(w nethttp.ResponseWriter, r *nethttp.Request) { f(w, r, name) }
	}
	switch kind {
	case "keyspaces":
		ms := get(on(h.keyspace))
		ms[nethttp.MethodPatch] = h.limited(adminTimeout, on(h.alterKeyspace))
		ms[nethttp.MethodDelete] = h.limited(adminTimeout, on(h.dropKeyspace))
		return ms, true
	case "nodes":
		ms := get(on(h.node))
		ms[nethttp.MethodDelete] = h.limited(drainTimeout, on(h.removeNode))
		return ms, true
	case "faults":
		return methods{nethttp.MethodDelete: h.limited(adminTimeout, on(h.healFault))}, true
	}
	return nil, false
}

// get is an address that is only read; a HEAD gets what a GET gets, and the
// server leaves out the body.
func get(f nethttp.HandlerFunc) methods {
	return methods{nethttp.MethodGet: f, nethttp.MethodHead: f}
}

func profiles(name string) methods {
	switch name {
	case "cmdline":
		return get(pprof.Cmdline)
	case "profile":
		return get(pprof.Profile)
	case "symbol":
		ms := get(pprof.Symbol)
		ms[nethttp.MethodPost] = pprof.Symbol
		return ms
	case "trace":
		return get(pprof.Trace)
	}
	return get(pprof.Index)
}
