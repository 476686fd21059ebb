package bench

import (
	"math"
	"math/rand/v2"
	"strconv"
)

// chooser draws keys: numbers from 0 to n-1, uniform or by Zipf's law. Each client has
// its own.
type chooser struct {
	n     uint64
	r     *rand.Rand
	skew  *zipf // nil: uniform
	prime uint64
}

func newChooser(n int, exponent float64, r *rand.Rand) *chooser {
	c := &chooser{n: uint64(n), r: r, prime: spread(uint64(n))}
	if exponent > 0 {
		c.skew = newZipf(float64(n), exponent)
	}
	return c
}

func (c *chooser) next() uint64 {
	if c.skew == nil {
		return c.r.Uint64N(c.n)
	}
	rank := c.skew.draw(c.r) - 1
	// Ranks are spread over the keys, one to one, so that hot keys are not neighbours.
	return rank % c.n * c.prime % c.n
}

// spread is a multiplier that permutes 0..n-1: coprime to n, and small enough that the
// product fits (n is at most 2^40).
func spread(n uint64) uint64 {
	p := uint64(7_368_787) // odd, and below 2^23
	for gcd(p, n) != 1 {
		p += 2
	}
	return p
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// zipf draws ranks 1..n with probability proportional to 1/rank^s, for any s > 0, by
// rejection-inversion (Hörmann & Derflinger 1996): no table, and about one draw a rank.
// math/rand's own needs s > 1, which leaves out YCSB's 0.99.
type zipf struct {
	n, s           float64
	hX1, hN, cheap float64
}

func newZipf(n, s float64) *zipf {
	z := &zipf{n: n, s: s}
	z.hX1 = z.integral(1.5) - 1
	z.hN = z.integral(n + 0.5)
	z.cheap = 2 - z.inverse(z.integral(2.5)-math.Pow(2, -s))
	return z
}

func (z *zipf) draw(r *rand.Rand) uint64 {
	for {
		u := z.hN + r.Float64()*(z.hX1-z.hN)
		x := z.inverse(u)
		k := min(max(math.Floor(x+0.5), 1), z.n)
		if k-x <= z.cheap || u >= z.integral(k+0.5)-math.Pow(k, -z.s) {
			return uint64(k)
		}
	}
}

// integral is that of 1/x^s, with a constant that keeps it exact near s = 1.
func (z *zipf) integral(x float64) float64 {
	l := math.Log(x)
	if t := (1 - z.s) * l; math.Abs(t) > 1e-8 {
		return math.Expm1(t) / t * l
	}
	return l
}

func (z *zipf) inverse(y float64) float64 {
	t := max(y*(1-z.s), -1)
	if math.Abs(t) > 1e-8 {
		return math.Exp(math.Log1p(t) / t * y)
	}
	return math.Exp(y)
}

// keyDigits is enough for the largest number of keys.
const keyDigits = 13

// AppendKey writes the key with a number, in the family of the verb.
func (o *Options) AppendKey(b []byte, v Verb, n uint64) []byte {
	b = append(append(b, o.KeyPrefix...), v.family()...)
	var digits [20]byte
	d := strconv.AppendUint(digits[:0], n, 10)
	for i := len(d); i < keyDigits; i++ {
		b = append(b, '0')
	}
	return append(b, d...)
}

// values are bytes that do not compress, from which each client cuts its values.
type values struct {
	pool  []byte
	sizes Sizes
}

func newValues(s Sizes, seed uint64) *values {
	const more = 64 << 10 // different places to begin
	v := &values{pool: make([]byte, s.Max+more), sizes: s}
	r := rand.NewChaCha8(seedOf(seed, 1))
	_, _ = r.Read(v.pool)
	return v
}

// cut returns a value. It is shared: the caller must not change it.
func (v *values) cut(r *rand.Rand) []byte {
	size := v.sizes.Min
	if more := v.sizes.Max - v.sizes.Min; more > 0 {
		size += r.IntN(more + 1)
	}
	from := r.IntN(len(v.pool) - size + 1)
	return v.pool[from : from+size : from+size]
}

func seedOf(seed, stream uint64) (s [32]byte) {
	for i := range 8 {
		s[i], s[8+i] = byte(seed>>(8*i)), byte(stream>>(8*i))
	}
	return s
}
