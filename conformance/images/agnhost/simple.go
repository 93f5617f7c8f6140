package main

import (
	"encoding/json"
	"fmt"
	"log"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

func init() {
	register("pause", pause)
	register("entrypoint-tester", func([]string) error { fmt.Println(os.Args); return nil })
	register("liveness", liveness)
	register("serve-hostname", serveHostname)
	register("connect", connect)
	register("test-webserver", testWebserver)
	register("logs-generator", logsGenerator)
	register("porter", porter)
	register("etc-hosts", func([]string) error { return cat("/etc/hosts") })
	register("dns-suffix", func([]string) error { fmt.Println(strings.Join(resolvConf().search, ",")); return nil })
	register("dns-server-list", func([]string) error { fmt.Println(strings.Join(resolvConf().servers, ",")); return nil })
	register("nonewprivs", func([]string) error { fmt.Printf("Effective uid: %d\n", os.Geteuid()); return nil })
	register("no-snat-test", noSnat)
	register("nettest", nettest)
}

func cat(path string) error {
	data, err := os.ReadFile(path)
	fmt.Print(string(data))
	return err
}

func pause([]string) error {
	fmt.Println("Paused")
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	fmt.Printf("received signal %v, exiting\n", <-signals)
	return nil
}

func liveness([]string) error {
	started := time.Now()
	http.HandleFunc("/started", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, time.Since(started).String())
	})
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if age := time.Since(started); age.Seconds() > 10 {
			http.Error(w, fmt.Sprintf("error: %v", age.Seconds()), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, "ok")
	})
	http.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		location, err := url.QueryUnescape(r.URL.Query().Get("loc"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, location, http.StatusFound)
	})
	return http.ListenAndServe(":8080", nil)
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		log.Fatalf("hostname: %v", err)
	}
	return name
}

func serveHostname(args []string) error {
	set := flags("serve-hostname")
	useTCP := set.Bool("tcp", false, "serve raw TCP")
	useUDP := set.Bool("udp", false, "serve UDP")
	useHTTP := set.Bool("http", true, "serve HTTP")
	closing := set.Bool("close", false, "close HTTP connections after each request")
	port := set.Int("port", 9376, "port")
	parse(set, args)
	if *useHTTP && *useTCP {
		return fmt.Errorf("HTTP and TCP cannot share the port")
	}
	ends := make(chan error)
	addr := fmt.Sprintf(":%d", *port)
	if *useUDP {
		go func() { ends <- udpServer(addr, func([]byte, net.Addr) string { return hostname() }, nil) }()
	}
	if *useTCP {
		go func() {
			listener, err := net.Listen("tcp", addr)
			for err == nil {
				var conn net.Conn
				if conn, err = listener.Accept(); err == nil {
					fmt.Fprint(conn, hostname())
					conn.Close()
				}
			}
			ends <- err
		}()
	}
	if *useHTTP {
		go func() {
			ends <- http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if *closing {
					w.Header().Set("Connection", "close")
				}
				fmt.Fprint(w, hostname())
			}))
		}()
	}
	return <-ends
}

func udpServer(addr string, answer func(data []byte, from net.Addr) string, ready chan<- bool) error {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if ready != nil {
		ready <- true
	}
	buffer := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if text := answer(buffer[:n], from); text != "" {
			if _, err := conn.WriteTo([]byte(text), from); err != nil {
				log.Printf("UDP answer to %v: %v", from, err)
			}
		}
	}
}

func connect(args []string) error {
	set := flags("connect")
	timeout := set.Duration("timeout", time.Second, "limit")
	protocol := set.String("protocol", "tcp", "tcp")
	set.String("udp-probe", "", "unused")
	rest := parse(set, args)
	if len(rest) != 1 || *protocol != "tcp" {
		return fmt.Errorf("want one address over tcp")
	}
	conn, err := net.DialTimeout("tcp", rest[0], *timeout)
	if err == nil {
		return conn.Close()
	}
	code := "OTHER: " + err.Error()
	switch {
	case os.IsTimeout(err):
		code = "TIMEOUT"
	case strings.Contains(err.Error(), "refused"):
		code = "REFUSED"
	case strings.Contains(err.Error(), "no such host"):
		code = "DNS"
	}
	fmt.Fprintln(os.Stderr, code)
	os.Exit(1)
	return nil
}

func testWebserver(args []string) error {
	set := flags("test-webserver")
	port := set.Int("port", 80, "port")
	parse(set, args)
	return http.ListenAndServe(fmt.Sprintf(":%d", *port), http.FileServer(http.Dir("/")))
}

func logsGenerator(args []string) error {
	set := flags("logs-generator")
	total, length := 0, time.Duration(0)
	for _, name := range []string{"log-lines-total", "t"} {
		set.IntVar(&total, name, 0, "lines")
	}
	for _, name := range []string{"run-duration", "d"} {
		set.DurationVar(&length, name, 0, "time")
	}
	parse(set, args)
	if total <= 0 || length <= 0 {
		return fmt.Errorf("log-lines-total and run-duration must be positive")
	}
	methods := []string{"POST", "GET", "PUT"}
	spaces := []string{"kube-system", "default", "ns"}
	pause := length / time.Duration(total)
	for id := 0; id < total; id++ {
		fmt.Printf("%s %d %s /api/v1/namespaces/%s/pods/%s %d\n", time.Now().UTC().Format(time.RFC3339), id,
			methods[rand.Intn(3)], spaces[rand.Intn(3)], randomText(rand.Intn(4)+3), rand.Intn(400)+200)
		time.Sleep(pause)
	}
	return nil
}

func randomText(n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[rand.Intn(36)]
	}
	return string(out)
}

func porter(args []string) error {
	set := flags("porter")
	asJSON := set.Bool("json-response", false, "answer method and body as JSON")
	parse(set, args)
	for _, pair := range os.Environ() {
		key, value, _ := strings.Cut(pair, "=")
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if *asJSON {
				w.Header().Set("Content-Type", "application/json")
				body, err := json.Marshal(map[string]string{"Method": r.Method, "Body": value})
				if err != nil {
					log.Fatal(err)
				}
				w.Write(body)
				return
			}
			fmt.Fprint(w, value)
		})
		serve := func(prefix string, run func(port string) error) {
			if port, ok := strings.CutPrefix(key, prefix); ok {
				go func() { log.Printf("port %s: %v", port, run(port)) }()
			}
		}
		tcp := func(port string) error { return http.ListenAndServe(":"+port, handler) }
		serve("SERVE_PORT_", tcp)
		serve("SERVE_TCP_PORT_", tcp)
		serve("SERVE_UDP_PORT_", func(port string) error {
			return udpServer(":"+port, func([]byte, net.Addr) string { return value }, nil)
		})
		serve("SERVE_TLS_PORT_", func(port string) error {
			return http.ListenAndServeTLS(":"+port, env("CERT_FILE", "/localhost.crt"), env("KEY_FILE", "/localhost.key"), handler)
		})
		serve("SERVE_SCTP_PORT_", func(string) error { return fmt.Errorf("SCTP is not in the stand-in") })
	}
	select {}
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func noSnat(args []string) error {
	set := flags("no-snat-test")
	port := set.String("port", "8080", "port")
	parse(set, args)
	http.HandleFunc("/whoami", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, host)
	})
	http.HandleFunc("/checknosnat", func(w http.ResponseWriter, r *http.Request) {
		own := os.Getenv("POD_IP")
		for _, ip := range strings.Split(r.URL.Query().Get("ips"), ",") {
			_, body, err := fetch("http://" + net.JoinHostPort(ip, *port) + "/whoami")
			if err != nil || body != own {
				http.Error(w, fmt.Sprintf("%s saw %q, not %s: %v", ip, body, own, err), http.StatusInternalServerError)
				return
			}
		}
	})
	return http.ListenAndServe(":"+*port, nil)
}

// nettest keeps what other pods tell it; the tests read it back.
func nettest(args []string) error {
	set := flags("nettest")
	port := set.Int("port", 8080, "port")
	set.String("service", "", "unused")
	set.String("namespace", "", "unused")
	set.Int("peers", 8, "unused")
	set.Int("delay-shutdown", 0, "unused")
	parse(set, args)
	var lock sync.Mutex
	received := map[string]int{}
	http.HandleFunc("/read", func(w http.ResponseWriter, _ *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		answerJSON(w, http.StatusOK, object{"Hostname": hostname(), "Sent": object{}, "Received": received, "Errors": nil, "Log": nil, "StillContactingPeers": true})
	})
	http.HandleFunc("/write", func(w http.ResponseWriter, r *http.Request) {
		var told struct{ Source string }
		if err := json.NewDecoder(r.Body).Decode(&told); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		lock.Lock()
		defer lock.Unlock()
		received[told.Source]++
		answerJSON(w, http.StatusOK, object{"Hostname": hostname()})
	})
	http.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "running") })
	http.HandleFunc("/quit", func(http.ResponseWriter, *http.Request) { os.Exit(0) })
	return http.ListenAndServe(fmt.Sprintf(":%d", *port), nil)
}
