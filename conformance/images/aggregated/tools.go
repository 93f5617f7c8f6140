//go:build tools

// Package aggregated names the published programs that the aggregator test runs in the cluster: upstream's sample API
// server and etcd. Nothing of them is changed; build.sh --aggregated packs them into images.
package aggregated

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/sample-apiserver"
)
