package bench_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"fulcrum"
	"fulcrum/bench"
)

func TestBadOptions(t *testing.T) {
	for says, args := range map[string][]string{
		"--clients 0":           {"--clients", "0"},
		"--pipeline -1":         {"--pipeline", "-1"},
		"--rate -5":             {"--rate", "-5"},
		"--rate NaN":            {"--rate", "NaN"},
		"--zipf -1":             {"--zipf", "-1"},
		"--keys 0":              {"--keys", "0"},
		"--ops -1":              {"--ops", "-1"},
		"--duration -1s":        {"--duration", "-1s"},
		"--warmup -1s":          {"--warmup", "-1s"},
		"--op-timeout 0s":       {"--op-timeout", "0s"},
		"no operation":          {"--mix", "get=50,put=50"},
		"the weight":            {"--mix", "get=-1"},
		"there twice":           {"--mix", "get,get=3"},
		"take a number":         {"--mix", "mget"},
		"from 1 to 1024":        {"--mix", "mget:0"},
		"and no other":          {"--mix", "get:5"},
		"has none":              {"--mix", "incr", "--load"},
		"exclude each other":    {"--mix", "get", "--uniform", "--zipf", "1.2"},
		"--key-prefix: 2000 by": {"--key-prefix", strings.Repeat("x", 2000)},
	} {
		o := options(t, args...)
		if err := o.Complete(); err == nil || !strings.Contains(err.Error(), says) || fulcrum.AsError(err).Code != fulcrum.CodeInvalid {
			t.Errorf("%q: %v; want it refused with %q", args, err, says)
		}
	}
	for _, size := range []string{"", "x", "-1", "5-", "9-3", "1-2-3", "99999999999"} {
		var s bench.Sizes
		if err := s.Set(size); err == nil {
			t.Errorf("value size %q is taken as %v", size, s)
		}
	}
}

func TestPresetsAndDefaults(t *testing.T) {
	for mix, zipf := range map[string]float64{"ycsb-a": 0.99, "ycsb-c": 0.99, "read": 0, "get=50,set=50": 0} {
		o := options(t, "--mix", mix)
		if err := o.Complete(); err != nil || o.Zipf != zipf || o.Duration == 0 {
			t.Errorf("%s: zipf %g, duration %v, %v; want %g and 10s", mix, o.Zipf, o.Duration, err, zipf)
		}
	}
	o := options(t, "--mix", "ycsb-a", "--uniform", "--ops", "5")
	if err := o.Complete(); err != nil || o.Zipf != 0 || o.Duration != 0 {
		t.Errorf("--uniform --ops 5: %+v, %v", o, err)
	}
}

// keysOf lists how often each key is asked for by some clients.
func keysOf(t *testing.T, args ...string) map[string]int {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]int{}
	f := serve(t, func(a []string) string {
		mu.Lock()
		defer mu.Unlock()
		seen[a[1]]++
		return ""
	})
	run(t, f, append([]string{"--mix", "get", "--clients", "4", "--pipeline", "100"}, args...)...)
	mu.Lock()
	defer mu.Unlock()
	return seen
}

// The k-th hottest of n keys gets 1/(k^s H(n,s)) of the requests.
func TestZipfSkew(t *testing.T) {
	const n, ops = 1000, 50_000
	for _, s := range []float64{0.5, 0.99, 1, 1.5} {
		seen := keysOf(t, "--zipf", fmt.Sprint(s), "--keys", fmt.Sprint(n), "--ops", fmt.Sprint(ops))
		counts := make([]int, 0, n)
		for _, c := range seen {
			counts = append(counts, c)
		}
		harmonic := 0.0
		for k := 1; k <= n; k++ {
			harmonic += math.Pow(float64(k), -s)
		}
		hottest, total := 0, 0
		for _, c := range counts {
			hottest, total = max(hottest, c), total+c
		}
		want := ops / harmonic
		if d := math.Abs(float64(hottest) - want); total != ops || d > 5*math.Sqrt(want)+0.02*want {
			t.Errorf("zipf %g: the hottest key was asked for %d times of %d, want about %.0f", s, hottest, total, want)
		}
	}
}

func TestUniformCoversAllKeysAlike(t *testing.T) {
	seen := keysOf(t, "--keys", "100", "--ops", "50000")
	for key, c := range seen {
		if c < 380 || c > 620 {
			t.Errorf("%s: asked for %d times, want about 500", key, c)
		}
	}
	if len(seen) != 100 {
		t.Errorf("%d keys of 100", len(seen))
	}
}

// With the same seed one client does the same, with another something else.
func TestSeeds(t *testing.T) {
	sequence := func(seed int) string {
		var b strings.Builder
		f := serve(t, func(a []string) string {
			fmt.Fprintf(&b, "%q ", a)
			return ""
		})
		run(t, f, "--clients", "1", "--ops", "50", "--value-size", "3-9", "--zipf", "1", "--seed", fmt.Sprint(seed))
		return b.String()
	}
	seed := rand.IntN(1 << 30)
	if once, again := sequence(seed), sequence(seed); once != again {
		t.Errorf("seed %d: two runs differ", seed)
	}
	if sequence(seed) == sequence(seed+1) {
		t.Errorf("seeds %d and %d do the same", seed, seed+1)
	}
}
