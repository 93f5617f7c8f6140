package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// tools are what the program is under other names.
var tools = map[string]func(args []string) int{
	"dig": dig, "getent": getent, "curl": curl, "nc": netcat,
	"pause":      func([]string) int { pause(nil); return 0 },
	"nonewprivs": func([]string) int { fmt.Printf("Effective uid: %d\n", os.Geteuid()); return 0 },
}

type request struct {
	method, target, output, format, data, unix, source string
	headers                                            []string
	include, head, follow, failing, quiet, post        bool
	connect, limit                                     time.Duration
}

func seconds(text string) time.Duration {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		fmt.Fprintf(os.Stderr, "curl: bad time %q\n", text)
		os.Exit(2)
	}
	return time.Duration(n * float64(time.Second))
}

// expand splits `-sSo` into `-s -S -o`.
func expand(args []string) (out []string) {
	for _, a := range args {
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			for i := 1; i < len(a); i++ {
				out = append(out, "-"+a[i:i+1])
				if strings.ContainsRune("oXHdmw", rune(a[i])) && i+1 < len(a) {
					out = append(out, a[i+1:])
					break
				}
			}
			continue
		}
		out = append(out, a)
	}
	return out
}

func curl(args []string) int {
	r := request{method: "", connect: 60 * time.Second}
	args = expand(args)
	value := func(i *int) string {
		*i++
		if *i >= len(args) {
			fmt.Fprintln(os.Stderr, "curl: option without value")
			os.Exit(2)
		}
		return args[*i]
	}
	for i := 0; i < len(args); i++ {
		switch a := args[i]; a {
		case "-q", "-g", "-k", "-v", "-S", "--globoff", "--insecure", "--http1.1", "-4":
		case "-s", "--silent":
			r.quiet = true
		case "-i":
			r.include = true
		case "-I", "--head":
			r.head = true
		case "-L", "--location":
			r.follow = true
		case "-f", "--fail":
			r.failing = true
		case "-o", "--output":
			r.output = value(&i)
		case "-w", "--write-out":
			r.format = value(&i)
		case "-X", "--request":
			r.method = value(&i)
		case "-H", "--header":
			r.headers = append(r.headers, value(&i))
		case "-d", "--data":
			r.data, r.post = value(&i), true
		case "-m", "--max-time":
			r.limit = seconds(value(&i))
		case "--connect-timeout":
			r.connect = seconds(value(&i))
		case "--unix-socket":
			r.unix = value(&i)
		case "--interface":
			r.source = value(&i)
		case "--noproxy", "--retry":
			value(&i)
		default:
			if strings.HasPrefix(a, "-") {
				fmt.Fprintf(os.Stderr, "curl (stand-in): no option %s\n", a)
				return 2
			}
			r.target = a
		}
	}
	return r.run()
}

func (r request) run() int {
	if !strings.Contains(r.target, "://") {
		r.target = "http://" + r.target
	}
	method := r.method
	switch {
	case method != "":
	case r.head:
		method = "HEAD"
	case r.post:
		method = "POST"
	default:
		method = "GET"
	}
	ask, err := http.NewRequest(method, r.target, strings.NewReader(r.data))
	if err != nil {
		fmt.Fprintln(os.Stderr, "curl: (3)", err)
		return 3
	}
	ask.Header.Set("User-Agent", "curl/8.0 (stand-in)")
	for _, h := range r.headers {
		key, value, _ := strings.Cut(h, ":")
		if strings.EqualFold(key, "host") {
			ask.Host = strings.TrimSpace(value)
		}
		ask.Header.Add(key, strings.TrimSpace(value))
	}
	dialer := &net.Dialer{Timeout: r.connect}
	if r.source != "" {
		ip := net.ParseIP(r.source)
		if ip == nil {
			fmt.Fprintf(os.Stderr, "curl (stand-in): --interface wants an address, not %q\n", r.source)
			return 2
		}
		dialer.LocalAddr = &net.TCPAddr{IP: ip}
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if r.unix != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", r.unix)
		}
	}
	client := &http.Client{Timeout: r.limit, Transport: transport}
	if !r.follow {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	answer, err := client.Do(ask)
	if err != nil {
		return r.failed(err)
	}
	defer answer.Body.Close()
	out := os.Stdout
	if r.output != "" {
		if out, err = os.Create(r.output); err != nil {
			fmt.Fprintln(os.Stderr, "curl: (23)", err)
			return 23
		}
		defer out.Close()
	}
	if r.include || r.head {
		fmt.Fprintf(out, "%s %s\r\n", answer.Proto, answer.Status)
		answer.Header.Write(out)
		fmt.Fprint(out, "\r\n")
	}
	code := 0
	if r.failing && answer.StatusCode >= 400 {
		fmt.Fprintf(os.Stderr, "curl: (22) The requested URL returned error: %d\n", answer.StatusCode)
		code = 22
	} else if _, err := io.Copy(out, answer.Body); err != nil {
		code = r.failed(err)
	}
	r.report(answer.StatusCode)
	return code
}

func (r request) report(status int) {
	text := strings.NewReplacer("%{http_code}", fmt.Sprintf("%03d", status), "%{response_code}", fmt.Sprintf("%03d", status), `\n`, "\n", `\t`, "\t")
	fmt.Print(text.Replace(r.format))
}

func (r request) failed(err error) int {
	code := 56
	switch text := err.Error(); {
	case strings.Contains(text, "no such host"):
		code = 6
	case strings.Contains(text, "refused"), strings.Contains(text, "unreachable"), strings.Contains(text, "no route"):
		code = 7
	case os.IsTimeout(err):
		code = 28
	case strings.Contains(text, "EOF"):
		code = 52
	}
	if !r.quiet {
		fmt.Fprintf(os.Stderr, "curl: (%d) %v\n", code, err)
	}
	r.report(0)
	return code
}

func netcat(args []string) int {
	network, wait := "tcp", time.Duration(0)
	var zero, verbose bool
	var rest []string
	args = expand(args)
	for i := 0; i < len(args); i++ {
		switch a := args[i]; a {
		case "-u":
			network = "udp"
		case "-t", "-n", "-N":
		case "-z":
			zero = true
		case "-v":
			verbose = true
		case "-w":
			i++
			if i < len(args) {
				wait = seconds(args[i])
			}
		default:
			if strings.HasPrefix(a, "-") {
				fmt.Fprintf(os.Stderr, "nc (stand-in): no option %s\n", a)
				return 2
			}
			rest = append(rest, a)
		}
	}
	if len(rest) != 2 {
		fmt.Fprintln(os.Stderr, "nc: want HOST PORT")
		return 2
	}
	conn, err := net.DialTimeout(network, net.JoinHostPort(rest[0], rest[1]), max(wait, 0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "nc:", err)
		return 1
	}
	defer conn.Close()
	if verbose {
		fmt.Fprintf(os.Stderr, "Connection to %s %s port [%s] succeeded!\n", rest[0], rest[1], network)
	}
	if zero {
		return 0
	}
	go func() {
		io.Copy(conn, os.Stdin)
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.CloseWrite()
		}
	}()
	buffer := make([]byte, 65536)
	for got := false; ; got = true {
		if wait > 0 {
			conn.SetReadDeadline(time.Now().Add(wait))
		}
		n, err := conn.Read(buffer)
		os.Stdout.Write(buffer[:n])
		if err == io.EOF || err != nil && (got || n > 0) {
			return 0
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "nc:", err)
			return 1
		}
	}
}
