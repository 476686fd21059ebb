package client_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"fulcrum"
	"fulcrum/client"
)

// An answer that is too large says nothing against a change, which was carried out; a read
// has changed nothing.
func TestAnAnswerOverTheBoundLeavesAChangeOpen(t *testing.T) {
	c := start(t)
	for name, h := range c.hosts {
		c.hosts[name] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/v1/kv/") {
				_, _ = w.Write(make([]byte, 1<<20+1))
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	defer client.SetMaxBody(1 << 20)()
	if _, err := c.Put(t.Context(), "cp", "k", []byte("v")); !errors.Is(err, fulcrum.ErrUnknown) || !fulcrum.AsError(err).Maybe {
		t.Errorf("a put: %v", err)
	}
	if _, err := c.Get(t.Context(), "cp", "k"); !errors.Is(err, &fulcrum.Error{Code: fulcrum.CodeTooLarge}) || fulcrum.AsError(err).Maybe {
		t.Errorf("a get: %v", err)
	}
}
