#!/bin/sh
# Writes api-compat/schema/data/ anew. Needs Go >= 1.26, cargo and the module and crate registries.
# Steps: upstream's openapi-gen over the published API modules (facts/), documentation of k8s-openapi (docs/), merge.
set -eu
cd "$(dirname "$0")"
data=$PWD/../schema/data
mkdir -p out facts/openapi
: >out/header
cd facts
# The package list is that of packages.txt; openapi-gen wants it as arguments.
# shellcheck disable=SC2046
go run k8s.io/kube-openapi/cmd/openapi-gen --output-dir openapi --output-pkg knarr.dev/codegen/facts/openapi \
	--output-file zz_generated.go --go-header-file ../out/header -r ../out/lint.txt $(cat packages.txt)
go run . "$data/types.txt" ../out/openapi.json
cd ../docs
cargo run --quiet -- ../out/openapi.json ../out/documented.json
cd ../facts
go run ./pack ../out/documented.json "$data/openapi.json.zst"
