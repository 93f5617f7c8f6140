package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func init() { register("netexec", netexec) }

var udpReady atomic.Bool

func netexec(args []string) error {
	set := flags("netexec")
	httpPort := set.Int("http-port", 8080, "HTTP port")
	udpPort := set.Int("udp-port", 8081, "UDP port, -1 for none")
	sctpPort := set.Int("sctp-port", -1, "SCTP port")
	cert := set.String("tls-cert-file", "", "certificate")
	key := set.String("tls-private-key-file", "", "key")
	override := set.String("http-override", "", "path and query that every request is taken for")
	udpAddresses := set.String("udp-listen-addresses", "", "addresses, comma separated")
	delay := set.Int("delay-shutdown", 0, "seconds to go on after SIGTERM")
	parse(set, args)
	if *sctpPort >= 0 {
		return fmt.Errorf("sctp-port: SCTP is not in the stand-in")
	}
	if *delay > 0 {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		go func() { <-signals; time.Sleep(time.Duration(*delay) * time.Second); os.Exit(0) }()
	}
	if *udpPort < 0 {
		udpReady.Store(true)
	} else {
		for _, address := range strings.Split(*udpAddresses, ",") {
			ready := make(chan bool, 1)
			go func() { <-ready; udpReady.Store(true) }()
			go func() {
				err := udpServer(net.JoinHostPort(address, strconv.Itoa(*udpPort)), udpAnswer, ready)
				udpReady.Store(false)
				log.Printf("UDP server: %v", err)
			}()
		}
	}
	server := &http.Server{Addr: fmt.Sprintf(":%d", *httpPort)}
	mux := netexecRoutes(server)
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s", r.Method, r.URL)
		mux.ServeHTTP(w, r)
	})
	if *override != "" {
		target, err := url.Parse(*override)
		if err != nil {
			return fmt.Errorf("http-override: %w", err)
		}
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path, r.URL.RawQuery = target.Path, target.RawQuery
			mux.ServeHTTP(w, r)
		})
	}
	log.Printf("Started HTTP server on port %d", *httpPort)
	var err error
	if *cert != "" {
		err = server.ListenAndServeTLS(*cert, *key)
	} else {
		err = server.ListenAndServe()
	}
	if err == http.ErrServerClosed {
		select {} // whoever closed it ends the program
	}
	return err
}

func udpAnswer(data []byte, from net.Addr) string {
	text := strings.ToLower(strings.TrimSpace(string(data)))
	switch {
	case text == "hostname":
		return hostname()
	case text == "clientip":
		return from.String()
	case strings.HasPrefix(text, "echo "):
		return strings.TrimSpace(string(data))[len("echo "):]
	}
	return ""
}

func netexecRoutes(server *http.Server) *http.ServeMux {
	mux := http.NewServeMux()
	text := func(path string, answer func(r *http.Request) string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, answer(r))
		})
	}
	text("/", func(*http.Request) string { return fmt.Sprintf("NOW: %v", time.Now()) })
	text("/hostname", func(*http.Request) string { return hostname() })
	text("/hostName", func(*http.Request) string { return hostname() })
	text("/clientip", func(r *http.Request) string { return r.RemoteAddr })
	text("/header", func(r *http.Request) string { return r.Header.Get(r.FormValue("key")) })
	text("/serverport", func(r *http.Request) string {
		_, port, _ := net.SplitHostPort(r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
		return port
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		if code, err := strconv.Atoi(r.FormValue("code")); err == nil {
			w.WriteHeader(code)
		}
		fmt.Fprint(w, r.FormValue("msg"))
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !udpReady.Load() {
			w.WriteHeader(http.StatusPreconditionFailed)
		}
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil {
			code = http.StatusFound
		}
		http.Redirect(w, r, r.FormValue("location"), code)
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) { exit(server, r) })
	mux.HandleFunc("/shutdown", func(http.ResponseWriter, *http.Request) { os.Exit(0) })
	mux.HandleFunc("/shell", shell)
	mux.HandleFunc("/upload", upload)
	mux.HandleFunc("/dial", dial)
	return mux
}

func exit(server *http.Server, r *http.Request) {
	code, err := strconv.Atoi(r.FormValue("code"))
	if err != nil && r.FormValue("code") != "" || code < 0 || code > 127 {
		log.Printf("exit: code %q is not within 0-127", r.FormValue("code"))
		return
	}
	wait, _ := time.ParseDuration(r.FormValue("wait"))
	timeout, _ := time.ParseDuration(r.FormValue("timeout"))
	time.Sleep(wait)
	if timeout == 0 {
		os.Exit(code)
	}
	go func() {
		limit, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		server.Shutdown(limit)
		os.Exit(code)
	}()
}

func answerJSON(w http.ResponseWriter, code int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(code)
	fmt.Fprint(w, string(body))
}

func shell(w http.ResponseWriter, r *http.Request) {
	line := r.FormValue("shellCommand")
	if line == "" {
		line = r.FormValue("cmd")
	}
	if line == "" {
		line = "/bin/sh -c date"
	}
	log.Printf("shell: %s", line)
	out, err := exec.Command("/bin/sh", "-c", line).CombinedOutput()
	answer := map[string]string{}
	if len(out) > 0 {
		answer["output"] = string(out)
	}
	code := http.StatusOK
	if err != nil {
		answer["error"], code = err.Error(), http.StatusExpectationFailed
	}
	answerJSON(w, code, answer)
}

func upload(w http.ResponseWriter, r *http.Request) {
	fail := func(err error) {
		answerJSON(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
	}
	source, _, err := r.FormFile("file")
	if err != nil {
		fail(err)
		return
	}
	defer source.Close()
	target, err := os.CreateTemp("/uploads", "upload")
	if err != nil {
		fail(err)
		return
	}
	defer target.Close()
	if _, err = io.Copy(target, source); err == nil {
		err = target.Chmod(0o777)
	}
	if err != nil {
		fail(err)
		return
	}
	answerJSON(w, http.StatusOK, map[string]string{"output": target.Name()})
}

func dial(w http.ResponseWriter, r *http.Request) {
	protocol := r.FormValue("protocol")
	if protocol == "" {
		protocol = "http"
	}
	tries, err := 1, error(nil)
	if text := r.FormValue("tries"); text != "" {
		tries, err = strconv.Atoi(text)
	}
	host, port, request := r.FormValue("host"), r.FormValue("port"), r.FormValue("request")
	if err != nil || request == "" || port == "" || protocol != "http" && protocol != "udp" {
		http.Error(w, fmt.Sprintf("dial: bad tries, request, port or protocol in %q", r.URL.RawQuery), http.StatusBadRequest)
		return
	}
	address := net.JoinHostPort(host, port)
	responses, errors := []string{}, []string{}
	code := http.StatusOK
	for i := 0; i < tries; i++ {
		var text string
		var err error
		if protocol == "http" {
			text, err = dialHTTP(address, request)
		} else {
			text, err = dialUDP(address, request)
		}
		if err != nil {
			errors = append(errors, err.Error())
			code = http.StatusExpectationFailed
		} else {
			responses = append(responses, text)
			code = http.StatusOK
		}
	}
	answer := map[string][]string{}
	if len(responses) > 0 {
		answer["responses"] = responses
	}
	if len(errors) > 0 {
		answer["errors"] = errors
	}
	answerJSON(w, code, answer)
}

func dialHTTP(address, request string) (string, error) {
	_, body, err := fetch("http://" + address + "/" + request)
	return body, err
}

// fetch gets a page over a connection of its own.
func fetch(target string) (int, string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(target)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, strings.TrimSpace(string(body)), err
}

func dialUDP(address, request string) (string, error) {
	conn, err := net.DialTimeout("udp", address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte(request)); err != nil {
		return "", err
	}
	buffer := make([]byte, 2048)
	n, err := conn.Read(buffer)
	return strings.TrimSpace(string(buffer[:n])), err
}
