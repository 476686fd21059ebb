package bench

import (
	"context"
	"time"
)

// Target is a store under load.
type Target interface {
	// Connect opens the connection of one client. Its error says that no client can work:
	// nobody answers, or what Options asks for is refused.
	Connect(ctx context.Context, client int) (Session, error)
}

// Session is the connection of one client, which alone uses it.
type Session interface {
	// Do sends ops together and sets an answer for each. With an error the connection is
	// of no use any more and only the first n operations were answered; for the others the
	// outcome is unknown. It returns when ctx, that of Connect, ends.
	Do(sent time.Time, ops []Op, answers []Answer) (n int, err error)
	Close()
}

// Op is one operation. What it points to is the generator's, and good until Do returns.
type Op struct {
	Kind  Kind
	Keys  []uint64 // numbers, for Options.AppendKey
	Value []byte

	slot int // of its kind in the mix
	due  time.Time
}

// Answer is how an operation ended.
type Answer struct {
	At      time.Time
	Err     string // empty: done; else the prefix of the error reply, or one of the words below
	Text    string // of an error reply
	Missing bool   // done, but there was no such key
}

// What errors are called that no server sent.
const (
	ErrTimeout    = "TIMEOUT"    // no answer in time
	ErrConnection = "CONNECTION" // the connection ended before the answer
	ErrConnect    = "CONNECT"    // not sent: nobody could be reached
	ErrReply      = "REPLY"      // an answer that does not fit the operation, or that is no Redis protocol
	ErrReplicas   = "REPLICAS"   // WAIT: fewer replicas than asked for
	ErrOther      = "OTHER"      // beyond maxPrefixes kinds of error
)
