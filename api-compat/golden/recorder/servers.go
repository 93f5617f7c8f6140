package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Flags of the stock programs that shape answers. Those with a path or a port are added by the code below; STOCK.txt names both.
var etcdFlags = []string{"--log-level=error", "--unsafe-no-fsync", "--snapshot-count=100000"}

var serverFlags = []string{
	"--bind-address=127.0.0.1",
	"--authentication-skip-lookup",
	"--enable-priority-and-fairness=false",
	"--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionPolicy,MutatingAdmissionWebhook,ValidatingAdmissionPolicy,ValidatingAdmissionWebhook",
}

// nowhere is a kubeconfig whose server does not exist: the core API that the stock server would ask is not there.
const nowhere = `apiVersion: v1
kind: Config
clusters: [{name: nowhere, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: nobody, user: {}}]
contexts: [{name: nowhere, context: {cluster: nowhere, user: nobody}}]
current-context: nowhere
`

// stock is one etcd and one stock API server with an empty store.
type stock struct {
	dir    string
	etcd   *exec.Cmd
	server *exec.Cmd
	// base is https://127.0.0.1:PORT.
	base   string
	host   string
	etcdAt string
	client *http.Client
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// start brings up etcd and the server of the given kind (a sub-command of this program).
func start(kind string) (*stock, error) {
	dir, err := os.MkdirTemp("", "golden-")
	if err != nil {
		return nil, err
	}
	s := &stock{dir: dir}
	if err := s.launch(kind); err != nil {
		s.stop()
		return nil, fmt.Errorf("%w\n%s", err, tail(filepath.Join(dir, "server.log")))
	}
	return s, nil
}

func (s *stock) launch(kind string) error {
	var ports [3]int
	for i := range ports {
		port, err := freePort()
		if err != nil {
			return err
		}
		ports[i] = port
	}
	s.etcdAt = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	s.host = fmt.Sprintf("127.0.0.1:%d", ports[2])
	s.base = "https://" + s.host

	certificate, err := s.credentials()
	if err != nil {
		return err
	}
	s.client = &http.Client{Transport: &http.Transport{
		// The stock server makes its serving certificate itself; only loopback is in between.
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate}},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}}
	args := append([]string{"etcd", "--data-dir=" + s.path("etcd"), "--listen-client-urls=" + s.etcdAt,
		"--advertise-client-urls=" + s.etcdAt, "--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=default=" + peer}, etcdFlags...)
	if s.etcd, err = s.spawn("etcd.log", args); err != nil {
		return err
	}
	if err := waitFor("etcd", 20*time.Second, func() bool { return ok(http.DefaultClient, s.etcdAt+"/health") }); err != nil {
		return err
	}
	args = append([]string{kind, "--etcd-servers=" + s.etcdAt, fmt.Sprintf("--secure-port=%d", ports[2]), "--cert-dir=" + s.path("certs"),
		"--client-ca-file=" + s.path("ca.crt"), "--kubeconfig=" + s.path("nowhere.kubeconfig"),
		"--authentication-kubeconfig=" + s.path("nowhere.kubeconfig"), "--authorization-kubeconfig=" + s.path("nowhere.kubeconfig")}, serverFlags...)
	if s.server, err = s.spawn("server.log", args); err != nil {
		return err
	}
	first := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	return waitFor("the API server", 40*time.Second, func() bool { return ok(s.client, s.base+first) })
}

func (s *stock) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stock) spawn(log string, args []string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	file, err := os.Create(s.path(log))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	command := exec.Command(self, args...)
	// The server's own writes name its program as their manager.
	command.Args[0] = "kube-apiserver"
	command.Stdout, command.Stderr, command.Dir = file, file, s.dir
	return command, command.Start()
}

// stop ends both programs and removes their directory.
func (s *stock) stop() {
	for _, command := range []*exec.Cmd{s.server, s.etcd} {
		if command != nil && command.Process != nil {
			_ = command.Process.Kill()
			_ = command.Wait()
		}
	}
	if os.Getenv("GOLDEN_KEEP") == "" {
		os.RemoveAll(s.dir)
	} else {
		fmt.Fprintln(os.Stderr, "kept:", s.dir)
	}
}

// credentials writes a client authority and the kubeconfig that points nowhere, and returns the administrator's certificate.
func (s *stock) credentials() (tls.Certificate, error) {
	var none tls.Certificate
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "golden"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return none, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return none, err
	}
	if err := os.WriteFile(s.path("ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600); err != nil {
		return none, err
	}
	if err := os.WriteFile(s.path("nowhere.kubeconfig"), []byte(nowhere), 0o600); err != nil {
		return none, err
	}
	return tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}, nil
}

func ok(client *http.Client, url string) bool {
	response, err := client.Get(url)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode == http.StatusOK
}

func waitFor(what string, limit time.Duration, done func() bool) error {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(25 * time.Millisecond) {
		if done() {
			return nil
		}
	}
	return fmt.Errorf("%s: not ready after %s", what, limit)
}

func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
