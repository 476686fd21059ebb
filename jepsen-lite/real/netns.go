package real

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/local"
)

// Names of what Netns makes; Linux allows 15 bytes for an interface. They are the same
// each time, so that what a run that was killed left behind is seen and not piled up.
const (
	bridge   = "fulcrum-jl"
	table    = "jepsenlite"
	inside   = "eth0" // of each namespace
	prefix   = "10.77.0."
	gateway  = prefix + "254" // of this side: where clients come from
	maxNodes = 200
	toolTime = 5 * time.Second // for one command
)

// network puts every node into a network namespace of its own. They are joined by a
// bridge, and nftables loses and doubles packets on their way into a node and out of it.
// Its methods need the World's turn.
type network struct {
	nodes       int
	made        []string // namespaces
	bridged     bool
	faults      []fulcrum.Fault
	probability float64          // of duplicates
	past        map[string]int64 // by kind: packets of rules that are no more
	now         map[string]int64 // of those that are, when last looked at
}

func space(i int) string   { return fmt.Sprintf("%s-n%d", bridge, i) }
func address(i int) string { return prefix + strconv.Itoa(i) }

// openNetwork makes namespaces for nodes n1 to n. What it cannot do it says before it
// makes anything; when it fails later it removes what it made.
func openNetwork(ctx context.Context, n int) (*network, error) {
	if err := toolsFor(n); err != nil {
		return nil, err
	}
	if exec.CommandContext(ctx, "ip", "link", "show", bridge).Run() == nil {
		return nil, fulcrum.Errorf(fulcrum.CodeExists, "there is a bridge %s already: another test runs, or one was killed", bridge).
			WithHint("when none runs: ip link del %s; for i in $(seq %d); do ip netns del %s-n$i; done", bridge, n, bridge)
	}
	nw := &network{nodes: n, past: map[string]int64{}, now: map[string]int64{}}
	if err := nw.build(ctx); err != nil {
		return nil, errors.Join(err, nw.close(context.WithoutCancel(ctx)))
	}
	return nw, nil
}

func toolsFor(n int) error {
	if os.Geteuid() != 0 {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "network namespaces need root").WithHint("run as root, or without them")
	}
	for tool, pkg := range map[string]string{"ip": "iproute2", "nft": "nftables"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "network namespaces need the command %s", tool).WithHint("apt-get install %s", pkg)
		}
	}
	if n < 1 || n > maxNodes {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "%d nodes in namespaces: want 1 to %d", n, maxNodes)
	}
	return nil
}

func (nw *network) build(ctx context.Context) error {
	if _, err := tool(ctx, "", "ip", "link", "add", bridge, "type", "bridge"); err != nil {
		return err
	}
	nw.bridged = true
	steps := [][]string{{"addr", "add", gateway + "/24", "dev", bridge}, {"link", "set", bridge, "up"}}
	for i := 1; i <= nw.nodes; i++ {
		ns, outside := space(i), bridge+strconv.Itoa(i)
		if _, err := tool(ctx, "", "ip", "netns", "add", ns); err != nil {
			return err
		}
		nw.made = append(nw.made, ns)
		steps = append(steps,
			[]string{"link", "add", outside, "type", "veth", "peer", "name", inside, "netns", ns},
			[]string{"link", "set", outside, "master", bridge, "up"},
			[]string{"-n", ns, "addr", "add", address(i) + "/24", "dev", inside},
			[]string{"-n", ns, "link", "set", inside, "up"},
			[]string{"-n", ns, "link", "set", "lo", "up"})
	}
	for _, s := range steps {
		if _, err := tool(ctx, "", "ip", s...); err != nil {
			return err
		}
	}
	return nw.install(ctx)
}

// close removes all that was made; the nodes must have ended.
func (nw *network) close(ctx context.Context) error {
	var errs []error
	for i := range nw.made { // at once: with the namespaces they go some time later, in the way of the next test
		_, _ = tool(ctx, "", "ip", "link", "del", bridge+strconv.Itoa(i+1)) // not there when build failed before it
	}
	for _, ns := range nw.made { // their ends of the links, and so the others, go with them
		_, err := tool(ctx, "", "ip", "netns", "del", ns)
		errs = append(errs, err)
	}
	if nw.bridged {
		_, err := tool(ctx, "", "ip", "link", "del", bridge)
		errs = append(errs, err)
	}
	nw.made, nw.bridged = nil, false
	return errors.Join(errs...)
}

// place is local.Spec.Place.
func (nw *network) place(n *local.Node) {
	for _, addr := range []*string{&n.RedisAddr, &n.HTTPAddr, &n.PeerAddr, &n.GossipAddr} {
		*addr = address(n.Index) + (*addr)[strings.LastIndexByte(*addr, ':'):]
	}
	n.Exec = []string{"ip", "netns", "exec", space(n.Index)}
}

// carries reports whether a fault is done to packets. What is slow, and what concerns
// one kind of traffic only, nodes do to themselves.
func (nw *network) carries(f fulcrum.Fault) bool {
	if f.Only != "" {
		return false
	}
	switch f.Kind {
	case "partition", "isolate":
		return true
	case "link":
		return (f.Drop || f.Loss > 0) && f.Delay == 0 && f.Jitter == 0 && f.Rate == 0
	}
	return false
}

// apply makes these the faults that packets suffer.
func (nw *network) apply(ctx context.Context, faults []fulcrum.Fault) error {
	for _, f := range faults {
		for _, n := range slices.Concat(append(slices.Clone(f.Sides), []fulcrum.NodeID{f.Node, f.From, f.To})...) {
			if i := indexOf(n); n != "" && (i < 1 || i > nw.nodes) {
				return fulcrum.Errorf(fulcrum.CodeInvalid, "fault %s: no node %q", f.ID, n)
			}
		}
	}
	nw.faults = faults
	return nw.install(ctx)
}

// duplicate makes packets between nodes arrive twice with a probability; 0: none.
func (nw *network) duplicate(ctx context.Context, probability float64) error {
	if probability < 0 || probability > 1 {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "duplicate with probability %v: want 0 to 1", probability)
	}
	nw.probability = probability
	return nw.install(ctx)
}

// install replaces the rules of every namespace, each at once.
func (nw *network) install(ctx context.Context) error {
	nw.look(ctx)
	for kind, n := range nw.now {
		nw.past[kind] += n
	}
	nw.now = map[string]int64{}
	var errs []error
	for i := 1; i <= nw.nodes; i++ {
		_, err := tool(ctx, nw.rules(i), "ip", "netns", "exec", space(i), "nft", "-f", "-")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// rules is the nftables script of node i. Packets are lost where they arrive: who sends
// them must not see an error.
func (nw *network) rules(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table ip %s\ndelete table ip %s\ntable ip %s {\n", table, table, table)
	b.WriteString("chain arriving { type filter hook input priority 0; policy accept;\n")
	for j := 1; j <= nw.nodes; j++ {
		for _, f := range nw.faults {
			if loss := lossOf(f, nodeName(j), nodeName(i)); loss > 0 && i != j {
				fmt.Fprintf(&b, "ip saddr %s %s counter drop comment \"%s\"\n", address(j), chance(loss), f.Kind)
			}
		}
	}
	b.WriteString("}\nchain leaving { type filter hook output priority 0; policy accept;\n")
	for j := 1; j <= nw.nodes; j++ {
		if nw.probability > 0 && i != j {
			fmt.Fprintf(&b, "ip daddr %s %s counter dup to %s device \"%s\" comment \"duplicate\"\n", address(j), chance(nw.probability), address(j), inside)
		}
	}
	b.WriteString("}\n}\n")
	return b.String()
}

func chance(p float64) string {
	if p >= 1 {
		return ""
	}
	return fmt.Sprintf("numgen random mod 10000 < %d", max(1, int(p*10000)))
}

// lossOf is the part of the packets on one way that a fault takes.
func lossOf(f fulcrum.Fault, from, to fulcrum.NodeID) float64 {
	side := func(n fulcrum.NodeID) int {
		return slices.IndexFunc(f.Sides, func(s []fulcrum.NodeID) bool { return slices.Contains(s, n) })
	}
	switch f.Kind {
	case "partition":
		if a, b := side(from), side(to); a >= 0 && b >= 0 && a != b {
			return 1
		}
	case "isolate":
		if from == f.Node || to == f.Node {
			return 1
		}
	case "link":
		if from == f.From && to == f.To || !f.OneWay && from == f.To && to == f.From {
			if f.Drop {
				return 1
			}
			return f.Loss
		}
	}
	return 0
}

func nodeName(i int) fulcrum.NodeID { return fulcrum.NodeID("n" + strconv.Itoa(i)) }

func indexOf(n fulcrum.NodeID) int {
	i, err := strconv.Atoi(strings.TrimPrefix(string(n), "n"))
	if err != nil {
		return -1
	}
	return i
}

// hits counts packets that were lost or doubled, by kind of fault.
func (nw *network) hits(ctx context.Context) map[string]int64 {
	nw.look(ctx)
	out := maps.Clone(nw.past)
	for kind, n := range nw.now {
		out[kind] += n
	}
	return out
}

// look reads the counters of all rules. When one namespace cannot be read, what was
// seen last stays.
func (nw *network) look(ctx context.Context) {
	now := map[string]int64{}
	for i := 1; i <= nw.nodes; i++ {
		out, err := tool(ctx, "", "ip", "netns", "exec", space(i), "nft", "-j", "list", "table", "ip", table)
		if err == nil {
			err = countersOf(out, now)
		}
		if err != nil {
			return
		}
	}
	nw.now = now
}

// countersOf adds up what `nft -j` lists, by the rules' comments.
func countersOf(out []byte, into map[string]int64) error {
	var list struct {
		Nftables []struct {
			Rule struct {
				Comment string
				Expr    []struct{ Counter struct{ Packets int64 } }
			}
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return err
	}
	for _, item := range list.Nftables {
		for _, e := range item.Rule.Expr {
			into[item.Rule.Comment] += e.Counter.Packets
		}
	}
	delete(into, "")
	return nil
}

// tool runs a command of the system.
func tool(ctx context.Context, input, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "%s %s: %w: %.300s", name, strings.Join(args, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.Bytes(), nil
}
