package main

import (
	"slices"
	"strconv"
	"strings"
)

// The systems.
const (
	fulcrumNode = "fulcrum"
	etcd        = "etcd"
	redis       = "redis"      // one server, memory only
	redisSync   = "redis-sync" // fsync always, two replicas
)

// contest is one thing to do, by ours and by others at it.
type contest struct {
	name    string
	about   string
	clients []int
	ours    entry
	others  []entry
}

// entry is one system at a contest.
type entry struct {
	system string
	label  string
	args   []string
	goals  map[int]float64 // by clients: the least ratio of ours to this one that we want
}

// pipes are the arguments for batches of 16.
func pipes(args ...string) []string { return append(args, "--pipeline", "16") }

// cases are all contests, with the goals that the project has set itself.
var cases = []contest{
	{"set", "write one key", []int{1, 64, 256},
		entry{fulcrumNode, "fulcrum SET", []string{"--mix", "set"}, nil},
		[]entry{{etcd, "etcd put", []string{"--mix", "set"}, map[int]float64{1: 1.3, 64: 4, 256: 4}}}},
	{"get", "read one key, linearizable", []int{1, 64, 256},
		entry{fulcrumNode, "fulcrum GET, linearizable", []string{"--mix", "get", "--read-level", "linearizable"}, nil},
		[]entry{{etcd, "etcd get, linearizable", []string{"--mix", "get"}, map[int]float64{1: 2.5, 64: 4, 256: 3}}}},
	{"get-one", "read one key from one node", []int{64},
		entry{fulcrumNode, "fulcrum GET, one", []string{"--mix", "get", "--read-level", "one"}, nil},
		[]entry{{redis, "Redis GET, one server in memory", []string{"--mix", "get"}, map[int]float64{64: 0.8}},
			{etcd, "etcd get, serializable", []string{"--mix", "get", "--read-level", "serializable"}, nil}}},
	{"get-one-pipe16", "the same in pipelines of 16", []int{64},
		entry{fulcrumNode, "fulcrum GET, one, pipelines of 16", pipes("--mix", "get", "--read-level", "one"), nil},
		[]entry{{redis, "Redis GET, pipelines of 16", pipes("--mix", "get"), map[int]float64{64: 0.4}}}},
	{"set-pipe16", "write in pipelines of 16, against one by one", []int{64},
		entry{fulcrumNode, "fulcrum SET, pipelines of 16", pipes("--mix", "set"), nil},
		[]entry{{fulcrumNode, "fulcrum SET, one by one", []string{"--mix", "set"}, map[int]float64{64: 3}}}},
	ycsb("a", "half reads, half writes"), ycsb("b", "95 % reads"), ycsb("c", "only reads"),
	oneGroup(contest{"set-1", "write one key", []int{1, 64, 256},
		entry{fulcrumNode, "fulcrum SET", []string{"--mix", "set"}, nil},
		[]entry{{etcd, "etcd put", []string{"--mix", "set"}, map[int]float64{1: 1.3, 64: 4, 256: 4}}}}),
	oneGroup(contest{"get-1", "read one key, linearizable", []int{1, 64, 256},
		entry{fulcrumNode, "fulcrum GET, linearizable", []string{"--mix", "get", "--read-level", "linearizable"}, nil},
		[]entry{{etcd, "etcd get, linearizable", []string{"--mix", "get"}, map[int]float64{1: 2.5, 64: 4, 256: 3}}}}),
	oneGroup(ycsb("a", "half reads, half writes")), oneGroup(ycsb("b", "95 % reads")), oneGroup(ycsb("c", "only reads")),
	goYCSB("a", "half reads, half writes"), goYCSB("b", "95 % reads"), goYCSB("c", "only reads"),
	oneGroup(goYCSB("a", "half reads, half writes")), oneGroup(goYCSB("b", "95 % reads")), oneGroup(goYCSB("c", "only reads")),
	{"set-sync", "write one key, synced and replicated, against Redis", []int{64},
		entry{fulcrumNode, "fulcrum SET, synced on a majority", []string{"--mix", "set"}, nil},
		[]entry{{redisSync, "Redis SET, synced on the primary", []string{"--mix", "set"}, nil},
			{redisSync, "Redis SET, and WAIT 1", []string{"--mix", "setwait:1"}, nil},
			{redisSync, "Redis SET, and WAIT 2", []string{"--mix", "setwait:2"}, nil}}},
}

func ycsb(letter, about string) contest {
	args := []string{"--mix", "ycsb-" + letter}
	return contest{"ycsb-" + letter, "YCSB's mix: " + about + ", hot keys", []int{64},
		entry{fulcrumNode, "fulcrum, linearizable", args, nil}, []entry{{etcd, "etcd, linearizable", args, map[int]float64{64: 4}}}}
}

// byYCSB begins the names of the contests that go-ycsb drives, with records of its own.
const byYCSB = "go-ycsb-"

// goYCSB is a workload of go-ycsb, through its bindings of Redis and of etcd. Both read and
// write linearizably there: fulcrum's keyspaces by default, and the binding of etcd always.
func goYCSB(letter, about string) contest {
	args := []string{"--mix", "ycsb-" + letter}
	return contest{byYCSB + letter, "go-ycsb's workload: " + about, []int{64},
		entry{fulcrumNode, "fulcrum, through go-ycsb's redis", args, nil},
		[]entry{{etcd, "etcd, through go-ycsb's etcd", args, map[int]float64{64: 4}}}}
}

// oneShard is a keyspace of fulcrum's with one shard, that is one Raft group, as etcd has.
const oneShard = "one"

// oneGroup is c with all keys of ours in one Raft group.
func oneGroup(c contest) contest {
	if !strings.HasSuffix(c.name, "-1") {
		c.name += "-1"
	}
	c.about += "; ours in one Raft group, as etcd"
	c.ours.label += ", one shard"
	c.ours.args = append(slices.Clone(c.ours.args), "-k", oneShard)
	return c
}

// measurement is one entry at a number of clients.
type measurement struct {
	entry
	contest string
	clients int
	place   int // of the entry in the contest; 0 is ours
}

// byYCSB says whether go-ycsb drives it.
func (m measurement) byYCSB() bool { return strings.HasPrefix(m.contest, byYCSB) }

// keyspace is that of fulcrum's, if it is not the usual one.
func (m measurement) keyspace() string {
	if i := slices.Index(m.entry.args, "-k"); i >= 0 {
		return m.entry.args[i+1]
	}
	return ""
}

func (m measurement) args(s *settings) []string {
	return append([]string{"--clients", strconv.Itoa(m.clients), "--duration", s.duration.String(), "--warmup", s.warmup.String(),
		"--keys", strconv.Itoa(s.keys), "--value-size", s.size}, m.entry.args...)
}

// planOf lists the measurements of one repeat: rivals follow each other, so that they
// meet the same machine. Entries of systems that are not there are left out, and of
// go-ycsb where it is not.
func planOf(s *settings, running map[string]*system) []measurement {
	var plan []measurement
	for _, c := range cases {
		if len(s.cases) > 0 && !slices.Contains(s.cases, c.name) {
			continue
		}
		clients := c.clients
		if len(s.clients) > 0 {
			clients = s.clients
		}
		for _, n := range clients {
			for place, e := range append([]entry{c.ours}, c.others...) {
				m := measurement{e, c.name, n, place}
				if sys := running[e.system]; sys != nil && (!m.byYCSB() || sys.ycsb != nil) {
					plan = append(plan, m)
				}
			}
		}
	}
	return plan
}
