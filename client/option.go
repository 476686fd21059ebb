package client

import (
	"context"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// CallOption changes one call.
type CallOption func(*call)

type call struct {
	level    consistency.Level
	ttl      time.Duration
	keepTTL  bool
	match    string // If-Match
	none     string // If-None-Match
	cas      bool   // match names one version: a retry cannot apply twice
	session  *Session
	node     fulcrum.NodeID
	attempts int
	once     bool    // with a request id
	id       *string // nil: of the client's making
}

func (c *Client) call(opts []CallOption) call {
	o := call{attempts: c.attempts}
	for _, f := range c.defaults {
		f(&o)
	}
	for _, f := range opts {
		f(&o)
	}
	return o
}

// Level asks for a level; the zero Level is the keyspace's default.
func Level(l consistency.Level) CallOption { return func(c *call) { c.level = l } }

// TTL makes a Put expire d after it takes effect.
func TTL(d time.Duration) CallOption { return func(c *call) { c.ttl = d } }

// KeepTTL makes a Put leave the key's expiry as it is.
func KeepTTL() CallOption { return func(c *call) { c.keepTTL = true } }

// IfVersion makes a Put or Delete count only while the key's value has version
// v; else it fails with fulcrum.ErrConflict. Such a write may be retried.
func IfVersion(v fulcrum.Version) CallOption {
	return func(c *call) { c.match, c.none, c.cas = `"`+v.String()+`"`, "", true }
}

// IfAbsent makes a Put count only where no value stands.
func IfAbsent() CallOption { return func(c *call) { c.match, c.none, c.cas = "", "*", false } }

// IfPresent makes a Put or Delete count only where a value stands.
func IfPresent() CallOption { return func(c *call) { c.match, c.none, c.cas = "*", "", false } }

// In makes a call part of a session.
func In(s *Session) CallOption { return func(c *call) { c.session = s } }

// On sends a call to one node and no other.
func On(node fulcrum.NodeID) CallOption { return func(c *call) { c.node = node } }

// NoRetry makes a call fail with the first answer.
func NoRetry() CallOption { return func(c *call) { c.attempts = 1 } }

// Session ties calls together: reads see what the session wrote and never go
// back behind what it read, at levels that keep sessions (see consistency.Table).
// Calls of one session run one after the other, since each needs the token of the
// one before; it may be used from any goroutine.
type Session struct {
	turn  chan struct{} // holds one element while nobody's call is under way
	token consistency.Token
}

// NewSession begins a session, or takes one up again from its token.
func NewSession(token consistency.Token) *Session {
	s := &Session{turn: make(chan struct{}, 1), token: token}
	s.turn <- struct{}{}
	return s
}

// Token is the session's token, to take it up again elsewhere. It waits for a
// call under way.
func (s *Session) Token() consistency.Token {
	<-s.turn
	defer s.leave()
	return s.token
}

// enter waits for the session's turn. A nil session is always free.
func (s *Session) enter(ctx context.Context) error {
	if s == nil {
		return nil
	}
	select {
	case <-s.turn:
		return nil
	case <-ctx.Done():
		return &fulcrum.Error{Code: fulcrum.CodeUnavailable, Detail: "an earlier call of the session is still under way", Err: ctx.Err()}
	}
}

func (s *Session) leave() {
	if s != nil {
		s.turn <- struct{}{}
	}
}
