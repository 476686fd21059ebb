package bench_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"fulcrum/bench"
)

// BenchmarkGenerator is what the generator itself costs, with a server that does nothing
// but answer: it bounds what can be measured on one machine.
func BenchmarkGenerator(b *testing.B) {
	for _, depth := range []int{1, 16} {
		b.Run(fmt.Sprintf("pipeline=%d", depth), func(b *testing.B) {
			addr := parrot(b, depth)
			var o bench.Options
			flags := newFlags(&o)
			if err := flags.Parse([]string{"--warmup", "0s", "--clients", "1", "--mix", "set", "--pipeline", fmt.Sprint(depth), "--ops", fmt.Sprint(b.N)}); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			r, err := bench.Run(b.Context(), o, &bench.Redis{Addrs: []string{addr}, Options: o}, bench.Progress{})
			if err != nil || r.Operations != int64(b.N) {
				b.Fatal(r, err)
			}
		})
	}
}

// parrot answers every SET with OK, all of a batch at once.
func parrot(b *testing.B, depth int) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	b.Cleanup(func() { _ = l.Close(); <-ended })
	go func() {
		defer close(ended)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(time.Hour))
		r := bufio.NewReaderSize(nc, 64<<10)
		for {
			if _, err := readCommand(r); err != nil {
				return
			}
			n := 1
			for ; n < depth && r.Buffered() > 0; n++ {
				if _, err := readCommand(r); err != nil {
					return
				}
			}
			if _, err := io.WriteString(nc, strings.Repeat("+OK\r\n", n)); err != nil {
				return
			}
		}
	}()
	return l.Addr().String()
}
