package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"

	nethttp "net/http"

	"fulcrum"
	"fulcrum/consistency"
)

// list makes JSON say [] where Go says nil.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func (h *handler) cluster(w nethttp.ResponseWriter, r *nethttp.Request) {
	if _, err := query(r); err != nil {
		h.fail(w, r, err)
		return
	}
	info := h.Backend.Cluster()
	info.Nodes, info.Keyspaces, info.Faults = list(info.Nodes), list(info.Keyspaces), list(info.Faults)
	h.reply(w, r, nethttp.StatusOK, info)
}

func (h *handler) nodes(w nethttp.ResponseWriter, r *nethttp.Request) {
	if _, err := query(r); err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, r, nethttp.StatusOK, list(h.Backend.Cluster().Nodes))
}

func (h *handler) node(w nethttp.ResponseWriter, r *nethttp.Request, name string) {
	nodes := h.Backend.Cluster().Nodes
	i := slices.IndexFunc(nodes, func(n fulcrum.NodeInfo) bool { return string(n.Name) == name })
	if i < 0 {
		h.fail(w, r, fulcrum.Errorf(fulcrum.CodeNotFound, "no node %q", name))
		return
	}
	h.reply(w, r, nethttp.StatusOK, nodes[i])
}

func (h *handler) removeNode(w nethttp.ResponseWriter, r *nethttp.Request, name string) {
	if err := h.Backend.RemoveNode(r.Context(), fulcrum.NodeID(name)); err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(nethttp.StatusNoContent)
}

func (h *handler) shards(w nethttp.ResponseWriter, r *nethttp.Request) {
	q, err := query(r, "keyspace")
	if err == nil && q.Has("keyspace") {
		_, err = h.Backend.Keyspace(q.Get("keyspace"))
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	shards := list(slices.Clone(h.Backend.Shards()))
	h.reply(w, r, nethttp.StatusOK, slices.DeleteFunc(shards, func(s fulcrum.ShardInfo) bool {
		return q.Has("keyspace") && s.Keyspace != q.Get("keyspace")
	}))
}

// levels prints the promise table, all of it or of one mode.
func (h *handler) levels(w nethttp.ResponseWriter, r *nethttp.Request) {
	q, err := query(r, "mode")
	var mode consistency.Mode
	if err == nil && q.Has("mode") {
		if mode, err = consistency.ParseMode(q.Get("mode")); err != nil {
			err = fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
		}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, r, nethttp.StatusOK, slices.DeleteFunc(consistency.Table(), func(p consistency.Promise) bool {
		return q.Has("mode") && p.Mode != mode
	}))
}

func (h *handler) keyspaces(w nethttp.ResponseWriter, r *nethttp.Request) {
	if _, err := query(r); err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, r, nethttp.StatusOK, list(h.Backend.Keyspaces()))
}

func (h *handler) keyspace(w nethttp.ResponseWriter, r *nethttp.Request, name string) {
	_, err := query(r)
	var ks fulcrum.KeyspaceInfo
	if err == nil {
		ks, err = h.Backend.Keyspace(name)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, r, nethttp.StatusOK, ks)
}

// jsonBody reads the request's JSON into v.
func jsonBody(w nethttp.ResponseWriter, r *nethttp.Request, v any) error {
	if _, err := query(r); err != nil {
		return err
	}
	b, err := body(w, r, maxAdminBody)
	if err != nil {
		return err
	}
	return decode(b, v)
}

// noZeros refuses numbers of a keyspace that are given and below 1: where a 0 is written
// the default is not meant, which it is where nothing is.
func noZeros(b []byte) error {
	var given struct{ Shards, Replicas *int }
	if err := json.Unmarshal(b, &given); err != nil {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "body: %w", err)
	}
	for what, n := range map[string]*int{"shards": given.Shards, "replicas": given.Replicas} {
		if n != nil && *n < 1 {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "%d %s: want 1 or more", *n, what).WithHint("leave %s out for the default", what)
		}
	}
	return nil
}

func (h *handler) createKeyspace(w nethttp.ResponseWriter, r *nethttp.Request) {
	var spec fulcrum.KeyspaceSpec
	var b json.RawMessage
	err := jsonBody(w, r, &b)
	if err == nil {
		err = decode(b, &spec)
	}
	if err == nil {
		err = noZeros(b)
	}
	if err == nil && spec.Name == "" {
		err = fulcrum.Errorf(fulcrum.CodeInvalid, "a keyspace needs a name")
	}
	var ks fulcrum.KeyspaceInfo
	if err == nil {
		ks, err = h.Backend.CreateKeyspace(r.Context(), spec)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Location", "/v1/keyspaces/"+url.PathEscape(ks.Name))
	h.reply(w, r, nethttp.StatusCreated, ks)
}

// alterKeyspace answers 200, or 202 where a switch of mode is now under way.
func (h *handler) alterKeyspace(w nethttp.ResponseWriter, r *nethttp.Request, name string) {
	var patch fulcrum.KeyspacePatch
	err := jsonBody(w, r, &patch)
	if err == nil && patch == (fulcrum.KeyspacePatch{}) {
		err = fulcrum.Errorf(fulcrum.CodeInvalid, "nothing to alter").
			WithHint("give mode, abort, read_level, write_level, durability or conflict")
	}
	var ks fulcrum.KeyspaceInfo
	if err == nil {
		ks, err = h.Backend.AlterKeyspace(r.Context(), name, patch)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	status := nethttp.StatusOK
	if ks.Target != "" && ks.Target != ks.Mode {
		status = nethttp.StatusAccepted
	}
	h.reply(w, r, status, ks)
}

func (h *handler) dropKeyspace(w nethttp.ResponseWriter, r *nethttp.Request, name string) {
	_, err := query(r)
	if err == nil {
		err = h.Backend.DropKeyspace(r.Context(), name)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(nethttp.StatusNoContent)
}

func (h *handler) faults(w nethttp.ResponseWriter, r *nethttp.Request) {
	if _, err := query(r); err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, r, nethttp.StatusOK, list(h.Backend.Faults()))
}

var errFaultsOff = &fulcrum.Error{Code: fulcrum.CodeFaults, Detail: "this node was started without fault injection",
	Hint: "start it with --allow-faults"}

// addFaults takes one fault or a list of them: all or none. It answers with the
// faults that are now active.
func (h *handler) addFaults(w nethttp.ResponseWriter, r *nethttp.Request) {
	if !h.AllowFaults {
		h.fail(w, r, errFaultsOff)
		return
	}
	faults, err := faultsOf(w, r)
	if err == nil {
		err = h.inject(faults)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.Logger.Warn("faults injected", "faults", len(faults))
	h.reply(w, r, nethttp.StatusOK, list(h.Backend.Faults()))
}

func faultsOf(w nethttp.ResponseWriter, r *nethttp.Request) ([]fulcrum.Fault, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	b, err := body(w, r, maxAdminBody)
	if err != nil {
		return nil, err
	}
	var faults []fulcrum.Fault
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("[")) {
		err = decode(b, &faults)
	} else {
		faults = make([]fulcrum.Fault, 1)
		err = decode(b, &faults[0])
	}
	if err == nil && len(faults) == 0 {
		err = fulcrum.Errorf(fulcrum.CodeInvalid, "an empty list of faults")
	}
	return faults, err
}

// inject adds faults in order; when one is refused, those added before it are
// healed again. Faults without an ID get one, or they could not be.
func (h *handler) inject(faults []fulcrum.Fault) error {
	var added []string
	there := h.Backend.Faults()
	for i, f := range faults {
		if f.ID == "" && len(faults) > 1 {
			f.ID = fmt.Sprintf("%s-%d-%d", f.Kind, h.Backend.Now(), i)
		}
		if err := h.Backend.AddFault(f); err != nil {
			if len(added) > 0 {
				if undo := h.Backend.HealFaults(added); undo != nil {
					return fulcrum.Errorf(fulcrum.CodeInternal, "fault %d of %d refused: %v; and those before it could not be healed: %v", i+1, len(faults), err, undo)
				}
			}
			return err
		}
		if !slices.ContainsFunc(there, func(t fulcrum.Fault) bool { return t.ID == f.ID }) {
			added = append(added, f.ID)
		}
	}
	return nil
}

// healFaults removes the faults that ?id= names, as often as it comes, or all.
func (h *handler) healFaults(w nethttp.ResponseWriter, r *nethttp.Request) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		h.fail(w, r, fulcrum.Errorf(fulcrum.CodeInvalid, "query: %w", err))
		return
	}
	for name := range q {
		if name != "id" {
			h.fail(w, r, fulcrum.Errorf(fulcrum.CodeInvalid, "unknown query parameter %q", name).WithHint("there is: id"))
			return
		}
	}
	h.heal(w, r, q["id"])
}

func (h *handler) healFault(w nethttp.ResponseWriter, r *nethttp.Request, id string) {
	known := func(f fulcrum.Fault) bool { return f.ID == id }
	if h.AllowFaults && !slices.ContainsFunc(h.Backend.Faults(), known) {
		h.fail(w, r, fulcrum.Errorf(fulcrum.CodeNotFound, "no fault %q is active on this node", id).WithHint("GET /v1/faults lists those that are"))
		return
	}
	h.heal(w, r, []string{id})
}

func (h *handler) heal(w nethttp.ResponseWriter, r *nethttp.Request, ids []string) {
	if !h.AllowFaults {
		h.fail(w, r, errFaultsOff)
		return
	}
	if err := h.Backend.HealFaults(ids); err != nil {
		h.fail(w, r, err)
		return
	}
	h.Logger.Info("faults healed", "ids", ids)
	h.reply(w, r, nethttp.StatusOK, list(h.Backend.Faults()))
}
