package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func init() {
	register("inclusterclient", inClusterClient)
	register("test-service-account-issuer-discovery", issuerDiscovery)
	register("mtlsclient", mtlsClient)
	register("mtlsserver", mtlsServer)
}

const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// clusterClient trusts the cluster's certificates and shows the pod's token.
func clusterClient() (*http.Client, error) {
	pem, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%sca.crt: no certificate", account)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	return &http.Client{Timeout: 30 * time.Second, Transport: bearer{transport}}, nil
}

type bearer struct{ next http.RoundTripper }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return nil, err
	}
	header := "Bearer " + strings.TrimSpace(string(token))
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", header)
	log.Printf("authz_header=%x", sha256.Sum256([]byte(header)))
	return b.next.RoundTrip(r)
}

func inClusterClient(args []string) error {
	set := flags("inclusterclient")
	interval := set.Int("poll-interval", 30, "seconds")
	parse(set, args)
	client, err := clusterClient()
	if err != nil {
		return err
	}
	target := "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")) + "/healthz"
	for {
		log.Printf("calling /healthz")
		answer, err := client.Get(target)
		if err != nil {
			log.Printf("status=failed error=%v", err)
		} else {
			body, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			log.Printf("status=%d body=%s", answer.StatusCode, body)
		}
		time.Sleep(time.Duration(*interval) * time.Second)
	}
}

func issuerDiscovery(args []string) error {
	set := flags("test-service-account-issuer-discovery")
	path := set.String("token-path", "", "file of the token")
	audience := set.String("audience", "", "audience it must be for")
	parse(set, args)
	raw, err := os.ReadFile(*path)
	if err != nil {
		return err
	}
	log.Print("OK: Got token")
	inside, err := clusterClient()
	if err != nil {
		return err
	}
	if err = validate(inside, strings.TrimSpace(string(raw)), *audience); err == nil {
		return nil
	}
	log.Printf("failed to validate with in-cluster discovery: %v", err)
	return validate(http.DefaultClient, strings.TrimSpace(string(raw)), *audience)
}

func get(client *http.Client, target string, into any) error {
	answer, err := client.Get(target)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", target, answer.Status, body)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

type claims struct {
	Issuer   string   `json:"iss"`
	Audience []string `json:"aud"`
	Expiry   int64    `json:"exp"`
	Subject  string   `json:"sub"`
	Cluster  struct {
		Namespace string `json:"namespace"`
		Account   struct {
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

type key struct{ Kty, Kid, N, E, Crv, X, Y string }

func validate(client *http.Client, token, audience string) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return fmt.Errorf("the token has %d parts", len(parts))
	}
	var head struct{ Alg, Kid string }
	var body claims
	if err := decodePart(parts[0], &head); err != nil {
		return err
	}
	if err := decodePart(parts[1], &body); err != nil {
		return err
	}
	log.Printf("OK: got issuer %s", body.Issuer)
	log.Printf("Full, not-validated claims: %+v", body)
	var provider struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := get(client, strings.TrimSuffix(body.Issuer, "/")+"/.well-known/openid-configuration", &provider); err != nil {
		return err
	}
	if provider.Issuer != body.Issuer {
		return fmt.Errorf("the provider calls itself %q, the token %q", provider.Issuer, body.Issuer)
	}
	log.Printf("OK: Constructed OIDC provider for issuer %v", body.Issuer)
	var set struct{ Keys []key }
	if err := get(client, provider.Keys, &set); err != nil {
		return err
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return err
	}
	verified := false
	for _, k := range set.Keys {
		verified = verified || (head.Kid == "" || k.Kid == head.Kid) && k.verifies(head.Alg, parts[0]+"."+parts[1], signature)
	}
	if !verified {
		return fmt.Errorf("no key of %s verifies the signature (%s, kid %q)", provider.Keys, head.Alg, head.Kid)
	}
	log.Print("OK: Validated signature on JWT")
	if time.Now().Unix() > body.Expiry {
		return fmt.Errorf("the token has expired")
	}
	for _, a := range body.Audience {
		if a == audience {
			log.Print("OK: Got valid claims from token!")
			log.Printf("Full, validated claims: %+v", body)
			return nil
		}
	}
	return fmt.Errorf("audience %q is not among %q", audience, body.Audience)
}

func decodePart(part string, into any) error {
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

func number(text string) *big.Int {
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		log.Printf("key: %v", err)
	}
	return new(big.Int).SetBytes(data)
}

func (k key) verifies(algorithm, signed string, signature []byte) bool {
	sum := sha256.Sum256([]byte(signed))
	switch {
	case algorithm == "RS256" && k.Kty == "RSA":
		public := &rsa.PublicKey{N: number(k.N), E: int(number(k.E).Int64())}
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature) == nil
	case algorithm == "ES256" && k.Kty == "EC" && k.Crv == "P-256" && len(signature) == 64:
		public := &ecdsa.PublicKey{Curve: elliptic.P256(), X: number(k.X), Y: number(k.Y)}
		r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		return ecdsa.Verify(public, sum[:], r, s)
	}
	return false
}

func pool(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", path)
	}
	return pool, nil
}

func mtlsClient(args []string) error {
	set := flags("mtlsclient")
	target := set.String("fetch-url", "", "page to poll")
	trust := set.String("server-trust-bundle", "", "trust anchors")
	bundle := set.String("client-cred-bundle", "", "key and certificates")
	parse(set, args)
	if *target == "" || *trust == "" || *bundle == "" {
		return fmt.Errorf("missing required flags")
	}
	for range time.Tick(10 * time.Second) {
		if body, err := mtlsFetch(*target, *trust, *bundle); err != nil {
			log.Printf("while sending requests to the server: %v", err)
		} else {
			log.Printf("Got response body: %s", body)
		}
	}
	return nil
}

func mtlsFetch(target, trust, bundle string) (string, error) {
	roots, err := pool(trust)
	if err != nil {
		return "", err
	}
	pair, err := tls.LoadX509KeyPair(bundle, bundle)
	if err != nil {
		return "", err
	}
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	answer, err := client.Get(target)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("status %s", answer.Status)
	}
	return string(body), err
}

func mtlsServer(args []string) error {
	set := flags("mtlsserver")
	listen := set.String("listen", "", "address and port")
	creds := set.String("server-creds", "", "key and certificates")
	trust := set.String("spiffe-trust-bundle", "", "trust anchors of clients")
	parse(set, args)
	if *listen == "" || *creds == "" || *trust == "" {
		return fmt.Errorf("missing required flags")
	}
	http.HandleFunc("GET /spiffe-echo", func(w http.ResponseWriter, r *http.Request) {
		certs := r.TLS.PeerCertificates
		roots, err := pool(*trust)
		if err == nil && len(certs) == 0 {
			err = fmt.Errorf("no client certificate")
		}
		if err == nil {
			between := x509.NewCertPool()
			for _, c := range certs[1:] {
				between.AddCert(c)
			}
			usages := []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
			_, err = certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: usages})
		}
		if err == nil && len(certs[0].URIs) != 1 {
			err = fmt.Errorf("%d URI names", len(certs[0].URIs))
		}
		if err != nil {
			log.Print(err)
			http.Error(w, "SPIFFE client certificate authentication required", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, "Client Identity: "+certs[0].URIs[0].String())
	})
	server := &http.Server{Addr: *listen, TLSConfig: &tls.Config{ClientAuth: tls.RequestClientCert}}
	return server.ListenAndServeTLS(*creds, *creds)
}
