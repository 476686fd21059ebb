// Command etcd-driver is fulcrum's load generator over etcd's own client: the same
// flags, the same JSON. It is a module of its own, so that the store does not depend on
// etcd.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"fulcrum/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o bench.Options
	o.Flags(flag.CommandLine)
	endpoints := flag.String("endpoint", "127.0.0.1:2379", "addresses of the nodes, with commas between")
	conns := flag.Int("conns", 0, "connections, which the clients share; default: one for 8 clients, and at least one a node")
	flag.Parse()
	if err := run(ctx, o, strings.Split(*endpoints, ","), *conns); err != nil {
		fmt.Fprintln(os.Stderr, "etcd-driver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o bench.Options, endpoints []string, conns int) error {
	if err := o.Complete(); err != nil {
		return err
	}
	t, err := open(&o, endpoints, conns)
	if err != nil {
		return err
	}
	defer t.close()
	r, err := bench.Run(ctx, o, t, bench.Progress{})
	if err != nil {
		return err
	}
	r.Version, r.Target, r.Endpoints = bench.Version(), "etcd "+version.Version, endpoints
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return err
	}
	if r.Operations == 0 && !r.Interrupted {
		return fmt.Errorf("no operation was done: %v %v", r.Errors, r.Texts)
	}
	return nil
}

// target holds the connections, each to one node. gRPC sends the calls of all clients of
// a connection over it at the same time; more connections than it needs cost etcd.
type target struct {
	o       *bench.Options
	clients []*clientv3.Client
}

// serializable are the names of a read that any node answers from what it has.
var serializable = []string{"serializable", "one"}

func open(o *bench.Options, endpoints []string, conns int) (*target, error) {
	mix, err := bench.ParseMix(o.Mix)
	if err != nil {
		return nil, err
	}
	for _, k := range mix {
		if k.Verb != bench.Get && k.Verb != bench.Set {
			return nil, fmt.Errorf("%s: of the operations, etcd is driven with get and set", k)
		}
	}
	switch {
	case o.Pipeline > 1:
		return nil, errors.New("--pipeline: etcd's client has none")
	case o.Read != "" && o.Read != "linearizable" && !slices.Contains(serializable, o.Read):
		return nil, fmt.Errorf("--read-level %s: etcd has linearizable and serializable", o.Read)
	}
	if conns <= 0 {
		conns = max(o.Clients/8, min(len(endpoints), o.Clients))
	}
	t := &target{o: o}
	for i := range conns {
		c, err := clientv3.New(clientv3.Config{Endpoints: endpoints[i%len(endpoints):][:1], DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			t.close()
			return nil, err
		}
		t.clients = append(t.clients, c)
	}
	return t, nil
}

func (t *target) close() {
	for _, c := range t.clients {
		_ = c.Close()
	}
}

// Connect gives a client its share of a connection.
func (t *target) Connect(ctx context.Context, client int) (bench.Session, error) {
	s := &session{o: t.o, kv: t.clients[client%len(t.clients)].KV}
	s.bounded = func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, time.Duration(t.o.OpTimeout))
	}
	if slices.Contains(serializable, t.o.Read) {
		s.read = append(s.read, clientv3.WithSerializable())
	}
	return s, nil
}

type session struct {
	o       *bench.Options
	kv      clientv3.KV
	bounded func() (context.Context, context.CancelFunc)
	read    []clientv3.OpOption
	key     []byte
}

func (s *session) Close() {}

// Do runs one operation after the other: only loading sends more than one.
func (s *session) Do(_ time.Time, ops []bench.Op, answers []bench.Answer) (int, error) {
	for i := range ops {
		missing, err := s.one(&ops[i])
		answers[i] = bench.Answer{At: time.Now(), Missing: missing}
		if err != nil {
			answers[i].Err, answers[i].Text = word(err), err.Error()
		}
	}
	return len(ops), nil
}

func (s *session) one(op *bench.Op) (missing bool, err error) {
	ctx, cancel := s.bounded()
	defer cancel()
	s.key = s.o.AppendKey(s.key[:0], op.Kind.Verb, op.Keys[0])
	if op.Kind.Verb == bench.Set {
		_, err := s.kv.Put(ctx, string(s.key), string(op.Value))
		return false, err
	}
	r, err := s.kv.Get(ctx, string(s.key), s.read...)
	return err == nil && len(r.Kvs) == 0, err
}

func word(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, rpctypes.ErrTimeout):
		return bench.ErrTimeout
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrLeaderChanged):
		return "UNAVAILABLE"
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		return "OVERLOADED"
	}
	return bench.ErrConnection
}
