package bench_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// fake is a server of the Redis protocol with a map behind it. A handler may answer
// instead of it.
type fake struct {
	t    *testing.T
	addr string
	wg   sync.WaitGroup

	mu     sync.Mutex
	data   map[string]string
	counts map[string]int64 // commands, by name
	conns  map[net.Conn]bool
	// handle answers a command in its own words; "" leaves it to the map, "!" ends the
	// connection. It is called without the lock.
	handle func(args []string) string
}

func serve(t *testing.T, handle func(args []string) string) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, addr: l.Addr().String(), data: map[string]string{}, counts: map[string]int64{}, conns: map[net.Conn]bool{}, handle: handle}
	f.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[nc] = true
			f.mu.Unlock()
			f.wg.Go(func() { f.talk(nc) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		f.mu.Lock()
		for nc := range f.conns {
			_ = nc.Close()
		}
		f.mu.Unlock()
		f.wg.Wait()
	})
	return f
}

func (f *fake) talk(nc net.Conn) {
	defer nc.Close()
	r, w := bufio.NewReader(nc), bufio.NewWriter(nc)
	for {
		args, err := readCommand(r)
		if err != nil {
			return
		}
		answer := ""
		if f.handle != nil {
			answer = f.handle(args)
		}
		if answer == "!" {
			return
		}
		f.mu.Lock()
		f.counts[args[0]]++
		if answer == "" {
			answer = f.answer(args)
		}
		f.mu.Unlock()
		_, _ = w.WriteString(answer)
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
	}
}

func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readHead(r, '*')
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		size, err := readHead(r, '$')
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		args[i] = string(b[:size])
	}
	return args, nil
}

func readHead(r *bufio.Reader, kind byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != kind {
		return 0, fmt.Errorf("%q", line)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

func (f *fake) answer(a []string) string {
	bulk := func(key string) string {
		v, ok := f.data[key]
		if !ok {
			return "$-1\r\n"
		}
		return fmt.Sprintf("$%d\r\n%s\r\n", len(v), v)
	}
	number := func(yes bool) string {
		if yes {
			return ":1\r\n"
		}
		return ":0\r\n"
	}
	switch a[0] {
	case "GET":
		return bulk(a[1])
	case "SET":
		f.data[a[1]] = a[2]
	case "SETEX":
		f.data[a[1]] = a[3]
	case "GETSET":
		defer func() { f.data[a[1]] = a[2] }()
		return bulk(a[1])
	case "SETNX":
		_, there := f.data[a[1]]
		if !there {
			f.data[a[1]] = a[2]
		}
		return number(!there)
	case "EXISTS", "DEL":
		_, there := f.data[a[1]]
		if a[0] == "DEL" {
			delete(f.data, a[1])
		}
		return number(there)
	case "INCR":
		n, err := strconv.Atoi("0" + f.data[a[1]])
		if err != nil {
			return "-ERR value is not an integer or out of range\r\n"
		}
		f.data[a[1]] = strconv.Itoa(n + 1)
		return fmt.Sprintf(":%d\r\n", n+1)
	case "APPEND":
		f.data[a[1]] += a[2]
		return fmt.Sprintf(":%d\r\n", len(f.data[a[1]]))
	case "MGET":
		var b strings.Builder
		fmt.Fprintf(&b, "*%d\r\n", len(a)-1)
		for _, key := range a[1:] {
			b.WriteString(bulk(key))
		}
		return b.String()
	case "MSET":
		for i := 1; i < len(a); i += 2 {
			f.data[a[i]] = a[i+1]
		}
	case "WAIT":
		return ":" + a[1] + "\r\n"
	case "PING":
		return "+PONG\r\n"
	}
	return "+OK\r\n"
}

func (f *fake) count(command string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[command]
}
