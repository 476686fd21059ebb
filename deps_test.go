package fulcrum_test

import (
	"go/ast"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What a package may import, besides the standard library. A package that is not in
// here does not belong to the house: give it a line, and docs/architecture.md too.
type imports struct {
	house   []string // packages of this module, without the module's name; "" is the root
	library []string // modules of others
}

const (
	prometheus = "github.com/prometheus/client_golang"
	pebble     = "github.com/cockroachdb/pebble/v2"
	btree      = "github.com/tidwall/btree"
	xxhash     = "github.com/cespare/xxhash/v2"
	xsync      = "golang.org/x/sync"
	xsys       = "golang.org/x/sys"
	koanf      = "github.com/knadh/koanf"
)

// house says which package may import which. Imports go down only: what a line names
// stands above that line.
var house = map[string]imports{
	// The words that all share, and what needs no goroutine, no I/O and no clock.
	"":            {},
	"consistency": {house: []string{""}},
	"partition":   {house: []string{""}, library: []string{xxhash}},
	"node/fault":  {house: []string{""}},
	"mutant":      {},

	// The contract of a mode, the modes, and the suite that each of them passes. No mode
	// knows another one, a disk or a socket.
	"replication":                 {house: []string{"", "consistency", "mutant"}},
	"replication/raft":            {house: []string{"", "consistency", "mutant", "replication", "replication/raft/protocol"}},
	"replication/raft/protocol":   {house: []string{"", "mutant"}},
	"replication/quorum":          {house: []string{"", "consistency", "mutant", "replication"}, library: []string{xxhash, xsync}},
	"replication/leaderfollower":  {house: []string{"", "consistency", "mutant", "replication"}, library: []string{xsync}},
	"replication/replicationtest": {house: []string{"", "consistency", "replication"}, library: []string{btree}},

	// The edges: each knows one thing outside (a disk, a network, a protocol of clients)
	// and no other edge.
	"node/netfault":         {house: []string{"", "node/fault"}},
	"node/transport":        {house: []string{""}, library: []string{prometheus, xsys}},
	"node/membership":       {house: []string{""}, library: []string{"github.com/hashicorp/memberlist", prometheus, xsync}},
	"node/storage":          {house: []string{"", "mutant", "replication"}, library: []string{pebble, "go.etcd.io/bbolt", btree, prometheus, xsync, xsys}},
	"node/catalog":          {house: []string{"", "consistency", "partition"}},
	"node/api":              {house: []string{"", "consistency"}},
	"node/api/resp":         {house: []string{"", "consistency", "node/api"}, library: []string{prometheus}},
	"node/api/http":         {house: []string{"", "consistency", "node/api"}, library: []string{prometheus}},
	"node/api/http/apitest": {house: []string{"", "consistency", "node/api"}},

	// The only place where edges and protocols meet.
	"node": {
		house: []string{"", "consistency", "partition", "mutant", "replication", "replication/raft", "replication/quorum", "replication/leaderfollower",
			"node/fault", "node/netfault", "node/transport", "node/membership", "node/storage", "node/catalog",
			"node/api", "node/api/resp", "node/api/http"},
		library: []string{prometheus, pebble, xsync}, // of pebble, the seam to the file system
	},

	// Those that reach a cluster as its users do: nothing of node, and no library of a node.
	"client": {house: []string{"", "consistency", "partition"}},
	"local":  {house: []string{""}, library: []string{xsync}},
	"lab":    {house: []string{"", "consistency", "client"}, library: []string{xsync}},
	"bench":  {house: []string{""}, library: []string{"github.com/HdrHistogram/hdrhistogram-go"}},

	// Measure fulcrum as things grow, and beside other stores, which are driven by modules of
	// their own.
	"bench/peers":   {house: []string{"bench", "bench/figures", "local"}},
	"bench/growth":  {house: []string{"", "bench", "bench/figures", "local"}},
	"bench/figures": {},

	// Judges histories; pure.
	"jepsen-lite/history": {house: []string{"", "consistency"}},
	"jepsen-lite/checker": {house: []string{"", "consistency", "jepsen-lite/history"}, library: []string{"github.com/anishathalye/porcupine"}},
	"jepsen-lite/report":  {house: []string{"", "consistency", "jepsen-lite/history", "jepsen-lite/checker"}},

	// Breaks a cluster that it knows by an interface only.
	"jepsen-lite/nemesis": {house: []string{"", "jepsen-lite/history", "mutant"}},

	// Opens whole nodes in virtual time, on a network and a file system in memory.
	"jepsen-lite/sim": {house: []string{"", "consistency", "node", "node/api", "jepsen-lite/history", "jepsen-lite/nemesis", "jepsen-lite/workload"}, library: []string{pebble, prometheus}},

	// Runs clusters of the binary, and attaches to running ones.
	"jepsen-lite/real": {house: []string{"", "consistency", "client", "local", "jepsen-lite/nemesis", "jepsen-lite/workload", "jepsen-lite/history"}},

	// Puts these together: runs a test on a world, records it, has it judged and kept.
	"jepsen-lite/workload": {house: []string{"", "consistency", "jepsen-lite/history"}},
	"jepsen-lite": {house: []string{"", "consistency", "mutant", "jepsen-lite/checker", "jepsen-lite/history", "jepsen-lite/nemesis", "jepsen-lite/real",
		"jepsen-lite/report", "jepsen-lite/sim", "jepsen-lite/workload"}, library: []string{xsync}},

	"cmd/fulcrum": {
		house: []string{"", "consistency", "partition", "client", "local", "lab", "bench", "mutant", "node",
			"jepsen-lite", "jepsen-lite/checker", "jepsen-lite/nemesis", "jepsen-lite/workload"},
		library: []string{"github.com/spf13/cobra", "github.com/spf13/pflag", koanf, "github.com/lmittmann/tint", xsys},
	},
}

func TestImportsGoDownOnly(t *testing.T) {
	found := read(t)
	for _, pkg := range slices.Sorted(maps.Keys(found)) {
		allowed, known := house[pkg]
		if !known {
			t.Errorf("package %q is not in the house: give it a line in deps_test.go", pkg)
			continue
		}
		for _, imp := range slices.Sorted(maps.Keys(found[pkg])) {
			if !allowed.allows(imp) {
				t.Errorf("%s imports %s, which deps_test.go does not let it", found[pkg][imp], imp)
			}
		}
	}
}

// TestRulesAreTight fails when a rule allows what nothing needs: a list that is wider
// than the code stops nobody.
func TestRulesAreTight(t *testing.T) {
	found := read(t)
	for _, pkg := range slices.Sorted(maps.Keys(house)) {
		if _, exists := found[pkg]; !exists {
			t.Errorf("package %q is in deps_test.go and nowhere else", pkg)
			continue
		}
		for _, lib := range house[pkg].library {
			one := imports{library: []string{lib}}
			if !slices.ContainsFunc(slices.Collect(maps.Keys(found[pkg])), one.allows) {
				t.Errorf("%q may import %s and does not", pkg, lib)
			}
		}
	}
}

// TestUsersOfAClusterKnowNoNode repeats the one rule that a wide line could hide.
func TestUsersOfAClusterKnowNoNode(t *testing.T) {
	found := read(t)
	for _, pkg := range []string{"client", "local", "lab", "bench"} {
		for imp, file := range found[pkg] {
			if imp == "fulcrum/node" || strings.HasPrefix(imp, "fulcrum/node/") {
				t.Errorf("%s imports %s: a client talks to a cluster over the network, as a user does", file, imp)
			}
		}
	}
}

func TestTheRuleItself(t *testing.T) {
	rule := imports{house: []string{"", "node/api"}, library: []string{"example.com/lib"}}
	for imp, want := range map[string]bool{
		"fulcrum": true, "fulcrum/node/api": true, "fulcrum/node": false, "fulcrum/node/api/http": false,
		"example.com/lib": true, "example.com/lib/sub": true, "example.com/library": false, "example.com": false,
	} {
		if rule.allows(imp) != want {
			t.Errorf("%s: allowed %v, want %v", imp, !want, want)
		}
	}
}

// TestNoticeNamesWhatIsLinked keeps NOTICE at the versions of go.mod: the Mozilla license
// asks that a binary says where its source is.
func TestNoticeNamesWhatIsLinked(t *testing.T) {
	notice, mod := lines(t, "NOTICE"), lines(t, "go.mod")
	other := []string{"go-hclog", "go-metrics", "go-msgpack/v2"} // of the same makers, under the MIT license
	for _, line := range mod {
		line = strings.TrimSuffix(strings.TrimSpace(line), " // indirect")
		name, ours := strings.CutPrefix(line, "github.com/hashicorp/")
		name, _, _ = strings.Cut(name, " ")
		if ours && !slices.Contains(other, name) && !slices.Contains(notice, "  "+line) {
			t.Errorf("NOTICE has no line %q", line)
		}
	}
	for _, line := range notice {
		if strings.HasPrefix(line, "  github.com/hashicorp/") && !slices.ContainsFunc(mod, func(m string) bool { return strings.Contains(m, strings.TrimSpace(line)) }) {
			t.Errorf("NOTICE names %q, go.mod does not", strings.TrimSpace(line))
		}
	}
}

func lines(t *testing.T, name string) []string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

func (i imports) allows(imp string) bool {
	if imp == "fulcrum" || strings.HasPrefix(imp, "fulcrum/") {
		return slices.Contains(i.house, strings.TrimPrefix(strings.TrimPrefix(imp, "fulcrum"), "/"))
	}
	return slices.ContainsFunc(i.library, func(lib string) bool { return imp == lib || strings.HasPrefix(imp, lib+"/") })
}

// read returns what each package's files import, tests excepted, and one file that
// does: of this module and of others, without the standard library.
func read(t *testing.T) map[string]map[string]string {
	t.Helper()
	found := map[string]map[string]string{}
	eachFile(t, func(name string, f *ast.File) {
		pkg := strings.TrimPrefix(path.Dir(filepath.ToSlash(name)), ".")
		if found[pkg] == nil {
			found[pkg] = map[string]string{}
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(imp, "/")
			if first == "fulcrum" || strings.Contains(first, ".") {
				found[pkg][imp] = name
			}
		}
	})
	return found
}
