// Command ycsb-driver is go-ycsb: its workloads A, B and C, its client and its bindings,
// that of Redis for fulcrum and that of etcd, as they are. It is a module of its own, so
// that the store depends on none of them, and not go-ycsb's own program, which brings
// the bindings of twenty other stores and the C libraries that these need.
//
// Not go-ycsb's are: a run that ends after a time instead of so many operations, threads
// that are spread over several nodes, and figures in the words of fulcrum bench.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/magiconair/properties"
	_ "github.com/pingcap/go-ycsb/db/etcd"
	_ "github.com/pingcap/go-ycsb/db/redis"
	"github.com/pingcap/go-ycsb/pkg/client"
	"github.com/pingcap/go-ycsb/pkg/measurement"
	"github.com/pingcap/go-ycsb/pkg/prop"
	_ "github.com/pingcap/go-ycsb/pkg/workload"
	"github.com/pingcap/go-ycsb/pkg/ycsb"

	"fulcrum/bench"
)

// options are the flags.
type options struct {
	binding   string
	endpoints []string
	database  int
	mix       string
	clients   int
	keys      int
	size      int
	duration  time.Duration
	warmup    time.Duration
	load      bool
}

// shares are the reads and updates of the workloads in go-ycsb's files workloads/workloada
// to c. Keys are uniform there, whatever the comments in these files say.
var shares = map[string][2]string{"ycsb-a": {"0.5", "0.5"}, "ycsb-b": {"0.95", "0.05"}, "ycsb-c": {"1", "0"}}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := os.Stdout
	os.Stdout = os.Stderr // go-ycsb and its bindings print what they do
	if err := run(ctx, parse(), out); err != nil {
		fmt.Fprintln(os.Stderr, "ycsb-driver:", err)
		os.Exit(1)
	}
}

func parse() options {
	var o options
	flag.StringVar(&o.binding, "binding", "redis", "redis or etcd")
	endpoints := flag.String("endpoint", "127.0.0.1:6379", "addresses of the nodes, with commas between")
	flag.IntVar(&o.database, "k", 0, "database, by which the binding of Redis names a keyspace")
	flag.StringVar(&o.mix, "mix", "ycsb-a", "ycsb-a, ycsb-b or ycsb-c")
	flag.IntVar(&o.clients, "clients", 64, "threads")
	flag.IntVar(&o.keys, "keys", 100_000, "records")
	flag.IntVar(&o.size, "value-size", 256, "bytes of a record's one field")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "of the run")
	flag.DurationVar(&o.warmup, "warmup", time.Second, "before it, in whole seconds")
	flag.BoolVar(&o.load, "load", false, "write the records, and nothing else")
	flag.Parse()
	o.endpoints = strings.Split(*endpoints, ",")
	return o
}

// properties are the options in go-ycsb's words. A record has one field: with more of
// them the binding of Redis updates by a read and a write, and that of etcd by a write
// that loses the other fields.
func (o *options) properties(results string) *properties.Properties {
	return properties.LoadMap(map[string]string{
		prop.Workload:                 "core",
		prop.DoTransactions:           strconv.FormatBool(!o.load),
		prop.RecordCount:              strconv.Itoa(o.keys),
		prop.OperationCount:           strconv.Itoa(1 << 40), // the time ends it
		prop.ThreadCount:              strconv.Itoa(o.clients),
		prop.FieldCount:               "1",
		prop.FieldLength:              strconv.Itoa(o.size),
		prop.ReadProportion:           shares[o.mix][0],
		prop.UpdateProportion:         shares[o.mix][1],
		prop.RequestDistribution:      "uniform",
		prop.WarmUpTime:               strconv.Itoa(int(o.warmup.Seconds())),
		prop.LogInterval:              strconv.Itoa(1 << 20),
		prop.OutputStyle:              "json",
		prop.MeasurementRawOutputFile: results,
		"redis.datatype":              "string",
		"redis.db":                    strconv.Itoa(o.database),
		"redis.pool_size":             strconv.Itoa((o.clients + len(o.endpoints) - 1) / len(o.endpoints)),
	})
}

func run(ctx context.Context, o options, out io.Writer) error {
	if _, ok := shares[o.mix]; !ok || o.binding != "redis" && o.binding != "etcd" {
		return fmt.Errorf("--mix %s, --binding %s: there are ycsb-a, ycsb-b, ycsb-c, and redis, etcd", o.mix, o.binding)
	}
	o.warmup = (o.warmup + time.Second - 1).Truncate(time.Second) // go-ycsb has seconds
	dir, err := os.MkdirTemp("", "ycsb-driver-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	results := filepath.Join(dir, "results.json")
	p := o.properties(results)
	measurement.InitMeasure(p)
	workload, err := ycsb.GetWorkloadCreator(p.MustGet(prop.Workload)).Create(p)
	if err != nil {
		return err
	}
	defer workload.Close()
	db, err := open(&o, p)
	if err != nil {
		return err
	}
	defer db.Close()
	end := func() {}
	timed := ctx
	if !o.load {
		timed, end = context.WithTimeout(ctx, o.warmup+o.duration)
	}
	defer end()
	began := time.Now()
	client.NewClient(p, workload, client.DbWrapper{DB: db}).Run(timed)
	measurement.Output()
	lines, err := os.ReadFile(results)
	if err != nil {
		return err
	}
	r := bench.Result{Version: bench.Version(), Target: "go-ycsb " + o.binding, Endpoints: o.endpoints, Began: began, Interrupted: ctx.Err() != nil}
	if err := fill(&r, lines, db.done.Load()); err != nil {
		return err
	}
	if o.load && r.Operations != int64(o.keys) && !r.Interrupted {
		return fmt.Errorf("%d of %d records were written: %v", r.Operations, o.keys, r.Errors)
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// line is one of go-ycsb's measurements; all its figures are texts.
type line struct {
	Operation string
	Takes     json.Number `json:"Takes(s),string"`
	Count     json.Number `json:",string"`
	OPS       json.Number `json:",string"`
	P50       json.Number `json:"50th(us),string"`
	P99       json.Number `json:"99th(us),string"`
}

// total is the line of all operations that went well; those that did not are in lines
// of their own, such as READ_ERROR.
const total, failed = "TOTAL", "_ERROR"

// fill takes the figures that go-ycsb printed. Of all that were done the rest was done
// before they count.
func fill(r *bench.Result, results []byte, done int64) error {
	var lines []line
	if err := json.Unmarshal(results, &lines); err != nil {
		return fmt.Errorf("what go-ycsb measured: %w: %q", err, results)
	}
	number := func(n json.Number) float64 { f, _ := n.Float64(); return f }
	r.Errors = map[string]int64{}
	for _, l := range lines {
		switch count := int64(number(l.Count)); {
		case l.Operation == total:
			r.Seconds, r.Operations, r.OpsPerSec = number(l.Takes), count, number(l.OPS)
			r.Latency.P50, r.Latency.P99 = int64(number(l.P50)), int64(number(l.P99))
		case strings.HasSuffix(l.Operation, failed):
			r.Errors[strings.TrimSuffix(l.Operation, failed)] = count
			r.Failed += count
		}
	}
	if r.Operations == 0 && !r.Interrupted {
		return fmt.Errorf("no operation was done: %v", r.Errors)
	}
	r.Warmup = max(0, done-r.Operations-r.Failed)
	return nil
}
