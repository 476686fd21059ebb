package client_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/client"
)

// pause has a host take requests and answer none, until it goes on.
func (c *cluster) pause(host string) (goOn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	healthy := c.hosts[host]
	moving := make(chan struct{})
	c.hosts[host] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-moving:
			healthy.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	return func() { close(moving) }
}

// Another node is asked soon, however long a request may take: by a client that is new, too.
func TestAPausedNodeCostsAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		c.pause("n1:71")
		c.pause("n2:71")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		fresh, err := client.New(ctx, []string{"n1:71", "n3:71"}, client.WithTransport(c.wire))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("a new client knew the cluster after %v", took)
		}
		begun = time.Now()
		if _, err := fresh.Put(ctx, "cp", "k", []byte("v"), client.ExactlyOnce()); err != nil || time.Since(begun) > 3*time.Second {
			t.Errorf("a put with a request id: %v after %v", err, time.Since(begun))
		}
		begun = time.Now()
		if _, err := fresh.Get(ctx, "cp", "none"); !errors.Is(err, fulcrum.ErrNotFound) || time.Since(begun) > 2*time.Second {
			t.Errorf("a get: %v after %v", err, time.Since(begun))
		}
	})
}

// A node that takes its time and shows that it is there is waited for, and asked once.
func TestASlowNodeIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		healthy := c.hosts["n2:71"]
		c.hosts["n2:71"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isKey(r) {
				time.Sleep(4 * time.Second)
			}
			healthy.ServeHTTP(w, r)
		})
		c.set(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := c.Get(ctx, "cp", "k"); !errors.Is(err, fulcrum.ErrNotFound) {
			t.Error(err)
		}
		if got := c.sent(); got != "GET n2:71 cp/k" {
			t.Error(got)
		}
	})
}

// A node that shows that it is there is not asked last because one request took it too long.
func TestASlowNodeIsNotTakenForASilentOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		healthy, slow := c.hosts["n2:71"], true
		c.hosts["n2:71"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isKey(r) && slow {
				<-r.Context().Done()
				return
			}
			healthy.ServeHTTP(w, r)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if _, err := c.Put(ctx, "cp", "k", []byte("v")); !client.Unknown(err) {
			t.Errorf("a put that had no answer: %v", err)
		}
		slow = false
		c.set(nil)
		if _, err := c.Put(t.Context(), "cp", "k", []byte("v")); err != nil {
			t.Error(err)
		}
		if got := c.sent(); got != "PUT n2:71 cp/k" {
			t.Errorf("the next put went elsewhere: %s", got)
		}
	})
}

// What may not be sent twice waits for its answer; what comes after it does not go where
// nobody answers, until somebody does.
func TestAPausedNodeIsAskedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		goOn := c.pause("n2:71") // all tables say that it leads
		done := make(chan error, 1)
		go func() {
			_, err := c.Put(t.Context(), "cp", "k", []byte("patient"))
			done <- err
		}()
		time.Sleep(2 * time.Second)
		if rc, err := c.Put(t.Context(), "cp", "k", []byte("v")); err != nil || rc.Node == "n2" {
			t.Errorf("while n2 is known to be silent: %+v, %v", rc, err)
		}
		select {
		case err := <-done:
			t.Fatalf("the first put did not wait for its answer: %v", err)
		default:
		}
		goOn()
		if err := <-done; err != nil {
			t.Errorf("the answer was there in time: %v", err)
		}
		if rc, err := c.Put(t.Context(), "cp", "k", []byte("v")); err != nil || rc.Node != "n2" {
			t.Errorf("n2 has answered: %+v, %v", rc, err)
		}
	})
}
