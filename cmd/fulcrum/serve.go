package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/node"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	name, clusterID, zone, host string
	redis, http, peer, gossip   string
	initial, join               []string
	basePort, index, maxValue   int
	allowFaults                 bool
	logLevel, logFormat         string
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve --name NAME --cluster-id ID [--initial-nodes n1=host:port,... | --join n1=host:port,...]",
		Short: "Run one node in the foreground",
		Long: `Run one node in the foreground, as fulcrum up, systemd, Docker and Kubernetes do.

The first nodes of a cluster are all given the same --cluster-id and --initial-nodes,
with the peer address of each. Later ones are given --join instead. A node that has
data needs neither. SIGTERM stops it in order: it answers what is under way, hands
leadership over and closes its files.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt, err := f.options(a)
			if err != nil {
				return usage(cmd, err)
			}
			if a.process {
				quietMonitor()
			}
			return serve(cmd.Context(), opt)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.name, "name", "", "the node's name in the cluster (required)")
	fl.StringVar(&f.clusterID, "cluster-id", "", "the same for all nodes of a cluster (required)")
	fl.StringVar(&f.zone, "zone", "", "where the node is: replicas are spread over zones")
	fl.StringVar(&f.host, "host", "127.0.0.1", "address to listen on and be reached at, with --base-port")
	fl.IntVar(&f.basePort, "base-port", 7000, "ports of node i are base+i, base+100+i, base+200+i and base+300+i")
	fl.IntVar(&f.index, "index", 0, "i of --base-port; default: the digits that --name ends with, or 1")
	fl.StringVar(&f.redis, "redis-addr", "", "host:port of the Redis protocol")
	fl.StringVar(&f.http, "http-addr", "", "host:port of HTTP")
	fl.StringVar(&f.peer, "peer-addr", "", "host:port for other nodes")
	fl.StringVar(&f.gossip, "gossip-addr", "", "host:port of gossip, TCP and UDP")
	fl.StringSliceVar(&f.initial, "initial-nodes", nil, "name=host:port of all first nodes' peer ports")
	fl.StringSliceVar(&f.join, "join", nil, "name=host:port of some nodes of a running cluster")
	fl.BoolVar(&f.allowFaults, "allow-faults", false, "accept injected faults")
	fl.IntVar(&f.maxValue, "max-value-bytes", fulcrum.DefaultMaxValue, "largest value taken")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fl.StringVar(&f.logFormat, "log-format", "", "text or json; default: text on a terminal, json otherwise")
	return c
}

func (f *serveFlags) options(a *app) (node.Options, error) {
	log, err := f.logger()
	if err != nil {
		return node.Options{}, err
	}
	if f.name == "" || f.clusterID == "" {
		return node.Options{}, errors.New("--name and --cluster-id are required")
	}
	if f.maxValue < 1 { // 0 would mean the default
		return node.Options{}, fmt.Errorf("--max-value-bytes %d: want 1 to %d", f.maxValue, fulcrum.MaxMessageBytes/4)
	}
	initial, err1 := parseAddrs("--initial-nodes", f.initial)
	join, err2 := parseAddrs("--join", f.join)
	if err := errors.Join(err1, err2); err != nil {
		return node.Options{}, err
	}
	if len(initial) > 0 && len(join) > 0 {
		return node.Options{}, errors.New("--initial-nodes is for a new cluster, --join for a running one: give one of them")
	}
	addr := func(given string, offset int) string {
		if given != "" {
			return given
		}
		return net.JoinHostPort(f.host, strconv.Itoa(f.basePort+offset+f.number()))
	}
	opt := node.Options{
		Name: fulcrum.NodeID(f.name), ClusterID: f.clusterID, Dir: a.data, Zone: f.zone,
		RedisAddr: addr(f.redis, 0), HTTPAddr: addr(f.http, 100), PeerAddr: addr(f.peer, 200), GossipAddr: addr(f.gossip, 300),
		Initial: initial, Join: join, AllowFaults: f.allowFaults, MaxValue: f.maxValue, Version: version, Logger: log,
	}
	return opt, opt.Validate()
}

// number is the node's i.
func (f *serveFlags) number() int {
	if f.index > 0 {
		return f.index
	}
	digits := f.name[len(strings.TrimRight(f.name, "0123456789")):]
	if i, err := strconv.Atoi(digits); err == nil && i > 0 {
		return i
	}
	return 1
}

func parseAddrs(flag string, pairs []string) (map[fulcrum.NodeID]string, error) {
	out := map[fulcrum.NodeID]string{}
	for _, p := range pairs {
		name, addr, ok := strings.Cut(p, "=")
		if _, _, err := net.SplitHostPort(addr); !ok || err != nil || name == "" {
			return nil, fmt.Errorf("%s %q: want name=host:port", flag, p)
		}
		if _, twice := out[fulcrum.NodeID(name)]; twice {
			return nil, fmt.Errorf("%s names %s twice", flag, name)
		}
		out[fulcrum.NodeID(name)] = addr
	}
	return out, nil
}

func (f *serveFlags) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", f.logLevel)
	}
	switch {
	case f.logFormat == "text" || f.logFormat == "" && isTerminal(os.Stderr):
		return slog.New(tint.NewTextHandler(os.Stderr, &tint.Options{Level: level, TimeFormat: time.RFC3339, NoColor: os.Getenv("NO_COLOR") != "" || !isTerminal(os.Stderr)})), nil
	case f.logFormat == "json" || f.logFormat == "":
		return jsonLog(os.Stderr, level), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", f.logFormat)
}

// jsonLog writes durations as people read them: 1.2s, not a number of nanoseconds.
func jsonLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}))
}

func serve(ctx context.Context, opt node.Options) error {
	beside, stop := context.WithCancel(ctx)
	var memory sync.WaitGroup
	memory.Go(func() { giveBack(beside) })
	err := node.Serve(ctx, opt)
	stop()
	memory.Wait()
	return err
}
