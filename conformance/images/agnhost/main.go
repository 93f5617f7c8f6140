// Command agnhost is a stand-in for the helper image of the Kubernetes end-to-end tests: one static program with the
// same sub-commands, flags and answers, written from their public description. Under the names of small tools (dig,
// getent, curl, nc, nonewprivs) it behaves as those do, as far as the tests use them.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
)

var commands = map[string]func(args []string) error{}

func register(name string, run func(args []string) error) { commands[name] = run }

func flags(name string) *flag.FlagSet { return flag.NewFlagSet(name, flag.ExitOnError) }

// parse takes flags and positional arguments in any order.
func parse(set *flag.FlagSet, args []string) []string {
	var rest []string
	for {
		set.Parse(args) // ends the program on an error
		args = set.Args()
		if len(args) == 0 {
			return rest
		}
		rest = append(rest, args[0])
		args = args[1:]
	}
}

func main() {
	tool := filepath.Base(os.Args[0])
	if run, ok := tools[tool]; ok {
		os.Exit(run(os.Args[1:]))
	}
	if len(os.Args) < 2 || os.Args[1] == "help" || os.Args[1] == "--help" {
		names := make([]string, 0, len(commands))
		for name := range commands {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Println("agnhost: sub-commands:", names)
		return
	}
	if os.Args[1] == "--version" {
		fmt.Println("agnhost version 2.66.1 (stand-in)")
		return
	}
	run, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "agnhost (stand-in): no sub-command %q\n", os.Args[1])
		os.Exit(2)
	}
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "agnhost %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
