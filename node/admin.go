package node

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/node/catalog"
	"fulcrum/replication"
	"fulcrum/replication/leaderfollower"
	"fulcrum/replication/raft"
)

// adminRequest is what nodes ask of each other beside keys: one Do, with the
// fields that it needs.
type adminRequest struct {
	Do       string
	Register *catalog.Node        `json:",omitempty"`
	Outside  bool                 `json:",omitempty"` // register: who asks takes no part in the catalog's group yet
	Passed   bool                 `json:",omitempty"` // register: by one that does not lead
	Life     string               `json:",omitempty"` // born, lease: the incarnation of who asks
	Command  []byte               `json:",omitempty"` // propose: a catalog.Command
	Confirm  bool                 `json:",omitempty"` // propose: only by a leader that a majority knows
	Group    fulcrum.GroupID      `json:",omitempty"`
	Epoch    fulcrum.Epoch        `json:",omitempty"`
	Fence    replication.Position `json:",omitzero"`
	With     []fulcrum.NodeID     `json:",omitempty"`
	Attempt  int                  `json:",omitempty"`
	Term     uint64               `json:",omitempty"`
	Made     *catalog.Applied     `json:",omitempty"`
	To       fulcrum.NodeID       `json:",omitempty"` // who is asked, by way of the node that gets this
}

func (n *Node) handleAdmin(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	var req adminRequest
	if err := json.Unmarshal(msg, &req); err != nil {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "admin request: %w", err)
	}
	out, err := n.admin(ctx, from, req)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

func (n *Node) admin(ctx context.Context, from fulcrum.NodeID, req adminRequest) (any, error) {
	if to := req.To; to != "" {
		if err := n.reach(ctx, to); err != nil {
			return nil, err
		}
		req.To = ""
		return ask[json.RawMessage](ctx, n, to, req)
	}
	switch req.Do {
	case "lease":
		return n.grantLease(ctx, from, req.Life)
	case "resign":
		return struct{}{}, n.acceptResignation(ctx, from)
	case "register":
		if req.Register == nil {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "register without a node")
		}
		err := n.takeIn(ctx, *req.Register, req.Outside)
		if errors.Is(err, fulcrum.ErrNotLeader) && !req.Passed {
			err = n.passOn(ctx, req, err)
		}
		return struct{}{}, err
	case "propose":
		if req.Confirm {
			if err := n.catalog.Confirm(ctx); err != nil {
				return nil, err
			}
		}
		result, err := n.catalog.Propose(ctx, req.Command)
		return catalogResult(result, err)
	case "shows":
		if req.Made == nil {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "shows without what was made")
		}
		return struct{}{}, n.awaitCopy(ctx, *req.Made)
	case "applied":
		return n.catalog.Applied(), nil
	case "born":
		return n.bornFor(from, req.Life)
	case "status":
		return n.localStatus(n.counted), nil
	case "progress":
		return n.localStatus(progress), nil
	case "leads":
		return n.leadership(), nil
	}
	h, err := n.host.at(req.Group, req.Epoch)
	if err != nil {
		return nil, err
	}
	switch req.Do {
	case "fence":
		return h.group.Fence(ctx)
	case "settle":
		if !h.newest(req.Attempt) {
			return nil, fulcrum.Errorf(fulcrum.CodeConflict, "attempt %d at reconciling shard %d was overtaken", req.Attempt, req.Group)
		}
		return struct{}{}, h.group.Settle(ctx, req.Fence, req.With)
	case "learn":
		r, ok := h.group.(*raft.Group)
		if !ok {
			return nil, fulcrum.Errorf(fulcrum.CodeEpoch, "shard %d is not in mode raft", req.Group)
		}
		return r.Learn(ctx, req.With)
	case "promise":
		lf, ok := h.group.(*leaderfollower.Group)
		if !ok {
			return nil, fulcrum.Errorf(fulcrum.CodeEpoch, "shard %d is not in mode leader-follower", req.Group)
		}
		return lf.Promise(ctx, req.Term)
	}
	return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "unknown admin request %q: is %s of another version?", req.Do, from)
}

// adminAt runs an admin request on a node, this one included.
func adminAt[T any](ctx context.Context, n *Node, to fulcrum.NodeID, req adminRequest) (T, error) {
	if to != n.opt.Name {
		return ask[T](ctx, n, to, req)
	}
	var zero T
	out, err := n.admin(ctx, to, req)
	if err != nil {
		return zero, err
	}
	v, ok := out.(T)
	if !ok {
		return zero, fulcrum.Errorf(fulcrum.CodeInternal, "%q answered %T", req.Do, out)
	}
	return v, nil
}

// adminThrough is adminAt a replica of a shard, by way of another one where this node cannot
// reach it: a cut between the two must not keep a shard fenced that has a majority. Only
// steps that may be repeated go this way, and it makes no difference who sends them.
func adminThrough[T any](ctx context.Context, n *Node, to fulcrum.NodeID, others []fulcrum.NodeID, req adminRequest) (out T, err error) {
	if err = n.reach(ctx, to); err == nil {
		return adminAt[T](ctx, n, to, req)
	}
	req.To = to
	for _, via := range others {
		if via == to || via == n.opt.Name || n.reach(ctx, via) != nil {
			continue
		}
		if out, err = ask[T](ctx, n, via, req); !errors.Is(err, fulcrum.ErrUnavailable) {
			break
		}
	}
	return out, err
}

// takeIn is the catalog leader's side of a registration. A name whose lease holds
// with another data directory belongs to a node that runs: the newcomer must go.
//
// Who is outside has a vote in no configuration when takeIn returns (see admitted), whether the
// catalog knows its name or not: it may have lost its disk before it first registered.
func (n *Node) takeIn(ctx context.Context, node catalog.Node, outside bool) error {
	if err := n.catalog.Confirm(ctx); err != nil {
		return err
	}
	n.lives.lead(n.catalog.Term())
	st := n.machine.State()
	old, known := st.Nodes[node.Name]
	if known && old.Incarnation != node.Incarnation && !n.lives.expired(node.Name) {
		n.lives.mu.Lock()
		seen := n.lives.renewed[node.Name]
		n.lives.mu.Unlock()
		if !seen.IsZero() {
			return fulcrum.Errorf(fulcrum.CodeExists, "a node named %s is running already, with another data directory", node.Name).
				WithHint("choose another --name, or stop the other one first")
		}
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "whether another %s is running will be known in %s", node.Name, takeoverTime)
	}
	if known && old.Incarnation == node.Incarnation && old.PeerAddr != node.PeerAddr && !n.lives.expired(node.Name) {
		return fulcrum.Errorf(fulcrum.CodeConflict, "node %s had a lease at %s until just now", node.Name, old.PeerAddr)
	}
	if !known && !n.votes(node.Name) {
		node.Voter = false // it was a first voter once, and has been removed: others have taken its place
	}
	if known && old.Incarnation != node.Incarnation && n.inCatalog(node.Name) {
		// Before the catalog takes its new data directory for the one that it has: see admitted.
		if err := n.takeVote(ctx, node.Name); err != nil {
			return err
		}
	}
	if err := n.proposeHere(ctx, catalog.Command{Register: &node}); err != nil {
		return err
	}
	if outside && n.votes(node.Name) {
		if err := n.takeVote(ctx, node.Name); err != nil {
			return err
		}
	}
	if !n.inCatalog(node.Name) {
		return n.catalog.AddNonvoter(ctx, node.Name)
	}
	return nil
}

// takeVote takes a node out of the catalog's group, in which it is a member again when it has
// been taken in.
func (n *Node) takeVote(ctx context.Context, id fulcrum.NodeID) error {
	if err := n.catalog.RemoveServer(ctx, id); err != nil {
		return err
	}
	n.log.Info("a node with a new data directory has no vote in the catalog until it has caught up", "of", id)
	return nil
}

// passOn gives a registration to the catalog's leader: a newcomer may know the address of this
// node only. notLeader is what there is to say without one.
func (n *Node) passOn(ctx context.Context, req adminRequest, notLeader error) error {
	leader, self := n.catalog.Leader()
	if self || leader == "" {
		return notLeader
	}
	req.Passed = true
	_, err := n.askCatalogLeader(ctx, leader, req)
	return err
}

// inCatalog reports whether a node is a member of the catalog's group.
func (n *Node) inCatalog(id fulcrum.NodeID) bool {
	return slices.ContainsFunc(n.catalog.Servers(), func(s raft.Server) bool { return s.Node == id })
}

// votes reports whether a node is a voter of the catalog's group.
func (n *Node) votes(id fulcrum.NodeID) bool {
	return slices.ContainsFunc(n.catalog.Servers(), func(s raft.Server) bool { return s.Node == id && s.Voter })
}

// propose changes the catalog, through its leader wherever that is. It returns
// the place that a copy of the catalog must have reached to show the change.
func (n *Node) propose(ctx context.Context, c catalog.Command) (catalog.Applied, error) {
	return n.proposed(ctx, c, false)
}

// proposeHere changes the catalog by this leader's log, and no other's: what stood in that
// before, such as a configuration of the catalog's group that is not committed yet, is
// committed with it.
func (n *Node) proposeHere(ctx context.Context, c catalog.Command) error {
	c.At = n.wall().UTC()
	cmd, err := catalog.Encode(c)
	if err != nil {
		return err
	}
	_, err = catalogResult(n.catalog.Propose(ctx, cmd))
	return err
}

// change is propose for what somebody waits for: a leader that was cut off is asked by a
// round first whether it still is one, so that its answer is a refusal and not, as that of
// a command in its log, an unknown outcome.
func (n *Node) change(ctx context.Context, c catalog.Command) (catalog.Applied, error) {
	return n.proposed(ctx, c, true)
}

func (n *Node) proposed(ctx context.Context, c catalog.Command, confirm bool) (catalog.Applied, error) {
	var applied catalog.Applied
	c.At = n.wall().UTC()
	cmd, err := catalog.Encode(c)
	if err != nil {
		return applied, err
	}
	out, err := n.toCatalogLeader(ctx, adminRequest{Do: "propose", Command: cmd, Confirm: confirm})
	if err != nil {
		return applied, err
	}
	if err := json.Unmarshal(out, &applied); err != nil {
		return applied, fulcrum.Errorf(fulcrum.CodeInternal, "answer to a proposal: %w", err)
	}
	return applied, nil
}

func catalogResult(result any, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	if e, ok := result.(error); ok {
		return nil, e
	}
	return result, nil
}

// How long a change of the catalog is tried again before it is refused: an election, and
// the one after it, take less. Where too few voters are in reach there will be none.
const (
	catalogPatience  = 5 * time.Second
	minorityPatience = time.Second
)

// toCatalogLeader asks the catalog's leader, and asks again while there is none, for
// catalogPatience or until ctx ends. Only answers that say "definitely not done" are asked
// again; one that is under way is waited for until ctx ends.
func (n *Node) toCatalogLeader(ctx context.Context, req adminRequest) (json.RawMessage, error) {
	try := func() (json.RawMessage, error) {
		leader, self := n.catalog.Leader()
		if !self && leader == "" {
			if leader = n.anyInitial(); leader == "" {
				return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "the catalog has no leader")
			}
		}
		if self {
			out, err := n.admin(ctx, n.opt.Name, req)
			if err != nil {
				return nil, err
			}
			return json.Marshal(out)
		}
		return n.askCatalogLeader(ctx, leader, req)
	}
	began := time.Now()
	for {
		out, err := try()
		for hops := 0; hops < 3 && errors.Is(err, fulcrum.ErrNotLeader); hops++ {
			hint := fulcrum.NodeID(fulcrum.AsError(err).Hint)
			if hint == n.opt.Name && !n.registered() {
				err = &fulcrum.Error{Code: fulcrum.CodeUnavailable, Detail: "the catalog's leader has this node's name", Err: errNamesake}
			}
			if hint == "" || hint == n.opt.Name {
				break
			}
			out, err = n.askCatalogLeader(ctx, hint, req)
		}
		if err == nil || !retriable(err) {
			return out, err
		}
		if refusal := n.leaderless(ctx, time.Since(began), err); refusal != nil {
			return nil, refusal
		}
		select {
		case <-ctx.Done(): // err says more than one more try would
			return nil, n.leaderless(ctx, time.Since(began), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// leaderless returns the refusal of a change of the catalog that has been tried for so long,
// the last time with err; nil: try again.
func (n *Node) leaderless(ctx context.Context, tried time.Duration, err error) error {
	if tried >= minorityPatience && ctx.Err() == nil {
		voters := n.catalogVoters()
		if reached, need := n.reached(ctx, voters), len(voters)/2+1; len(voters) > 0 && reached < need && ctx.Err() == nil {
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "the catalog cannot be changed from %s, which reaches %d of its %d voters; %d are needed", n.opt.Name, reached, len(voters), need).
				WithHint("send it to a node on the side of the majority, or bring the others back: fulcrum status shows nodes and faults")
		}
	}
	if tried < catalogPatience && ctx.Err() == nil {
		return nil
	}
	return fulcrum.Errorf(fulcrum.CodeUnavailable, "the catalog cannot be changed now: %w", err).
		WithHint("a majority of its voters must be up and connected; see fulcrum status")
}

// catalogVoters are the voters of the catalog's group, as far as this node knows.
func (n *Node) catalogVoters() []fulcrum.NodeID {
	var voters []fulcrum.NodeID
	for _, s := range n.catalog.Servers() {
		if s.Voter {
			voters = append(voters, s.Node)
		}
	}
	return voters
}

// errNamesake says that others take a node of our name for the catalog's leader,
// which we are not.
var errNamesake = errors.New("a node with the same name leads the catalog")

// catalogPing bounds the question whether the catalog's leader is there at all.
const catalogPing = time.Second

// askCatalogLeader sends a request to a node that is believed to lead the catalog. A
// leader that was just cut off is found out first, by a ping: a command sent to it would
// have an unknown outcome, while the others are electing the one who can take it.
func (n *Node) askCatalogLeader(ctx context.Context, leader fulcrum.NodeID, req adminRequest) (json.RawMessage, error) {
	pingCtx, cancel := context.WithTimeout(ctx, catalogPing)
	defer cancel()
	if _, err := n.peers.Call(pingCtx, leader, chPing, nil); err != nil {
		return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "the catalog's leader %s cannot be reached from %s", leader, n.opt.Name)
	}
	return ask[json.RawMessage](ctx, n, leader, req)
}

// anyInitial picks a node to ask who leads, for one that has not been told yet: one that it was
// started with, else one of its copy of the catalog.
func (n *Node) anyInitial() fulcrum.NodeID {
	for _, m := range []map[fulcrum.NodeID]string{n.opt.Join, n.opt.Initial} {
		for id := range m { // a random one
			if id != n.opt.Name {
				return id
			}
		}
	}
	for id := range n.machine.State().Nodes {
		if id != n.opt.Name {
			return id
		}
	}
	return ""
}

// retriable reports whether err says "definitely not done, maybe later".
func retriable(err error) bool {
	e := fulcrum.AsError(err)
	if e.Maybe {
		return false
	}
	switch e.Code {
	case fulcrum.CodeNotLeader, fulcrum.CodeUnavailable, fulcrum.CodeEpoch:
		return true
	}
	return false
}

func (n *Node) saveCatalog() error {
	<-n.saving
	defer func() { n.saving <- struct{}{} }()
	return n.store.SetRecord("catalog", n.machine.Snapshot())
}

// runCatalogCopy keeps the newest catalog on this node's disk, so that after a
// restart keys are served before the catalog has a leader.
func (n *Node) runCatalogCopy(ctx context.Context) error {
	saved := n.machine.State()
	for {
		changed := n.machine.Changed()
		if st := n.machine.State(); st != saved {
			if err := n.saveCatalog(); err != nil {
				return err
			}
			saved = st
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
