package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// maxRounds bounds the compare-and-set rounds of one Update.
const maxRounds = 100

// Update changes a key by a compare-and-set loop: it reads the item (nil if there
// is none), writes what change makes of it under IfVersion or IfAbsent, and begins
// again when somebody else was faster. The key keeps its expiry unless opts has a
// TTL. It returns the value written.
//
// It needs a mode with atomic read-modify-write; others answer fulcrum.ErrMode.
// A Level among opts is of the write; the read is at the keyspace's default. An
// error of change ends it and is returned as it is.
func (c *Client) Update(ctx context.Context, keyspace, key string, change func(old *Item) ([]byte, error), opts ...CallOption) ([]byte, consistency.Receipt, error) {
	if c.call(opts).id != nil {
		return nil, consistency.Receipt{}, fulcrum.Errorf(fulcrum.CodeInvalid, "an Update is many requests, and a request id names one").WithHint("use ExactlyOnce, or a Txn")
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	for round := 1; ; round++ {
		value, rc, err := c.updateOnce(ctx, keyspace, key, change, opts)
		if !errors.Is(err, fulcrum.ErrConflict) || Unknown(err) || round == maxRounds {
			return value, rc, err
		}
		if !sleep(ctx, rand.N(time.Duration(min(round, 20))*time.Millisecond)) {
			return nil, rc, &fulcrum.Error{Code: fulcrum.CodeUnavailable, Op: "update", Err: ctx.Err(),
				Detail: fmt.Sprintf("somebody else was faster %d times", round)}
		}
	}
}

func (c *Client) updateOnce(ctx context.Context, keyspace, key string, change func(*Item) ([]byte, error), opts []CallOption) ([]byte, consistency.Receipt, error) {
	atDefault := append(opts[:len(opts):len(opts)], Level(consistency.Level{}))
	item, err := c.Get(ctx, keyspace, key, append(atDefault, unconditional)...)
	old, condition := &item, IfVersion(item.Version)
	switch {
	case errors.Is(err, fulcrum.ErrNotFound) && item.Receipt.Keyspace != "": // the key is missing, not the keyspace
		old, condition = nil, IfAbsent()
	case err != nil:
		return nil, item.Receipt, err
	}
	value, err := change(old)
	if err != nil {
		return nil, item.Receipt, err
	}
	put := append(opts[:len(opts):len(opts)], condition)
	if old != nil && c.call(opts).ttl == 0 {
		put = append(put, KeepTTL())
	}
	rc, err := c.Put(ctx, keyspace, key, value, put...)
	return value, rc, err
}

func unconditional(c *call) { c.match, c.none, c.cas = "", "", false }

// Incr adds delta to the decimal integer at key (a missing key counts as 0) by
// Update, and returns the sum. A value that is no integer, or a sum out of range, is
// fulcrum.ErrInvalid and matches fulcrum.ErrNotInteger. With a request id it is one
// transaction instead.
func (c *Client) Incr(ctx context.Context, keyspace, key string, delta int64, opts ...CallOption) (int64, consistency.Receipt, error) {
	if c.call(opts).once {
		res, rc, err := c.single(ctx, keyspace, OpIncr(key, delta), opts)
		if err != nil {
			return 0, rc, notInteger(err)
		}
		sum, err := strconv.ParseInt(string(res.Value), 10, 64)
		if err != nil {
			err = fulcrum.Errorf(fulcrum.CodeUnknown, "added, but the sum is %q", res.Value)
		}
		return sum, rc, err
	}
	var sum int64
	_, rc, err := c.Update(ctx, keyspace, key, func(old *Item) ([]byte, error) {
		var n int64
		if old != nil {
			var err error
			if n, err = strconv.ParseInt(string(old.Value), 10, 64); err != nil {
				return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "%w", fulcrum.ErrNotInteger)
			}
		}
		if sum = n + delta; (delta > 0) != (sum > n) && delta != 0 {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "%d + %d: %w", n, delta, fulcrum.ErrNotInteger)
		}
		return strconv.AppendInt(nil, sum, 10), nil
	}, opts...)
	if err != nil {
		return 0, rc, err
	}
	return sum, rc, nil
}

// Append puts tail behind the value at key by Update, and returns the length of the
// whole. With a request id it is one transaction instead.
func (c *Client) Append(ctx context.Context, keyspace, key string, tail []byte, opts ...CallOption) (int, consistency.Receipt, error) {
	if c.call(opts).once {
		res, rc, err := c.single(ctx, keyspace, OpAppend(key, tail), opts)
		return res.Length, rc, err
	}
	value, rc, err := c.Update(ctx, keyspace, key, func(old *Item) ([]byte, error) {
		if old == nil {
			return tail, nil
		}
		return append(old.Value[:len(old.Value):len(old.Value)], tail...), nil
	}, opts...)
	return len(value), rc, err
}
