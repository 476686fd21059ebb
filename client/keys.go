package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// Item is a value as it was read.
type Item struct {
	Key      string // any bytes
	Value    []byte
	Version  fulcrum.Version
	ExpireAt time.Time // zero: never
	Receipt  consistency.Receipt
}

// Get reads a key. One that is not there is fulcrum.ErrNotFound; the Item's
// Receipt is filled even then.
func (c *Client) Get(ctx context.Context, keyspace, key string, opts ...CallOption) (Item, error) {
	item := Item{Key: key}
	a, err := c.key(ctx, request{op: "get", method: http.MethodGet, read: true}, keyspace, key, c.call(opts))
	item.Receipt = a.receipt
	if err != nil {
		return item, err
	}
	item.Value = a.body
	if item.Version, err = versionOf(a.header); err != nil {
		return item, err
	}
	if ms, err := strconv.ParseInt(a.header.Get("Fulcrum-Expire-At"), 10, 64); err == nil {
		item.ExpireAt = time.UnixMilli(ms)
	}
	return item, nil
}

// Put writes a value. The Receipt has its Version.
func (c *Client) Put(ctx context.Context, keyspace, key string, value []byte, opts ...CallOption) (consistency.Receipt, error) {
	if value == nil {
		value = []byte{}
	}
	a, err := c.key(ctx, request{op: "put", method: http.MethodPut, body: value}, keyspace, key, c.call(opts))
	if err == nil && a.receipt.Version.IsZero() {
		a.receipt.Version, err = versionOf(a.header)
	}
	return a.receipt, err
}

// Delete removes a key; one that is not there is no error.
func (c *Client) Delete(ctx context.Context, keyspace, key string, opts ...CallOption) (consistency.Receipt, error) {
	a, err := c.key(ctx, request{op: "delete", method: http.MethodDelete}, keyspace, key, c.call(opts))
	return a.receipt, err
}

func versionOf(h http.Header) (fulcrum.Version, error) {
	tag, err := strconv.Unquote(h.Get("ETag"))
	if err == nil {
		var v fulcrum.Version
		if v, err = fulcrum.ParseVersion(tag); err == nil {
			return v, nil
		}
	}
	return fulcrum.Version{}, fulcrum.Errorf(fulcrum.CodeInternal, "reply without a version: ETag %q: %w", h.Get("ETag"), err)
}

// key sends a request about one key to the nodes that the table names, inside its session.
func (c *Client) key(ctx context.Context, rq request, keyspace, key string, o call) (answer, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	rq.path, rq.keyspace, rq.attempts, rq.cas = []string{"v1", "kv", keyspace, key}, keyspace, o.attempts, o.cas
	rq.query, rq.header = o.values(), make(http.Header)
	if rq.method == http.MethodPut && o.ttl != 0 {
		rq.query.Set("ttl", o.ttl.String())
	}
	if rq.method == http.MethodPut && o.keepTTL {
		rq.query.Set("keep_ttl", "true")
	}
	if o.match != "" {
		rq.header.Set("If-Match", o.match)
	}
	if o.none != "" {
		rq.header.Set("If-None-Match", o.none)
	}
	if err := c.name(&rq, o); err != nil {
		return answer{}, err
	}
	targets, err := c.targets(ctx, o, func() []string { return c.route(ctx, keyspace, key, rq.read, o.level) })
	if err != nil {
		return answer{}, err
	}
	return c.inSession(ctx, rq, o.session, targets)
}

func (o call) values() url.Values {
	q := make(url.Values)
	if o.level != (consistency.Level{}) {
		q.Set("level", o.level.String())
	}
	return q
}

// targets is the node that the call chose, or what route says.
func (c *Client) targets(ctx context.Context, o call, route func() []string) ([]string, error) {
	if o.node == "" {
		return route(), nil
	}
	at, err := c.address(ctx, o.node)
	return []string{at}, err
}

// inSession sends rq with the session's token, and keeps the token that comes back.
func (c *Client) inSession(ctx context.Context, rq request, s *Session, targets []string) (answer, error) {
	if err := s.enter(ctx); err != nil {
		return answer{}, err
	}
	defer s.leave()
	if s != nil && s.token != "" {
		rq.header.Set("Fulcrum-Session", string(s.token))
	}
	a, err := c.do(ctx, rq, targets)
	if s != nil && a.receipt.Session != "" {
		s.token = a.receipt.Session
	}
	return a, err
}

// Range says what a Scan returns: keys with Prefix, from Start on, before End
// (empty: no end).
type Range struct {
	Prefix, Start, End string
	Limit              int  // 0: all
	KeysOnly           bool // values stay empty
	PageSize           int  // entries a request; 0: 1,000
}

// Scan returns live entries in key order over all shards, page by page. Each page
// keeps the level by itself; the whole is no snapshot. An error ends the sequence.
func (c *Client) Scan(ctx context.Context, keyspace string, r Range, opts ...CallOption) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		left, after := r.Limit, ""
		for {
			page := r.PageSize
			if page <= 0 {
				page = 1000
			}
			if r.Limit > 0 {
				page = min(page, left)
			}
			items, next, err := c.page(ctx, keyspace, r, page, after, c.call(opts))
			if err != nil {
				yield(Item{}, err)
				return
			}
			for _, it := range items {
				if !yield(it, nil) {
					return
				}
			}
			left -= len(items)
			if next == "" || (r.Limit > 0 && left <= 0) {
				return
			}
			after = next
		}
	}
}

// page reads one page of a scan; next is empty after the last.
func (c *Client) page(ctx context.Context, keyspace string, r Range, limit int, after string, o call) ([]Item, string, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	rq := request{op: "scan", method: http.MethodGet, read: true, path: []string{"v1", "kv", keyspace}, keyspace: keyspace,
		query: o.values(), header: make(http.Header), attempts: o.attempts}
	for name, v := range map[string]string{"prefix": r.Prefix, "start": r.Start, "end": r.End, "after": after, "limit": strconv.Itoa(limit)} {
		if v != "" {
			rq.query.Set(name, v)
		}
	}
	if r.KeysOnly {
		rq.query.Set("keys_only", "true")
	}
	targets, err := c.targets(ctx, o, c.everyone)
	if err != nil {
		return nil, "", err
	}
	a, err := c.inSession(ctx, rq, o.session, targets)
	if err != nil {
		return nil, "", err
	}
	return decodePage(a)
}

func decodePage(a answer) ([]Item, string, error) {
	var p struct {
		Entries []struct {
			Key, Value, Encoding string
			Version              fulcrum.Version
			ExpireAt             int64 `json:"expire_at"`
		}
		Next         string
		NextEncoding string `json:"next_encoding"`
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		return nil, "", fulcrum.Errorf(fulcrum.CodeInternal, "page of a scan: %w", err)
	}
	var bad error
	text := func(s, encoding string) string {
		if encoding != "base64" {
			return s
		}
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			bad = fulcrum.Errorf(fulcrum.CodeInternal, "page of a scan: %w", err)
		}
		return string(b)
	}
	items := make([]Item, len(p.Entries))
	for i, e := range p.Entries {
		items[i] = Item{Key: text(e.Key, e.Encoding), Value: []byte(text(e.Value, e.Encoding)), Version: e.Version, Receipt: a.receipt}
		if e.ExpireAt != 0 {
			items[i].ExpireAt = time.UnixMilli(e.ExpireAt)
		}
	}
	return items, text(p.Next, p.NextEncoding), bad
}
