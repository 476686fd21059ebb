package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// metricNames are those that the design promises; one that ends in '*' is a prefix.
var metricNames = []string{"fulcrum_requests_total", "fulcrum_request_duration_seconds", "fulcrum_replication_lag_seconds",
	"fulcrum_replication_lag_entries", "fulcrum_staleness_seconds", "fulcrum_hints_pending", "fulcrum_read_repairs_total",
	"fulcrum_antientropy_keys_repaired_total", "fulcrum_siblings", "fulcrum_lost_acknowledged_writes_total", "fulcrum_leader_changes_total",
	"fulcrum_shard_leader", "fulcrum_mode_switch_*", "fulcrum_shard_bytes", "fulcrum_shard_moves_total", "fulcrum_faults_active", "fulcrum_fault_hits_total",
	"fulcrum_storage_commit_duration_seconds", "fulcrum_group_*", "fulcrum_gossip_*", "go_goroutines", "process_resident_memory_bytes"}

// checkMetrics scrapes every node: all promised figures are there, and the linters
// of Prometheus have nothing to say.
func (c *cluster) checkMetrics() {
	c.t.Helper()
	promtool, ok := tool(c.t, "promtool", "only promlint of the Go library was run")
	for _, node := range c.Names() {
		c.get(node, "/v1/kv/cp/balance") // requests are counted by who coordinated them
		status, _, body := c.get(node, "/metrics")
		if status != http.StatusOK {
			c.t.Errorf("%s: /metrics answers %d", node, status)
			continue
		}
		for _, name := range metricNames {
			head := "\n# TYPE " + strings.TrimSuffix(name, "*")
			if !strings.HasSuffix(name, "*") {
				head += " "
			}
			if !strings.Contains("\n"+body, head) {
				c.t.Errorf("%s: /metrics has no %s", node, name)
			}
		}
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		if err != nil {
			c.t.Errorf("%s: /metrics: %v", node, err)
		}
		for _, p := range problems {
			c.t.Errorf("%s: %s: %s", node, p.Metric, p.Text)
		}
		if ok {
			cmd := exec.CommandContext(c.t.Context(), promtool, "check", "metrics")
			cmd.Stdin = strings.NewReader(body)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				c.t.Errorf("%s: promtool check metrics: %v\n%s", node, err, out)
			}
		}
	}
}

// checkPrometheus runs a real Prometheus with the configuration in deploy/, but for
// the ports, until all five nodes are scraped.
func (c *cluster) checkPrometheus() {
	c.t.Helper()
	prometheus, ok := tool(c.t, "prometheus", "the configuration in deploy/prometheus was not run")
	if !ok {
		return
	}
	dir := c.t.TempDir()
	config := c.prometheusConfig(dir)
	web := freeAddr(c.t)
	log, err := os.Create(filepath.Join(dir, "prometheus.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(prometheus, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "tsdb"), "--web.listen-address="+web)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	eventually(c.t, 60*time.Second, "Prometheus scrapes five nodes", func() error { return c.scraped(web, 5) })
}

// prometheusConfig copies deploy/prometheus with this cluster's ports.
func (c *cluster) prometheusConfig(dir string) string {
	c.t.Helper()
	from := filepath.Join("..", "..", "deploy", "prometheus")
	for _, name := range []string{"prometheus.yml", "rules.yml"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			c.t.Fatal(err)
		}
		text := strings.NewReplacer("scrape_interval: 5s", "scrape_interval: 1s", "evaluation_interval: 5s", "evaluation_interval: 1s").Replace(string(b))
		for i, n := range c.Nodes {
			text = strings.ReplaceAll(text, fmt.Sprintf("127.0.0.1:71%02d", i+1), n.HTTPAddr)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	return filepath.Join(dir, "prometheus.yml")
}

// scraped asks a Prometheus about its targets: want of them, all up.
func (c *cluster) scraped(web string, want int) error {
	_, _, body, err := fetch(c.t.Context(), http.MethodGet, "http://"+web+"/api/v1/targets", "")
	if err != nil {
		return err
	}
	var answer struct {
		Data struct {
			ActiveTargets []struct{ ScrapeURL, Health, LastError string }
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	if len(answer.Data.ActiveTargets) != want {
		return fmt.Errorf("%d targets, want %d", len(answer.Data.ActiveTargets), want)
	}
	for _, target := range answer.Data.ActiveTargets {
		if target.Health != "up" {
			return fmt.Errorf("%s is %s: %s", target.ScrapeURL, target.Health, target.LastError)
		}
	}
	return nil
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
