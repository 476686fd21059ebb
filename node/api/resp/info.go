package resp

import (
	"context"
	"fmt"
	"runtime"
	runtimemetrics "runtime/metrics"
	"strings"
	"time"
)

// serverCommands are the commands about the server.
func serverCommands() []command {
	cmd := func(name string, arity int, since, summary string, run func(*conn, [][]byte)) command {
		return command{name: name, arity: arity, flags: "loading stale", group: "server", since: since, summary: summary, run: run}
	}
	refuse := func(text string) func(*conn, [][]byte) {
		return func(c *conn, _ [][]byte) { c.out.fail(text) }
	}
	return []command{
		cmd("info", -1, "1.0.0", "Returns figures of this node.", runInfo),
		cmd("config", -2, "2.0.0", "CONFIG GET shows a few settings that clients ask for.", runConfig),
		cmd("command", -1, "2.8.13", "Returns the commands.", runCommand),
		cmd("time", 1, "2.6.0", "Returns the node's clock.", runTime),
		cmd("cluster", -2, "3.0.0", "Refused: any node answers for every key.", refuse("ERR This instance has cluster support disabled")),
		cmd("debug", -2, "1.0.0", "Refused.", refuse("ERR DEBUG is refused: use 'fulcrum fault' to break things")),
	}
}

func runTime(c *conn, _ [][]byte) {
	ms := c.s.backend.Now()
	c.out.array(2)
	c.out.text(itoa(ms / 1000))
	c.out.text(itoa(ms % 1000 * 1000))
}

// configValues are the settings that clients and tools look at, with what is true here.
func configValues(c *conn) [][2]string {
	most := int64(0)
	for _, ks := range c.s.backend.Keyspaces() {
		most = max(most, int64(ks.ID))
	}
	return [][2]string{
		{"save", ""},
		{"appendonly", "yes"},
		{"appendfsync", "always"},
		{"maxmemory", "0"},
		{"maxmemory-policy", "noeviction"},
		{"maxclients", itoa(int64(c.s.opt.MaxClients))},
		{"databases", itoa(most + 1)},
		{"timeout", itoa(int64(c.s.opt.IdleTimeout / time.Second))},
		{"proto-max-bulk-len", itoa(int64(c.s.opt.MaxValue))},
		{"cluster-enabled", "no"},
		{"requirepass", ""},
		{"notify-keyspace-events", ""},
	}
}

func runConfig(c *conn, args [][]byte) {
	switch {
	case word(args[1], "GET") && len(args) >= 3:
		var hits [][2]string
		for _, v := range configValues(c) {
			for _, pattern := range args[2:] {
				if globMatch([]byte(strings.ToLower(string(pattern[:min(len(pattern), 256)]))), []byte(v[0])) {
					hits = append(hits, v)
					break
				}
			}
		}
		c.out.mapping(len(hits))
		for _, v := range hits {
			c.out.text(v[0])
			c.out.text(v[1])
		}
	case word(args[1], "GET"):
		c.out.fail("ERR wrong number of arguments for 'config|get' command")
	case word(args[1], "SET"), word(args[1], "REWRITE"), word(args[1], "RESETSTAT"):
		c.out.fail("ERR CONFIG can only GET here: settings are the flags of 'fulcrum serve'")
	default:
		c.out.fail("ERR unknown subcommand '" + string(args[1][:min(len(args[1]), 64)]) + "'. Try CONFIG GET.")
	}
}

type infoSection struct {
	name  string
	write func(c *conn, b *strings.Builder)
}

func infoSections() []infoSection {
	return []infoSection{
		{"server", infoServer}, {"clients", infoClients}, {"memory", infoMemory}, {"persistence", infoPersistence},
		{"stats", infoStats}, {"replication", infoReplication}, {"cluster", infoCluster}, {"keyspace", infoKeyspace}, {"fulcrum", infoFulcrum},
	}
}

func runInfo(c *conn, args [][]byte) {
	want := map[string]bool{}
	for _, a := range args[1:] {
		name := strings.ToLower(string(a[:min(len(a), 64)]))
		want[name] = true
	}
	all := len(args) == 1 || want["all"] || want["everything"] || want["default"]
	var b strings.Builder
	for _, s := range infoSections() {
		if !all && !want[s.name] {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString("# " + strings.ToUpper(s.name[:1]) + s.name[1:] + "\r\n")
		s.write(c, &b)
	}
	c.out.verbatim(b.String())
}

func infoServer(c *conn, b *strings.Builder) {
	up := int64(time.Since(c.s.started).Seconds())
	fmt.Fprintf(b, "redis_version:%s\r\nredis_mode:standalone\r\nos:%s\r\narch_bits:64\r\nuptime_in_seconds:%d\r\nuptime_in_days:%d\r\n",
		redisVersion, runtime.GOOS, up, up/86400)
}

func infoClients(c *conn, b *strings.Builder) {
	fmt.Fprintf(b, "connected_clients:%d\r\nmaxclients:%d\r\nblocked_clients:0\r\n", len(c.s.connections()), c.s.opt.MaxClients)
}

func infoMemory(c *conn, b *strings.Builder) {
	fmt.Fprintf(b, "used_memory:%d\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\nclient_buffers:%d\r\n", usedMemory(), c.s.budget.used.Load())
}

// usedMemory is what the Go runtime has of the system and has not given back. Reading it
// stops nobody.
func usedMemory() uint64 {
	s := []runtimemetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	runtimemetrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}

func infoPersistence(_ *conn, b *strings.Builder) { b.WriteString("loading:0\r\n") }

func infoStats(c *conn, b *strings.Builder) {
	fmt.Fprintf(b, "total_connections_received:%d\r\ntotal_commands_processed:%d\r\n", c.s.accepted.Load(), c.s.served.Load())
}

func infoReplication(_ *conn, b *strings.Builder) {
	b.WriteString("role:master\r\nconnected_slaves:0\r\n") // every node takes writes for every key
}

func infoCluster(_ *conn, b *strings.Builder) { b.WriteString("cluster_enabled:0\r\n") }

// infoKeyspace leaves out keyspaces that are empty or do not answer in a second. How many
// keys expire nobody counts; clients want the field.
func infoKeyspace(c *conn, b *strings.Builder) {
	ctx, cancel := context.WithTimeout(c.ctx, min(time.Second, c.s.opt.RequestTimeout))
	defer cancel()
	for _, ks := range c.s.backend.Keyspaces() {
		if n, err := c.s.backend.Count(ctx, ks.Name); err == nil && n > 0 {
			fmt.Fprintf(b, "db%d:keys=%d,expires=0,avg_ttl=0\r\n", ks.ID, n)
		}
	}
}

func infoFulcrum(c *conn, b *strings.Builder) {
	info := c.s.backend.Cluster()
	fmt.Fprintf(b, "fulcrum_version:%s\r\ncluster_id:%s\r\nnode:%s\r\n", info.Version, info.ClusterID, info.Node)
	for _, ks := range c.s.backend.Keyspaces() {
		fmt.Fprintf(b, "keyspace%d:name=%s,mode=%s,read=%s,write=%s\r\n", ks.ID, ks.Name, ks.Mode, ks.ReadLevel, ks.WriteLevel)
	}
}
