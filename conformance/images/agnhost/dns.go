package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strings"
	"time"
)

type resolver struct {
	servers, search []string
	ndots           int
}

func resolvConf() resolver {
	conf := resolver{ndots: 1}
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			conf.servers = append(conf.servers, words[1])
		case "search":
			conf.search = words[1:]
		case "options":
			for _, o := range words[1:] {
				fmt.Sscanf(o, "ndots:%d", &conf.ndots)
			}
		}
	}
	return conf
}

var types = map[string]uint16{"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33}

func typeName(code uint16) string {
	for name, c := range types {
		if c == code {
			return name
		}
	}
	return fmt.Sprintf("TYPE%d", code)
}

type record struct {
	name string
	ttl  uint32
	kind uint16
	text string
}

func query(server, name string, kind uint16, tcp bool) (code int, answers []record, err error) {
	message := make([]byte, 12)
	id := uint16(rand.Intn(65536))
	binary.BigEndian.PutUint16(message, id)
	message[2], message[5] = 1, 1
	for _, label := range strings.Split(strings.TrimSuffix(name, "."), ".") {
		message = append(append(message, byte(len(label))), label...)
	}
	message = append(message, 0, byte(kind>>8), byte(kind), 0, 1)
	network := "udp"
	if tcp {
		network = "tcp"
	}
	conn, err := net.DialTimeout(network, net.JoinHostPort(server, "53"), 5*time.Second)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	answer := make([]byte, 65535)
	if tcp {
		if _, err = conn.Write(append([]byte{byte(len(message) >> 8), byte(len(message))}, message...)); err != nil {
			return 0, nil, err
		}
		if _, err = io.ReadFull(conn, answer[:2]); err != nil {
			return 0, nil, err
		}
		answer = answer[:binary.BigEndian.Uint16(answer)]
		if _, err = io.ReadFull(conn, answer); err != nil {
			return 0, nil, err
		}
	} else {
		if _, err = conn.Write(message); err != nil {
			return 0, nil, err
		}
		n, err := conn.Read(answer)
		if err != nil {
			return 0, nil, err
		}
		answer = answer[:n]
	}
	return decode(answer)
}

func decode(m []byte) (code int, answers []record, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("a malformed answer")
		}
	}()
	questions, count := int(binary.BigEndian.Uint16(m[4:])), int(binary.BigEndian.Uint16(m[6:]))
	at := 12
	for range questions {
		_, at = domain(m, at)
		at += 4
	}
	for range count {
		var r record
		r.name, at = domain(m, at)
		r.kind, r.ttl = binary.BigEndian.Uint16(m[at:]), binary.BigEndian.Uint32(m[at+4:])
		length := int(binary.BigEndian.Uint16(m[at+8:]))
		at += 10
		r.text = data(m, at, length, r.kind)
		at += length
		answers = append(answers, r)
	}
	return int(m[3] & 15), answers, nil
}

func data(m []byte, at, length int, kind uint16) string {
	switch kind {
	case 1, 28:
		return net.IP(m[at : at+length]).String()
	case 2, 5, 12:
		name, _ := domain(m, at)
		return name
	case 33:
		name, _ := domain(m, at+6)
		return fmt.Sprintf("%d %d %d %s", binary.BigEndian.Uint16(m[at:]), binary.BigEndian.Uint16(m[at+2:]), binary.BigEndian.Uint16(m[at+4:]), name)
	case 16:
		var parts []string
		for end := at + length; at < end; at += 1 + int(m[at]) {
			parts = append(parts, fmt.Sprintf("%q", m[at+1:at+1+int(m[at])]))
		}
		return strings.Join(parts, " ")
	}
	return fmt.Sprintf("\\# %d %x", length, m[at:at+length])
}

func domain(m []byte, at int) (string, int) {
	name, end := "", -1
	for hops := 0; hops < 64; hops++ {
		n := int(m[at])
		switch {
		case n == 0:
			if end < 0 {
				end = at + 1
			}
			if name == "" {
				name = "."
			}
			return name, end
		case n >= 0xc0:
			if end < 0 {
				end = at + 2
			}
			at = int(binary.BigEndian.Uint16(m[at:]) & 0x3fff)
		default:
			name += string(m[at+1:at+1+n]) + "."
			at += 1 + n
		}
	}
	panic("loop")
}

// candidates are the names to try, as a resolver with a search list does.
func (c resolver) candidates(name string, search bool) []string {
	if strings.HasSuffix(name, ".") || !search {
		return []string{strings.TrimSuffix(name, ".") + "."}
	}
	var out []string
	for _, suffix := range c.search {
		out = append(out, name+"."+suffix+".")
	}
	if strings.Count(name, ".") >= c.ndots {
		return append([]string{name + "."}, out...)
	}
	return append(out, name+".")
}

func dig(args []string) int {
	conf := resolvConf()
	options := map[string]bool{"answer": true}
	var name string
	kind := uint16(1)
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case strings.HasPrefix(a, "+no"):
			options[a[3:]] = false
			if a == "+noall" {
				options = map[string]bool{"tcp": options["tcp"], "search": options["search"], "short": options["short"]}
			}
		case strings.HasPrefix(a, "+"):
			options[strings.SplitN(a[1:], "=", 2)[0]] = true
		case strings.HasPrefix(a, "@"):
			conf.servers = []string{a[1:]}
		case a == "-x" && i+1 < len(args):
			i++
			parts := strings.Split(args[i], ".")
			for l, r := 0, len(parts)-1; l < r; l, r = l+1, r-1 {
				parts[l], parts[r] = parts[r], parts[l]
			}
			name, kind = strings.Join(parts, ".")+".in-addr.arpa.", 12
		case a == "-t" && i+1 < len(args):
			i++
			kind = types[strings.ToUpper(args[i])]
		case types[strings.ToUpper(a)] != 0 && name != "":
			kind = types[strings.ToUpper(a)]
		case a == "IN":
		case strings.HasPrefix(a, "-"):
			fmt.Fprintf(os.Stderr, "dig (stand-in): no option %s\n", a)
			return 1
		default:
			name = a
		}
	}
	if len(conf.servers) == 0 || name == "" {
		fmt.Fprintln(os.Stderr, "dig: no server or no name")
		return 1
	}
	for _, full := range conf.candidates(name, options["search"]) {
		_, answers, err := query(conf.servers[0], full, kind, options["tcp"])
		if err != nil {
			fmt.Printf(";; communications error to %s#53: %v\n", conf.servers[0], err)
			return 9
		}
		for _, r := range answers {
			if options["short"] {
				fmt.Println(r.text)
			} else if options["answer"] {
				fmt.Printf("%s\t%d\tIN\t%s\t%s\n", r.name, r.ttl, typeName(r.kind), r.text)
			}
		}
		if len(answers) > 0 {
			break
		}
	}
	return 0
}

func getent(args []string) int {
	if len(args) < 2 || args[0] != "hosts" && !strings.HasPrefix(args[0], "ahosts") {
		fmt.Fprintln(os.Stderr, "getent (stand-in): only hosts, ahosts, ahostsv4 NAME")
		return 1
	}
	found := false
	hosts, _ := os.ReadFile("/etc/hosts")
	for _, line := range strings.Split(string(hosts), "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		for _, word := range words[min(1, len(words)):] {
			if word == args[1] {
				fmt.Printf("%-15s %s\n", words[0], strings.Join(words[1:], " "))
				found = true
				break
			}
		}
		if found {
			return 0
		}
	}
	conf := resolvConf()
	for _, full := range conf.candidates(args[1], true) {
		for _, server := range conf.servers {
			_, answers, err := query(server, full, 1, false)
			if err != nil {
				continue
			}
			for _, r := range answers {
				if r.kind == 1 {
					fmt.Printf("%-15s %s\n", r.text, strings.TrimSuffix(r.name, "."))
					found = true
				}
			}
			if found {
				return 0
			}
			break
		}
	}
	return 2
}
