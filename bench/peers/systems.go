package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fulcrum/bench"
	"fulcrum/bench/figures"
	"fulcrum/local"
)

// errNotInstalled says that a system cannot be had on this machine.
var errNotInstalled = errors.New("not installed")

const (
	startTimeout = time.Minute
	stopTimeout  = 15 * time.Second
	host         = "127.0.0.1"
)

// system is one store that runs.
type system struct {
	name    string
	version string
	pids    []int
	driver  []string // command line of its load generator, without what to measure
	ycsb    []string // the same of go-ycsb's; nil: there is none
	// databases are the numbers of fulcrum's keyspaces, by which go-ycsb's binding names them.
	databases map[string]string
	stop      func() error
}

// everything is what could run, for a plan of what is wanted.
func everything() map[string]*system {
	all := map[string]*system{}
	for _, name := range []string{fulcrumNode, etcd, redis, redisSync} {
		all[name] = &system{name: name, ycsb: []string{}}
	}
	return all
}

// sample is what one measurement gave.
type sample struct {
	OpsPerSec float64 `json:"ops_per_second"`
	P50       int64   `json:"p50_us"`
	P99       int64   `json:"p99_us"`
	CPU       float64 `json:"server_cpu_seconds_per_1000_ops"`
	ClientCPU float64 `json:"client_cpu_seconds_per_1000_ops"` // of the load generator
	Failed    int64   `json:"failed"`
}

func startSystem(ctx context.Context, name string, s *settings) (*system, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	switch name {
	case fulcrumNode:
		return startFulcrum(ctx, s)
	case etcd:
		return startEtcd(ctx, s)
	}
	return startRedis(ctx, name, s)
}

// load writes the keys that the plan asks for: into each keyspace, and those of go-ycsb.
func (sys *system) load(ctx context.Context, s *settings) error {
	type where struct {
		byYCSB   bool
		keyspace string
	}
	done := map[where]bool{}
	for _, m := range planOf(s, map[string]*system{sys.name: sys}) {
		to := where{m.byYCSB(), m.keyspace()}
		if done[to] {
			continue
		}
		done[to] = true
		args := []string{"--load", "--clients", "64", "--keys", strconv.Itoa(s.keys), "--value-size", s.size}
		if !to.byYCSB {
			args = append(args, "--ops", "1", "--mix", "set", "--warmup", "0s")
		}
		if to.keyspace != "" {
			args = append(args, "-k", to.keyspace)
		}
		if _, err := sys.measure(ctx, to.byYCSB, args...); err != nil {
			return err
		}
	}
	return nil
}

func (s sample) ops() float64 { return s.OpsPerSec }

// measure runs the load generator once, or that of go-ycsb, and looks what the servers
// used meanwhile.
func (sys *system) measure(ctx context.Context, byYCSB bool, args ...string) (sample, error) {
	before, err := figures.CPU(sys.pids...)
	if err != nil {
		return sample{}, err
	}
	argv := append(slices.Clone(sys.driver), args...)
	if byYCSB {
		argv = append(slices.Clone(sys.ycsb), args...)
		for i := range argv {
			if n, ok := sys.databases[argv[i]]; ok && argv[i-1] == "-k" {
				argv[i] = n
			}
		}
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopTimeout
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return sample{}, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(errs.String()))
	}
	after, err := figures.CPU(sys.pids...)
	if err != nil {
		return sample{}, err
	}
	var r bench.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return sample{}, err
	}
	if r.Interrupted {
		return sample{}, context.Canceled
	}
	perThousand := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(max(r.Operations+r.Warmup, 1)) }
	return sample{OpsPerSec: r.OpsPerSec, P50: r.Latency.P50, P99: r.Latency.P99, Failed: r.Failed,
		CPU: perThousand(after - before), ClientCPU: perThousand(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime())}, nil
}

func startFulcrum(ctx context.Context, s *settings) (*system, error) {
	base, err := local.FreeBasePort(s.nodes)
	if err != nil {
		return nil, err
	}
	binary, err := filepath.Abs(s.fulcrum)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, "fulcrum")
	command := func(ctx context.Context, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, binary, append([]string{"--data", dir}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s %s: %w: %s (make build makes bin/fulcrum)", binary, args[0], err, out)
		}
		return strings.TrimSpace(string(out)), nil
	}
	version, err := command(ctx, "--version")
	if err != nil {
		return nil, err
	}
	sys := &system{name: fulcrumNode, version: version, stop: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		_, err := command(ctx, "down")
		return err
	}}
	if _, err := command(ctx, "up", "--nodes", strconv.Itoa(s.nodes), "--base-port", strconv.Itoa(base), "-o", "json"); err != nil {
		_ = sys.stop() // up stops what it started, but for one that was interrupted
		return nil, err
	}
	if _, err := command(ctx, "keyspace", "create", oneShard, "--mode", "raft", "--shards", "1"); err != nil {
		return nil, errors.Join(err, sys.stop())
	}
	sys.databases = map[string]string{}
	for _, name := range []string{s.keyspace, oneShard} {
		text, err := command(ctx, "keyspace", "describe", name, "-o", "json")
		var info struct{ ID *int }
		if err == nil {
			err = json.Unmarshal([]byte(text), &info)
		}
		if err == nil && info.ID == nil {
			err = fmt.Errorf("keyspace %s has no number: %s", name, text)
		}
		if err != nil {
			return nil, errors.Join(err, sys.stop())
		}
		sys.databases[name] = strconv.Itoa(*info.ID)
	}
	c, err := local.Load(dir)
	if err != nil {
		return nil, errors.Join(err, sys.stop())
	}
	var redis []string
	for _, n := range c.Nodes {
		sys.pids = append(sys.pids, n.PID)
		redis = append(redis, n.RedisAddr)
	}
	sys.driver = []string{binary, "bench", "--data", dir, "-o", "json", "-k", s.keyspace}
	if s.ycsb != "" {
		sys.ycsb = []string{s.ycsb, "--binding", "redis", "--endpoint", strings.Join(redis, ","), "-k", s.keyspace}
	}
	return sys, nil
}

// startEtcd starts a cluster of etcd, built from its module if it is not installed. The
// module of the server and that of the driver are not this one.
func startEtcd(ctx context.Context, s *settings) (*system, error) {
	binary, err := exec.LookPath("etcd")
	if err != nil {
		if binary, err = build("bench/peers/etcd", "etcd"); err != nil {
			return nil, fmt.Errorf("%w, and could not be built: %w", errNotInstalled, err)
		}
	}
	driver, err := build("bench/peers/etcd-driver", "etcd-driver")
	if err != nil {
		return nil, fmt.Errorf("%w: its driver could not be built: %w", errNotInstalled, err)
	}
	ports, err := freePorts(2 * s.nodes)
	if err != nil {
		return nil, err
	}
	url := func(port int) string { return fmt.Sprintf("http://%s:%d", host, port) }
	var members, endpoints []string
	for i := range s.nodes {
		members = append(members, fmt.Sprintf("e%d=%s", i, url(ports[s.nodes+i])))
		endpoints = append(endpoints, net.JoinHostPort(host, strconv.Itoa(ports[i])))
	}
	all := processes{nodes: s.nodes}
	for i := range s.nodes {
		client, peer := url(ports[i]), url(ports[s.nodes+i])
		name := fmt.Sprintf("e%d", i)
		err := all.start(filepath.Join(s.dir, name), binary, "--name", name, "--data-dir", filepath.Join(s.dir, name, "data"), "--log-level", "error",
			"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new")
		if err != nil {
			return nil, errors.Join(err, all.stop())
		}
	}
	for i := range s.nodes {
		if err := until(ctx, func() error { return healthy(ctx, url(ports[i])+"/health") }); err != nil {
			return nil, errors.Join(fmt.Errorf("etcd node %d: %w", i, err), all.stop())
		}
	}
	out, err := exec.Command(binary, "--version").Output()
	if err != nil {
		return nil, errors.Join(err, all.stop())
	}
	first, _, _ := strings.Cut(string(out), "\n")
	sys := &system{name: etcd, version: first, pids: all.pids(), stop: all.stop, driver: []string{driver, "--endpoint", strings.Join(endpoints, ",")}}
	if s.ycsb != "" {
		sys.ycsb = []string{s.ycsb, "--binding", "etcd", "--endpoint", strings.Join(endpoints, ",")}
	}
	return sys, nil
}

// build builds one of the modules that are kept apart, into the cache; the go command
// sees whether there is anything to do.
func build(module, name string) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-o", out, ".")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build in %s: %w: %s", module, err, text)
	}
	return out, nil
}

func healthy(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return nil
}

// startRedis starts one server that keeps all in memory, or a primary and two replicas
// that sync every write.
func startRedis(ctx context.Context, name string, s *settings) (*system, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("%w: redis-server is not in the path (Debian: apt-get install redis-server)", errNotInstalled)
	}
	servers, durable := 1, []string{"--appendonly", "no"}
	if name == redisSync {
		servers, durable = 3, []string{"--appendonly", "yes", "--appendfsync", "always"}
	}
	ports, err := freePorts(servers)
	if err != nil {
		return nil, err
	}
	all := processes{nodes: s.nodes}
	for i, port := range ports {
		dir := filepath.Join(s.dir, fmt.Sprintf("%s-%d", name, i))
		args := append([]string{"--port", strconv.Itoa(port), "--bind", host, "--dir", dir, "--save", "", "--daemonize", "no", "--repl-diskless-sync-delay", "0"}, durable...)
		if i > 0 {
			args = append(args, "--replicaof", host, strconv.Itoa(ports[0]))
		}
		if err := all.start(dir, binary, args...); err != nil {
			return nil, errors.Join(err, all.stop())
		}
	}
	primary := net.JoinHostPort(host, strconv.Itoa(ports[0]))
	version := ""
	ready := func() error {
		info, err := redisInfo(primary)
		if version = infoField(info, "redis_version"); err == nil && strings.Count(info, "state=online") < servers-1 {
			err = errors.New("its replicas are not online")
		}
		return err
	}
	if err := until(ctx, ready); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", primary, err), all.stop())
	}
	generator, err := filepath.Abs(s.fulcrum)
	if err != nil {
		return nil, errors.Join(err, all.stop())
	}
	return &system{name: name, version: "redis " + version, pids: all.pids(), stop: all.stop, driver: []string{generator, "bench", "--endpoint", primary, "-o", "json"}}, nil
}

func redisInfo(addr string) (string, error) {
	nc, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := nc.Write([]byte("INFO\r\n")); err != nil {
		return "", err
	}
	var all []byte
	for b := make([]byte, 16<<10); !bytes.Contains(all, []byte("# Keyspace")) && len(all) < 1<<20; {
		n, err := nc.Read(b)
		if err != nil {
			return "", err
		}
		all = append(all, b[:n]...)
	}
	return string(all), nil
}

func infoField(info, name string) string {
	_, after, _ := strings.Cut(info, name+":")
	value, _, _ := strings.Cut(after, "\r\n")
	return value
}

// until calls f until it returns nil, or ctx ends.
func until(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		if ended := pause(ctx, 100*time.Millisecond); ended != nil {
			return fmt.Errorf("not ready: %w", err)
		}
	}
}

// freePorts finds ports that nobody listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end: none is found twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// processes are those that this program started itself.
type processes struct {
	nodes   int // how many share the machine
	running []*process
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start runs a program with its output in a file, in a process group of its own: an
// interrupt at the terminal is for us, who then stop it.
func (p *processes) start(dir, binary string, args ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = local.WithShare(os.Environ(), p.nodes) // as fulcrum's nodes
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	one := &process{cmd, make(chan struct{})}
	p.running = append(p.running, one)
	go func() { // ends with the process, which stop waits for
		_ = cmd.Wait()
		close(one.done)
	}()
	return nil
}

func (p *processes) pids() []int {
	var out []int
	for _, one := range p.running {
		out = append(out, one.cmd.Process.Pid)
	}
	return out
}

// stop asks all to end, and ends those that do not.
func (p *processes) stop() error {
	for _, one := range p.running {
		_ = one.cmd.Process.Signal(syscall.SIGTERM)
	}
	var errs []error
	for _, one := range p.running {
		select {
		case <-one.done:
			continue
		case <-time.After(stopTimeout):
		}
		errs = append(errs, fmt.Errorf("%s (pid %d) did not end within %s and was killed", one.cmd.Path, one.cmd.Process.Pid, stopTimeout))
		_ = one.cmd.Process.Kill()
		<-one.done
	}
	return errors.Join(errs...)
}
