package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/magiconair/properties"
	"github.com/pingcap/go-ycsb/pkg/ycsb"
)

// spread deals the threads out to several databases of one binding: that of Redis knows
// one address, while that of etcd takes them all and spreads its calls itself.
//
// It also counts, and lets operations that are under way when the time is over come to
// their end: go-ycsb would count them as errors.
type spread struct {
	dbs  []ycsb.DB
	done atomic.Int64
}

func open(o *options, p *properties.Properties) (*spread, error) {
	s := &spread{}
	property, targets := "redis.addr", o.endpoints
	if o.binding == "etcd" {
		property, targets = "etcd.endpoints", []string{strings.Join(o.endpoints, ",")}
	}
	for _, to := range targets {
		if _, _, err := p.Set(property, to); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		db, err := ycsb.GetDBCreator(o.binding).Create(p)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", to, err), s.Close())
		}
		s.dbs = append(s.dbs, db)
	}
	return s, nil
}

func (s *spread) Close() error {
	var errs []error
	for _, db := range s.dbs {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

// thread is the key of a thread's own database in its context.
type thread struct{}

func (s *spread) InitThread(ctx context.Context, id, count int) context.Context {
	db := s.dbs[id%len(s.dbs)]
	return context.WithValue(db.InitThread(ctx, id, count), thread{}, db)
}

func (s *spread) CleanupThread(ctx context.Context) {
	ctx.Value(thread{}).(ycsb.DB).CleanupThread(ctx)
}

// of is the thread's database, and a context that does not end with the run's.
func (s *spread) of(ctx context.Context) (ycsb.DB, context.Context) {
	s.done.Add(1)
	return ctx.Value(thread{}).(ycsb.DB), context.WithoutCancel(ctx)
}

func (s *spread) Read(ctx context.Context, table, key string, fields []string) (map[string][]byte, error) {
	db, ctx := s.of(ctx)
	return db.Read(ctx, table, key, fields)
}

func (s *spread) Scan(ctx context.Context, table, from string, count int, fields []string) ([]map[string][]byte, error) {
	db, ctx := s.of(ctx)
	return db.Scan(ctx, table, from, count, fields)
}

func (s *spread) Update(ctx context.Context, table, key string, values map[string][]byte) error {
	db, ctx := s.of(ctx)
	return db.Update(ctx, table, key, values)
}

func (s *spread) Insert(ctx context.Context, table, key string, values map[string][]byte) error {
	db, ctx := s.of(ctx)
	return db.Insert(ctx, table, key, values)
}

func (s *spread) Delete(ctx context.Context, table, key string) error {
	db, ctx := s.of(ctx)
	return db.Delete(ctx, table, key)
}
