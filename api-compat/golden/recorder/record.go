package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sort"
	"strings"
)

// record plays all scripts whose path contains the filter and writes SCRIPT.recorded beside each SCRIPT.yaml.
func record(args []string) error {
	if len(args) < 1 {
		return fmt.Errorf("usage: record SCRIPTS [FILTER]")
	}
	root, filter := args[0], ""
	if len(args) > 1 {
		filter = args[1]
	}
	paths, err := filepath.Glob(filepath.Join(root, "*", "*.yaml"))
	if err != nil {
		return err
	}
	sort.Strings(paths)
	failures := 0
	for _, path := range paths {
		if filepath.Base(filepath.Dir(path)) == "crds" || !strings.Contains(path, filter) {
			continue
		}
		target := strings.TrimSuffix(path, ".yaml") + ".recorded"
		if err := recordOne(path, target, root); err != nil {
			failures++
			fmt.Fprintf(os.Stderr, "FAILED %s: %v\n", path, err)
			continue
		}
		fmt.Println("recorded", target)
	}
	if failures > 0 {
		return fmt.Errorf("%d scripts failed", failures)
	}
	return os.WriteFile(filepath.Join(root, "STOCK.txt"), []byte(provenance()), 0o644)
}

func recordOne(path, target, root string) error {
	s, err := readScript(path)
	if err != nil {
		return err
	}
	text, err := play(s, root)
	if err != nil {
		return err
	}
	return os.WriteFile(target, []byte(text), 0o644)
}

// provenance names versions and flags.
func provenance() string {
	var out strings.Builder
	out.WriteString("What answered in the recordings of this directory:\n")
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			switch module.Path {
			case "k8s.io/apiextensions-apiserver", "k8s.io/apiserver", "k8s.io/apimachinery", "k8s.io/kube-openapi", "go.etcd.io/etcd/server/v3",
				"sigs.k8s.io/structured-merge-diff/v6", "github.com/google/cel-go":
				fmt.Fprintf(&out, "%s %s\n", module.Path, module.Version)
			}
		}
	}
	fmt.Fprintf(&out, "etcd %s\n", strings.Join(etcdFlags, " "))
	fmt.Fprintf(&out, "apiextensions-apiserver %s\n", strings.Join(serverFlags, " "))
	out.WriteString("identity: client certificate CN=admin, O=system:masters; all kubeconfigs of the server point nowhere\n")
	return out.String()
}
