// Command recorder drives stock Kubernetes API machinery with request scripts and stores the answers beside them.
//
//	recorder record SCRIPTS [FILTER]   records every script below SCRIPTS whose path contains FILTER
//	recorder etcd ...                  etcd, as etcdmain runs it
//	recorder apiextensions ...         the stock API server for custom resources
//
// The last two are started by the first; they are in one binary so that one go.sum pins everything.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: recorder record SCRIPTS [FILTER] | etcd ... | apiextensions ...")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "etcd":
		runEtcd(os.Args[2:])
	case "apiextensions":
		err = runAPIExtensions(os.Args[2:])
	case "record":
		err = record(os.Args[2:])
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "recorder:", err)
		os.Exit(1)
	}
}
