package bench

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"fulcrum"
)

// Redis is anything that speaks the Redis protocol (version 2).
type Redis struct {
	Addrs   []string // clients are spread over them in turn
	Options Options
}

const dialTimeout = 5 * time.Second

// Connect opens a connection to the client's address, or, if that cannot be reached, to
// the next one that can, and selects keyspace and levels.
func (t *Redis) Connect(ctx context.Context, client int) (Session, error) {
	var unreachable []error
	for i := range t.Addrs {
		s, err := t.dial(ctx, t.Addrs[(client+i)%len(t.Addrs)])
		var refused *fulcrum.Error
		switch {
		case err == nil:
			return s, nil
		case errors.As(err, &refused):
			return nil, err
		}
		unreachable = append(unreachable, err)
	}
	return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "no node can be reached: %w", errors.Join(unreachable...)).
		WithHint("see fulcrum status; name others with --nodes or --endpoint")
}

// Reachable sorts out the addresses at which nobody answers. A store that refuses
// keyspace or levels is an error.
func (t *Redis) Reachable(ctx context.Context) (dead map[string]error, err error) {
	dead = map[string]error{}
	for _, addr := range t.Addrs {
		s, err := t.dial(ctx, addr)
		var refused *fulcrum.Error
		switch {
		case errors.As(err, &refused):
			return nil, err
		case err != nil:
			dead[addr] = err
		default:
			s.Close()
		}
	}
	return dead, ctx.Err()
}

func (t *Redis) dial(ctx context.Context, addr string) (*redisSession, error) {
	nc, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &redisSession{nc: nc, o: &t.Options}
	s.in = bufio.NewReaderSize(stamped{s}, bufferSize)
	s.stop = context.AfterFunc(ctx, func() { _ = nc.Close() })
	for _, command := range t.setup() {
		if err := s.command(command); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// setup are the commands that a connection begins with.
func (t *Redis) setup() [][]string {
	var out [][]string
	switch ks := t.Options.Keyspace; {
	case ks == "":
	case strings.Trim(ks, "0123456789") == "":
		out = append(out, []string{"SELECT", ks})
	default:
		out = append(out, []string{"KEYSPACE", ks})
	}
	level := []string{"CONSISTENCY"}
	if t.Options.Read != "" {
		level = append(level, "READ", t.Options.Read)
	}
	if t.Options.Write != "" {
		level = append(level, "WRITE", t.Options.Write)
	}
	if len(level) > 1 {
		out = append(out, level)
	}
	return out
}
