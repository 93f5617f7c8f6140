package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"sigs.k8s.io/yaml"
)

// run is one scenario under way.
type run struct {
	stock   *stock
	vars    map[string]string
	names   *normalizer
	watches map[string]*stream
	out     strings.Builder
}

// stream is an open watch.
type stream struct {
	cancel context.CancelFunc
	frames chan string
}

// play runs a script against a fresh stock server and gives the recording.
func play(s *script, scripts string) (string, error) {
	server, err := start("apiextensions")
	if err != nil {
		return "", err
	}
	defer server.stop()
	r := &run{stock: server, vars: map[string]string{}, names: newNormalizer(), watches: map[string]*stream{}}
	defer func() {
		for _, w := range r.watches {
			w.cancel()
		}
	}()
	for name, value := range s.Vars {
		r.vars[name] = value
	}
	for _, name := range s.CRDs {
		if err := r.install(filepath.Join(scripts, "crds", name+".yaml")); err != nil {
			return "", fmt.Errorf("CRD %s: %w", name, err)
		}
	}
	for i := range s.Exchanges {
		e := &s.Exchanges[i]
		if err := r.exchange(e); err != nil {
			return "", fmt.Errorf("exchange %d %s: %w", i+1, e.Name, err)
		}
	}
	return r.out.String(), nil
}

// install posts a CRD and waits until all its served versions answer.
func (r *run) install(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var crd struct {
		Metadata struct{ Name string }
		Spec     struct {
			Group    string
			Names    struct{ Plural string }
			Versions []struct {
				Name   string
				Served bool
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return err
	}
	body, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	crds := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	status, _, answer, err := r.send(context.Background(), "POST", crds, map[string]string{"Content-Type": "application/json"}, body)
	if err != nil || status != 201 {
		return fmt.Errorf("%d %s %v", status, answer, err)
	}
	for _, v := range crd.Spec.Versions {
		path := fmt.Sprintf("/apis/%s/%s/%s", crd.Spec.Group, v.Name, crd.Spec.Names.Plural)
		if v.Served {
			if err := waitFor(path, 20*time.Second, func() bool { return ok(r.stock.client, r.stock.base+path) }); err != nil {
				return err
			}
		}
	}
	// Only when storage is ready does a write succeed at once.
	return waitFor(crd.Metadata.Name+" established", 20*time.Second, func() bool {
		_, _, answer, err := r.send(context.Background(), "GET", crds+"/"+crd.Metadata.Name, nil, nil)
		return err == nil && bytes.Contains(answer, []byte(`"status":"True","type":"Established"`)) ||
			bytes.Contains(answer, []byte(`"type":"Established","status":"True"`))
	})
}

func (r *run) exchange(e *exchange) error {
	switch {
	case e.Do == "compact":
		return r.compact()
	case e.Do == "second":
		time.Sleep(1100 * time.Millisecond)
		return nil
	case e.Do != "":
		return fmt.Errorf("unknown do: %q", e.Do)
	case e.Read != "":
		fmt.Fprintf(&r.out, "### %s\n", e.Name)
		return r.read(e, e.Read)
	case e.Watch != "":
		return r.watch(e)
	}
	method, path, _ := strings.Cut(e.Request, " ")
	headers, body, path, err := r.prepare(e, path)
	if err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 70*time.Second)
		status, answered, answer, err := r.send(ctx, method, path, headers, body)
		cancel()
		if err != nil {
			return err
		}
		if e.Until != "" && !bytes.Contains(answer, []byte(e.Until)) {
			if time.Now().After(end) {
				return fmt.Errorf("no %q in %s", e.Until, answer)
			}
			continue
		}
		if err := e.capture(answer, r.vars); err != nil {
			return err
		}
		return r.store(e, status, answered, answer)
	}
}

// compact drops all history from etcd, and waits for the API server to notice nothing: it asks etcd each time.
func (r *run) compact() error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{r.stock.etcdAt}, DialTimeout: 5 * time.Second})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got, err := client.Get(ctx, "/")
	if err != nil {
		return err
	}
	_, err = client.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical())
	return err
}

func (r *run) prepare(e *exchange, path string) (map[string]string, []byte, string, error) {
	path, err := expand(path, r.vars)
	if err != nil {
		return nil, nil, "", err
	}
	headers := map[string]string{}
	body, err := e.body(r.vars)
	if err != nil {
		return nil, nil, "", err
	}
	if body != nil {
		headers["Content-Type"] = "application/json"
	}
	for name, value := range e.Headers {
		if headers[name], err = expand(value, r.vars); err != nil {
			return nil, nil, "", err
		}
	}
	return headers, body, path, nil
}

func (r *run) open(ctx context.Context, method, path string, headers map[string]string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.stock.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "golden/1.0")
	for name, value := range headers {
		if value == "" {
			request.Header.Del(name)
		} else {
			request.Header.Set(name, value)
		}
	}
	return r.stock.client.Do(request)
}

func (r *run) send(ctx context.Context, method, path string, headers map[string]string, body []byte) (int, http.Header, []byte, error) {
	response, err := r.open(ctx, method, path, headers, body)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	var reader io.Reader = response.Body
	if response.Header.Get("Content-Encoding") == "gzip" {
		if reader, err = gzip.NewReader(response.Body); err != nil {
			return 0, nil, nil, err
		}
	}
	answer, err := io.ReadAll(reader)
	return response.StatusCode, response.Header, answer, err
}

// store appends an answer to the recording.
func (r *run) store(e *exchange, status int, headers http.Header, body []byte) error {
	text := string(body)
	kind := headers.Get("Content-Type")
	switch {
	case strings.Contains(kind, "protobuf"):
		text = dumpProtobuf(body)
	case e.Only != "":
		// What is no JSON object stays whole.
		if kept, err := only(body, e.Only); err == nil {
			text = string(kept)
		}
	}
	fmt.Fprintf(&r.out, "### %s\n%d\n%s", e.Name, status, keptHeaders(headers))
	lines(&r.out, r.names.text("\n" + text)[1:])
	return nil
}

// lines writes a body with a mark before each line, so that nothing in it is mistaken for the recording's own words.
func lines(out *strings.Builder, text string) {
	if text == "" {
		return
	}
	body, complete := strings.CutSuffix(text, "\n")
	for _, line := range strings.Split(body, "\n") {
		fmt.Fprintf(out, "| %s\n", line)
	}
	if !complete {
		out.WriteString("\\ no newline at the end\n")
	}
}

// keptHeaders are those that clients read.
func keptHeaders(headers http.Header) string {
	kept := []string{}
	for name, values := range headers {
		for _, value := range values {
			switch name {
			case "Etag":
				value = "<etag>"
			case "Audit-Id":
				value = "<id>"
			case "Content-Type", "Warning", "Retry-After", "Location", "Allow", "Cache-Control", "Vary", "Content-Encoding",
				"Www-Authenticate", "X-Content-Type-Options":
			default:
				if !strings.HasPrefix(name, "X-Kubernetes-") {
					continue
				}
			}
			kept = append(kept, name+": "+value+"\n")
		}
	}
	// Warnings keep their order among themselves.
	sort.SliceStable(kept, func(i, j int) bool { return before(kept[i]) < before(kept[j]) })
	return strings.Join(kept, "")
}

func before(header string) string {
	name, _, _ := strings.Cut(header, ":")
	return name
}

// watch opens a watch and reads its first frames. An answer other than 200 is stored like any other.
func (r *run) watch(e *exchange) error {
	_, path, _ := strings.Cut(e.Watch, " ")
	headers, _, path, err := r.prepare(e, path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	response, err := r.open(ctx, "GET", path, headers, nil)
	if err != nil {
		cancel()
		return err
	}
	if response.StatusCode != http.StatusOK {
		defer cancel()
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		return r.store(e, response.StatusCode, response.Header, body)
	}
	w := &stream{cancel: cancel, frames: make(chan string, 1000)}
	r.watches[e.Name] = w
	go w.pump(response)
	fmt.Fprintf(&r.out, "### %s\n200\n%s", e.Name, keptHeaders(response.Header))
	return r.read(e, e.Name)
}

func (w *stream) pump(response *http.Response) {
	defer close(w.frames)
	defer response.Body.Close()
	reader := bufio.NewReader(response.Body)
	for {
		if strings.Contains(response.Header.Get("Content-Type"), "protobuf") {
			var size [4]byte
			if _, err := io.ReadFull(reader, size[:]); err != nil {
				return
			}
			frame := make([]byte, binary.BigEndian.Uint32(size[:]))
			if _, err := io.ReadFull(reader, frame); err != nil {
				return
			}
			w.frames <- dumpProtobuf(frame)
			continue
		}
		line, err := reader.ReadString('\n')
		if line != "" {
			w.frames <- line
		}
		if err != nil {
			return
		}
	}
}

func (r *run) read(e *exchange, name string) error {
	w, found := r.watches[name]
	if !found {
		return fmt.Errorf("no watch %q is open", name)
	}
	var last string
	for i := 0; e.Frames < 0 || i < e.Frames; i++ {
		select {
		case frame, more := <-w.frames:
			if !more {
				if e.Frames >= 0 {
					return fmt.Errorf("watch %s ended after %d frames of %d", name, i, e.Frames)
				}
				r.out.WriteString("end\n")
				return nil
			}
			last = frame
			lines(&r.out, r.names.text("\n" + frame)[1:])
		case <-time.After(75 * time.Second):
			return fmt.Errorf("watch %s: %d frames of %d within 75 s", name, i, e.Frames)
		}
	}
	return e.capture([]byte(last), r.vars)
}
