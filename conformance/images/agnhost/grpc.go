package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"sync/atomic"
	"time"
)

func init() { register("grpc-health-checking", grpcHealth) }

// The health protocol needs one unary call with a two-byte message, so HTTP/2 of the standard library is enough.
func grpcHealth(args []string) error {
	set := flags("grpc-health-checking")
	port := set.Int("port", 5000, "gRPC port")
	httpPort := set.Int("http-port", 8080, "control port")
	service := set.String("service", "", "service that is served")
	delay := set.Int("delay-unhealthy-sec", -1, "seconds until NOT_SERVING, negative for never")
	cert := set.String("tls-cert-file", "", "certificate")
	key := set.String("tls-private-key-file", "", "key")
	parse(set, args)
	var serving atomic.Bool
	serving.Store(*delay != 0)
	if *delay > 0 {
		time.AfterFunc(time.Duration(*delay)*time.Second, func() { serving.Store(false); log.Print("NOT_SERVING") })
	}
	control := http.NewServeMux()
	for path, to := range map[string]bool{"/make-serving": true, "/make-not-serving": false} {
		control.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			serving.Store(to)
			fmt.Fprintf(w, "serving: %v", to)
		})
	}
	go func() { log.Fatal(http.ListenAndServe(fmt.Sprintf(":%d", *httpPort), control)) }()

	mux := http.NewServeMux()
	mux.HandleFunc("/grpc.health.v1.Health/Check", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		asked := ""
		if len(body) > 7 && body[5] == 0x0a && int(body[6]) <= len(body)-7 {
			asked = string(body[7 : 7+int(body[6])])
		}
		switch {
		case err != nil:
			w.Header().Set("Grpc-Status", "13")
		case asked != *service:
			w.Header().Set("Grpc-Status", "5")
			w.Header().Set("Grpc-Message", "unknown service")
		default:
			state := byte(2)
			if serving.Load() {
				state = 1
			}
			w.Write([]byte{0, 0, 0, 0, 2, 8, state})
			w.Header().Set("Grpc-Status", "0")
		}
	})
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Addr: fmt.Sprintf(":%d", *port), Handler: mux, Protocols: protocols}
	log.Printf("gRPC health on %s", server.Addr)
	if *cert != "" {
		return server.ListenAndServeTLS(*cert, *key)
	}
	return server.ListenAndServe()
}
