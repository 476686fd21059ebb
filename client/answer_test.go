package client_test

import (
	"errors"
	"net/http"
	"testing"

	"fulcrum"
	"fulcrum/client"
)

// An answer that is too large says nothing against a change, which was carried out; a read
// has changed nothing.
func TestAnAnswerOverTheBoundLeavesAChangeOpen(t *testing.T) {
	defer client.SetMaxBody(100)()
	long := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 101)) })
	c, err := client.New(t.Context(), []string{"n1:71"}, client.WithTransport(&wire{hosts: map[string]http.Handler{"n1:71": long}}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(t.Context(), "cp", "k", []byte("v")); !errors.Is(err, fulcrum.ErrUnknown) || !fulcrum.AsError(err).Maybe {
		t.Errorf("a put: %v", err)
	}
	if _, _, err := c.Get(t.Context(), "cp", "k"); !errors.Is(err, &fulcrum.Error{Code: fulcrum.CodeTooLarge}) || fulcrum.AsError(err).Maybe {
		t.Errorf("a get: %v", err)
	}
}
