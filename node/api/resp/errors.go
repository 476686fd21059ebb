package resp

import (
	"errors"
	"fmt"
	"strings"

	"fulcrum"
)

// refusal is an error text in Redis's own words, prefix included.
type refusal string

func (e refusal) Error() string { return string(e) }

// Errors in Redis's own words.
const (
	errSyntax     = refusal("ERR syntax error")
	errNotInteger = refusal("ERR value is not an integer or out of range")
	errNotFloat   = refusal("ERR value is not a valid float")
	errOverflow   = refusal("ERR increment or decrement would overflow")
	errOffset     = refusal("ERR offset is out of range")
)

// prefixes are those that clients decide by; other codes are ERR.
func prefixOf(code fulcrum.Code) string {
	switch code {
	case fulcrum.CodeUnavailable:
		return "UNAVAILABLE "
	case fulcrum.CodeUnknown:
		return "UNKNOWN "
	case fulcrum.CodeLevel:
		return "LEVEL "
	case fulcrum.CodeOverloaded:
		return "OVERLOADED "
	case fulcrum.CodeTooLarge:
		return "TOOLARGE "
	}
	return "ERR "
}

// fail writes err as an error reply.
func (c *conn) fail(err error) { c.out.fail(errorText(err)) }

// refuse is fail for a command on keys, which has no receipt then: nothing was given.
func (c *conn) refuse(err error) {
	c.refused = errorText(err)
	c.out.fail(c.refused)
}

func errorText(err error) string {
	var r refusal
	if errors.As(err, &r) {
		return string(r)
	}
	text := err.Error()
	switch { // evaluation errors: what Redis says, exactly
	case errors.Is(err, fulcrum.ErrNotInteger):
		if strings.Contains(text, "would overflow") {
			return string(errOverflow)
		}
		return string(errNotInteger)
	case strings.Contains(text, "increment or decrement would overflow"):
		return string(errOverflow)
	case strings.Contains(text, "increment would produce NaN or Infinity"):
		return "ERR increment would produce NaN or Infinity"
	case errors.Is(err, fulcrum.ErrNotFloat):
		return string(errNotFloat)
	}
	e := fulcrum.AsError(err)
	if errors.Is(err, fulcrum.ErrShards) { // the word that clients of Redis Cluster know
		return "CROSSSLOT " + e.Error()
	}
	return prefixOf(e.Code) + e.Error()
}

func tooLargeText(n int, o Options) string {
	return fmt.Sprintf("%d bytes: the limit is %d bytes a value and %d bytes a command; nothing was done", n, o.MaxValue, o.MaxPipelineBytes)
}

// noKeyspace says that a database number has no keyspace, and which there are.
func (s *Server) noKeyspace(id uint32, err error) error {
	if !errors.Is(err, fulcrum.ErrNotFound) {
		return err
	}
	return refusal(fmt.Sprintf("ERR no keyspace has the database number %d: it may have been dropped; %s", id, s.databases()))
}

// databases lists what SELECT takes.
func (s *Server) databases() string {
	var b strings.Builder
	b.WriteString("there are")
	for i, ks := range s.backend.Keyspaces() {
		if i == 32 {
			b.WriteString(" and more")
			break
		}
		fmt.Fprintf(&b, " %d (%s)", ks.ID, ks.Name)
	}
	return b.String()
}

func checkKey(key []byte) error {
	return fulcrum.Write{Op: fulcrum.OpDelete, Key: key}.Check(0)
}
