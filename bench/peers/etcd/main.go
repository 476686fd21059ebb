// Command etcd is etcd itself, built from its module so that the benchmark needs no
// package of the system's.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
