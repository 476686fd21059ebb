package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"time"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
	httpapi "fulcrum/node/api/http"
	"fulcrum/node/api/http/apitest"
)

// demo stands for a cluster; a real one is at localhost:7101.
func demo() (endpoint string, stop func()) {
	server := httptest.NewServer(httpapi.New(httpapi.Options{Backend: apitest.New("n1", time.Now)}))
	return server.URL, server.Close
}

func ExampleClient_Put() {
	endpoint, stop := demo()
	defer stop()
	ctx := context.Background()
	c, err := client.New(ctx, []string{endpoint})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	rc, err := c.Put(ctx, "cp", "balance", []byte("100"))
	switch {
	case errors.Is(err, fulcrum.ErrUnavailable):
		fmt.Println("definitely not done")
	case client.Unknown(err):
		fmt.Println("done or not: look before you try again")
	case err == nil:
		fmt.Println("kept at", rc.Given, "by", rc.Acks, "of", rc.Replicas)
	}

	// Only if nobody changed it since:
	_, err = c.Put(ctx, "cp", "balance", []byte("50"), client.IfVersion(rc.Version))
	fmt.Println(err)
	_, err = c.Put(ctx, "cp", "balance", []byte("0"), client.IfVersion(rc.Version))
	fmt.Println(errors.Is(err, fulcrum.ErrConflict))
	// Output:
	// kept at quorum by 1 of 1
	// <nil>
	// true
}

func ExampleSession() {
	endpoint, stop := demo()
	defer stop()
	ctx := context.Background()
	c, err := client.New(ctx, []string{endpoint})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	mine := client.NewSession("")
	if _, err := c.Put(ctx, "lf", "post", []byte("hello"), client.In(mine)); err != nil {
		log.Fatal(err)
	}
	// Any replica may answer that has seen the write above.
	item, err := c.Get(ctx, "lf", "post", client.In(mine), client.Level(consistency.L(consistency.Session)))
	fmt.Println(string(item.Value), err)
	// Output: hello <nil>
}

func ExampleClient_Scan() {
	endpoint, stop := demo()
	defer stop()
	ctx := context.Background()
	c, err := client.New(ctx, []string{endpoint})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for _, k := range []string{"user:2", "user:1", "post:1"} {
		if _, err := c.Put(ctx, "ap", k, []byte("v")); err != nil {
			log.Fatal(err)
		}
	}
	for item, err := range c.Scan(ctx, "ap", client.Range{Prefix: "user:"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(item.Key)
	}
	// Output:
	// user:1
	// user:2
}

func ExampleClient_Txn() {
	endpoint, stop := demo()
	defer stop()
	ctx := context.Background()
	c, err := client.New(ctx, []string{endpoint}, client.WithExactlyOnce())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	// The {tag} puts both keys into one shard.
	take := client.Txn{
		If:   []client.Compare{client.WhenAbsent("{flight7}12A")},
		Then: []client.Op{client.OpPut("{flight7}12A", []byte("ann")), client.OpIncr("{flight7}sold", 1)},
		Else: []client.Op{client.OpGet("{flight7}12A")},
	}
	for range 2 {
		res, err := c.Txn(ctx, "cp", take)
		if err != nil {
			log.Fatal(err)
		}
		last := res.Results[len(res.Results)-1]
		fmt.Println(res.Succeeded, last.Key, string(last.Value))
	}
	// Output:
	// true {flight7}sold 1
	// false {flight7}12A ann
}
