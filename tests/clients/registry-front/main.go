// Puts TLS and a password in front of a registry that has neither.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:15112", "address to listen on")
	to := flag.String("to", "http://127.0.0.1:15111", "the registry")
	ca := flag.String("ca", "", "file that the certificate of the front's authority is written to")
	user := flag.String("user", "", "who may pull and push")
	password := flag.String("password", "", "the password")
	flag.Parse()

	target, err := url.Parse(*to)
	check(err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := http.Server{
		Addr:      *listen,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate(*listen, *ca)}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name, secret, _ := r.BasicAuth()
			if name != *user || secret != *password {
				w.Header().Set("WWW-Authenticate", `Basic realm="front"`)
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`))
				return
			}
			r.Header.Del("Authorization")
			proxy.ServeHTTP(w, r)
		}),
	}
	check(server.ListenAndServeTLS("", ""))
}

// A certificate for the address, signed by an authority that is written to a file.
func certificate(address, file string) tls.Certificate {
	host, _, err := net.SplitHostPort(address)
	check(err)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "front authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, IPAddresses: []net.IP{net.ParseIP(host)},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	signer, key := newKey(), newKey()
	own, err := x509.CreateCertificate(rand.Reader, authority, authority, &signer.PublicKey, signer)
	check(err)
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, signer)
	check(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own})
	check(os.WriteFile(file, text, 0o644))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return key
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
