package httpapi

import (
	"encoding/json"
	"strings"

	nethttp "net/http"

	"fulcrum"
	"fulcrum/consistency"
)

// Problem is the body of every error (RFC 9457, application/problem+json). Names
// are stable.
type Problem struct {
	Type    string         `json:"type"` // urn:fulcrum:problem:CODE
	Title   string         `json:"title"`
	Status  int            `json:"status"`
	Detail  string         `json:"detail,omitempty"`
	Code    fulcrum.Code   `json:"code"`
	Outcome string         `json:"outcome"` // not-applied or unknown
	Hint    string         `json:"hint,omitempty"`
	Op      string         `json:"op,omitempty"`
	Node    fulcrum.NodeID `json:"node,omitempty"`
	Levels  []string       `json:"levels,omitempty"` // code level: those that the mode offers
}

var titles = map[fulcrum.Code]string{
	fulcrum.CodeUnavailable: "Too few replicas in reach",
	fulcrum.CodeUnknown:     "Outcome unknown",
	fulcrum.CodeLevel:       "Level not offered",
	fulcrum.CodeMode:        "Not possible in this mode",
	fulcrum.CodeOverloaded:  "Overloaded",
	fulcrum.CodeTooLarge:    "Too large",
	fulcrum.CodeInvalid:     "Invalid request",
	fulcrum.CodeNotFound:    "Not found",
	fulcrum.CodeExists:      "Exists already",
	fulcrum.CodeConflict:    "Conflict",
	fulcrum.CodeEpoch:       "Shard is changing",
	fulcrum.CodeNotLeader:   "Not the leader",
	fulcrum.CodeFaults:      "Fault injection is off",
	fulcrum.CodeCompacted:   "History is gone",
	fulcrum.CodeDisk:        "Disk failure",
}

// statusOf is the HTTP status of each code. What may still take effect is 504
// whatever its code says.
func statusOf(e *fulcrum.Error) int {
	if e.Maybe {
		return nethttp.StatusGatewayTimeout
	}
	switch e.Code {
	case fulcrum.CodeUnavailable, fulcrum.CodeEpoch, fulcrum.CodeNotLeader, fulcrum.CodeDisk:
		return nethttp.StatusServiceUnavailable
	case fulcrum.CodeUnknown:
		return nethttp.StatusGatewayTimeout
	case fulcrum.CodeLevel, fulcrum.CodeMode, fulcrum.CodeInvalid:
		return nethttp.StatusBadRequest
	case fulcrum.CodeOverloaded:
		return nethttp.StatusTooManyRequests
	case fulcrum.CodeTooLarge:
		return nethttp.StatusRequestEntityTooLarge
	case fulcrum.CodeNotFound:
		return nethttp.StatusNotFound
	case fulcrum.CodeExists, fulcrum.CodeConflict:
		return nethttp.StatusConflict
	case fulcrum.CodeFaults:
		return nethttp.StatusForbidden
	case fulcrum.CodeCompacted:
		return nethttp.StatusGone
	}
	return nethttp.StatusInternalServerError
}

// fail answers with err.
func (h *handler) fail(w nethttp.ResponseWriter, r *nethttp.Request, err error) {
	e := settle(r, err)
	h.problem(w, r, statusOf(e), e, nil)
}

// failLevel answers with err, and lists the levels of the keyspace's mode where
// err is about the level.
func (h *handler) failLevel(w nethttp.ResponseWriter, r *nethttp.Request, keyspace string, err error) {
	e := settle(r, err)
	var levels []string
	if e.Code == fulcrum.CodeLevel {
		if ks, err := h.Backend.Keyspace(keyspace); err == nil {
			levels = offered(ks.Mode, r.Method)
		}
	}
	h.problem(w, r, statusOf(e), e, levels)
}

func offered(mode, method string) []string {
	m, err := consistency.ParseMode(mode)
	if err != nil {
		return nil
	}
	access := consistency.Write
	if method == nethttp.MethodGet || method == nethttp.MethodHead {
		access = consistency.Read
	}
	var names []string
	for _, k := range consistency.Offered(m, access) {
		if k == consistency.Bounded {
			names = append(names, "bounded:DURATION")
			continue
		}
		names = append(names, k.String())
	}
	return names
}

// settle turns err into an *fulcrum.Error. A read has no effect whose outcome
// could be unknown: one that got no answer is unavailable, and safe to retry.
func settle(r *nethttp.Request, err error) *fulcrum.Error {
	e := fulcrum.AsError(err)
	safe := r.Method == nethttp.MethodGet || r.Method == nethttp.MethodHead
	if safe && (e.Maybe || e.Code == fulcrum.CodeUnknown) {
		c := *e
		c.Maybe = false
		if c.Code == fulcrum.CodeUnknown {
			c.Code = fulcrum.CodeUnavailable
		}
		return &c
	}
	return e
}

// problemFor is the body that says e, but for the levels.
func problemFor(e *fulcrum.Error) Problem {
	p := Problem{Type: "urn:fulcrum:problem:" + string(e.Code), Title: titles[e.Code], Status: statusOf(e), Detail: e.Detail, Code: e.Code,
		Outcome: "not-applied", Hint: e.Hint, Op: e.Op, Node: e.Node}
	if p.Title == "" {
		p.Title = "Internal error"
	}
	if p.Detail == "" && e.Err != nil {
		p.Detail = e.Err.Error()
	}
	p.Detail = strings.ToValidUTF8(p.Detail, "\uFFFD")
	if e.Maybe || e.Code == fulcrum.CodeUnknown {
		p.Outcome = "unknown"
	}
	return p
}

func (h *handler) problem(w nethttp.ResponseWriter, r *nethttp.Request, status int, e *fulcrum.Error, levels []string) {
	p := problemFor(e)
	p.Status, p.Levels = status, levels
	if status == nethttp.StatusServiceUnavailable || status == nethttp.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	if status == nethttp.StatusInternalServerError {
		h.Logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", e)
	}
	body, err := json.Marshal(p)
	if err != nil { // strings, numbers: cannot happen
		body = []byte(`{"code":"internal","outcome":"unknown"}`)
	}
	w.Header().Del("Content-Length")
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

// reply writes v as JSON.
func (h *handler) reply(w nethttp.ResponseWriter, r *nethttp.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		h.fail(w, r, fulcrum.Errorf(fulcrum.CodeInternal, "%w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}
