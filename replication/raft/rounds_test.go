package raft

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"

	"pgregory.net/rapid"
)

// cart is a queue whose rounds take a while, or end when the test says so.
type cart struct {
	*queue[int]
	mu     sync.Mutex
	begun  []time.Time
	served [][]int
	takes  time.Duration // 0: a round ends before it has begun
}

func newCart(r *Rounds, key lineKey, limit int, takes time.Duration) *cart {
	c := &cart{takes: takes}
	c.queue = newQueue(r, limit, errTooMany, func() lineKey { return key }, func(items []int) {
		c.note(items)
		if takes == 0 {
			c.end()
			return
		}
		time.AfterFunc(takes, c.end)
	})
	return c
}

func (c *cart) note(items []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun, c.served = append(c.begun, time.Now()), append(c.served, items)
}

func (c *cart) end() {
	c.ended()
	c.over(nil)
}

func (c *cart) rounds() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.begun)
}

var errTooMany = errors.New("too many")

var there = lineKey{questions, "n2"}

// Once rounds serve several, those of all groups begin at the same instants, also where each
// group has one read at a time and they come at different times.
func TestRoundsOfAllGroupsBeginTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups = 8
		r := NewRounds()
		var carts []*cart
		for range groups {
			carts = append(carts, newCart(r, there, 10, time.Millisecond))
		}
		for i, c := range carts { // each comes back some time after its round
			c.start = func(items []int) {
				c.note(items)
				time.AfterFunc(c.takes, func() {
					c.end()
					time.AfterFunc(time.Duration(i)*20*time.Microsecond, func() { _ = c.enter(0) })
				})
			}
			_ = c.enter(0)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		instants := map[time.Time]bool{}
		rounds := 0
		for _, c := range carts {
			c.mu.Lock()
			begun := c.begun[len(c.begun)/2:]
			c.mu.Unlock()
			for _, at := range begun {
				instants[at], rounds = true, rounds+1
			}
		}
		if rounds < groups*20 || len(instants) > rounds/groups+2 {
			t.Errorf("%d rounds of 8 groups began at %d instants", rounds, len(instants))
		}
		time.Sleep(time.Second) // whatever comes back is over
	})
}

// Who comes alone does not wait.
func TestALoneRoundBeginsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCart(NewRounds(), there, 10, time.Millisecond)
		for i := range 5 {
			_ = c.enter(i)
			if c.rounds() != i+1 {
				t.Fatalf("after %d entered, one at a time, %d rounds have begun", i+1, c.rounds())
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

// A round that does not end holds up other groups of its line no longer than a pace, and
// other lines not at all.
func TestARoundThatHangsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRounds()
		hangs, other := newCart(r, there, 10, time.Hour), newCart(r, there, 10, time.Millisecond)
		elsewhere := newCart(r, lineKey{questions, "n3"}, 10, time.Millisecond)
		_ = other.enter(0)
		_ = other.enter(0)
		time.Sleep(10 * time.Millisecond)
		_ = hangs.enter(0)
		_ = hangs.enter(0)
		_ = elsewhere.enter(0)
		time.Sleep(10 * time.Millisecond)
		for i := range 10 {
			n, m := other.rounds(), elsewhere.rounds()
			_ = other.enter(0)
			_ = elsewhere.enter(0)
			if elsewhere.rounds() != m+1 {
				t.Error("another line waits")
			}
			if i < 2 {
				time.Sleep(4 * roundPace) // the first of those who know of it finds out that one is late
				synctest.Wait()
			}
			if other.rounds() != n+1 {
				t.Errorf("round %d: a group waits for another's", i)
			}
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
		}
		if hangs.rounds() != 1 {
			t.Errorf("%d rounds of one group at a time", hangs.rounds())
		}
		hangs.end()
	})
}

// Groups whose rounds take a hundred times as long, as those of replicas far away do, cost
// the others of their line little.
func TestSlowGroupsAreNotTheMeasureOfFastOnes(t *testing.T) {
	rounds := func(t *testing.T, slow int) (n int) {
		synctest.Test(t, func(t *testing.T) {
			r := NewRounds()
			key := lineKey{kind: entries}
			end := time.Now().Add(2 * time.Second)
			client := func(c *cart) { // ten of them come back as soon as they are answered
				c.start = func(items []int) {
					c.note(items)
					time.AfterFunc(c.takes, func() {
						c.end()
						for range items {
							if time.Now().Before(end) {
								_ = c.enter(0)
							}
						}
					})
				}
				for range 10 {
					_ = c.enter(0)
				}
			}
			fast := newCart(r, key, 100, time.Millisecond)
			client(fast)
			for range slow {
				client(newCart(r, key, 100, 100*time.Millisecond))
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			n = fast.rounds()
		})
		return n
	}
	if alone, beside := rounds(t, 0), rounds(t, 3); beside < alone*3/4 {
		t.Errorf("%d rounds beside slow groups, %d alone", beside, alone)
	}
}

// Rounds that end while they begin are begun one after the other, not inside each other.
func TestRoundsThatEndAtOnceDoNotNest(t *testing.T) {
	r := NewRounds()
	depth, deepest, n := 0, 0, 0
	var q *queue[int]
	q = newQueue(r, 10, errTooMany, func() lineKey { return there }, func([]int) {
		depth++
		deepest = max(deepest, depth)
		n++
		q.ended()
		q.over(nil)
		if n < 1000 {
			_ = q.enter(n) // as one does who is told at once
		}
		depth--
	})
	_ = q.enter(0)
	if n != 1000 || deepest != 1 {
		t.Errorf("%d rounds, %d deep", n, deepest)
	}
}

func TestTooManyWaitForARound(t *testing.T) {
	c := newCart(NewRounds(), there, 3, time.Hour)
	for i := range 4 { // one is served, three wait
		if err := c.enter(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.enter(4); !errors.Is(err, errTooMany) {
		t.Errorf("a fourth may wait: %v", err)
	}
	if n := c.len(); n != 4 {
		t.Errorf("%d are there", n)
	}
	if all := c.close(); len(all) != 4 {
		t.Errorf("closing tells %v", all)
	}
	if err := c.enter(5); !errors.Is(err, errStopping) {
		t.Errorf("entered behind the end: %v", err)
	}
	if left := c.ended(); len(left) != 0 {
		t.Errorf("told twice: %v", left)
	}
	c.over([]int{7}) // nobody is there to try again
	if c.rounds() != 1 || c.len() != 0 {
		t.Errorf("%d rounds, %d wait after the end", c.rounds(), c.len())
	}
}

// Whatever enters is served by one round that begins afterwards, or again by a later one
// that was asked for, or handed back by close: exactly once.
func TestEveryoneIsServedOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		groups := rapid.IntRange(1, 5).Draw(rt, "groups")
		closes := rapid.Bool().Draw(rt, "closes")
		synctest.Test(t, func(t *testing.T) { everyoneOnce(t, rand.New(rand.NewPCG(seed, 1)), groups, closes) })
	})
}

func everyoneOnce(t *testing.T, rnd *rand.Rand, groups int, closes bool) {
	var mu sync.Mutex
	draw := func(n int) int { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) }
	type item struct {
		entered time.Time
		served  int
	}
	r := NewRounds()
	var items []*item
	for range groups {
		var q *queue[*item]
		q = newQueue(r, 1000, errTooMany, func() lineKey { // the leader changes now and then
			to := fulcrum.NodeID([]string{"n1", "n2", "n3"}[draw(3)])
			return lineKey{questions, to}
		}, func(round []*item) {
			begun := time.Now()
			for _, it := range round {
				if it.entered.After(begun) {
					t.Errorf("entered at %v, served by a round of %v", it.entered, begun)
				}
			}
			if len(round) > 1 && draw(5) == 0 { // an entry has no room for all
				all := q.ended()
				n := draw(len(all) + 1)
				for _, it := range all[:n] {
					it.served++
				}
				q.back(all[n:])
			}
			time.AfterFunc(time.Duration(draw(3000))*time.Microsecond, func() {
				var again []*item
				ended := q.ended()
				for i, it := range ended {
					if draw(10) == 0 {
						again = ended[i:]
						break
					}
					it.served++
				}
				q.over(again)
			})
		})
		for range 200 {
			it := &item{}
			items = append(items, it)
			time.AfterFunc(time.Duration(draw(50_000))*time.Microsecond, func() {
				it.entered = time.Now()
				if q.enter(it) != nil {
					it.served++ // refused
				}
			})
		}
		for range draw(3) { // who waits is turned away
			time.AfterFunc(time.Duration(draw(50_000))*time.Microsecond, func() {
				for _, it := range q.drain() {
					it.served++
				}
			})
		}
		if closes {
			time.AfterFunc(time.Duration(draw(50_000))*time.Microsecond, func() {
				for _, it := range q.close() {
					it.served++
				}
			})
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	for _, l := range r.lines {
		if l.present != l.away || l.waiting != 0 || len(l.running) != 0 || len(l.ready) != 0 && !closes {
			t.Errorf("nobody is left, but in the line there are %+v", l)
		}
	}
	for i, it := range items {
		if it.served != 1 {
			t.Errorf("item %d of %v was answered %d times", i, it.entered, it.served)
		}
	}
}
