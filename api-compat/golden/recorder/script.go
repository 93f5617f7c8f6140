package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// script is one scenario: what README.md of api-compat/golden describes.
type script struct {
	About string   `json:"about"`
	CRDs  []string `json:"crds"`
	// Variables that are there from the beginning.
	Vars      map[string]string `json:"vars"`
	Exchanges []exchange        `json:"exchanges"`
}

type exchange struct {
	Name string `json:"name"`
	// One of these four says what is done.
	Request string `json:"request"`
	Watch   string `json:"watch"`
	Read    string `json:"read"`
	Do      string `json:"do"`

	Headers map[string]string `json:"headers"`
	// A mapping or sequence is sent as JSON with sorted keys, a string as it stands.
	Body json.RawMessage `json:"body"`
	// Base64, for bodies that are no text.
	Bytes   string            `json:"bytes"`
	Capture map[string]string `json:"capture"`
	// The request is repeated until the answer contains this, with a limit.
	Until string `json:"until"`
	// Of the first level of a JSON answer only entries that contain this are kept.
	Only string `json:"only"`
	// Frames to read; -1 reads to the end of the watch.
	Frames int `json:"frames"`
}

func readScript(path string) (*script, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s script
	if err := yaml.UnmarshalStrict(text, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	seen := map[string]bool{}
	for i, e := range s.Exchanges {
		if e.Do != "" {
			continue
		}
		if e.Name == "" || seen[e.Name] {
			return nil, fmt.Errorf("%s: exchange %d: a name of its own is needed, not %q", path, i+1, e.Name)
		}
		seen[e.Name] = true
	}
	return &s, nil
}

// body is what is sent, nil for nothing.
func (e *exchange) body(vars map[string]string) ([]byte, error) {
	if e.Bytes != "" {
		return base64.StdEncoding.DecodeString(strings.Join(strings.Fields(e.Bytes), ""))
	}
	if len(e.Body) == 0 {
		return nil, nil
	}
	text := string(e.Body)
	if e.Body[0] == '"' {
		if err := json.Unmarshal(e.Body, &text); err != nil {
			return nil, err
		}
	}
	text, err := expand(text, vars)
	return []byte(text), err
}

var variable = regexp.MustCompile(`\$\{([a-z0-9A-Z_]+)(\*(\d+))?\}`)

// expand replaces ${name} by a variable's value, ${name*N} by N times that value, and ${x*N} by N letters x if there is no variable x.
func expand(text string, vars map[string]string) (string, error) {
	var failure error
	out := variable.ReplaceAllStringFunc(text, func(hit string) string {
		parts := variable.FindStringSubmatch(hit)
		if parts[3] != "" {
			n, err := strconv.Atoi(parts[3])
			if err != nil {
				failure = err
			}
			letters, named := vars[parts[1]]
			if !named {
				letters = parts[1]
			}
			return strings.Repeat(letters, n)
		}
		value, found := vars[parts[1]]
		if !found {
			failure = fmt.Errorf("no variable %s", hit)
		}
		return value
	})
	return out, failure
}

// capture takes values out of a JSON answer by JSON pointer.
func (e *exchange) capture(body []byte, vars map[string]string) error {
	if len(e.Capture) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var document any
	if err := decoder.Decode(&document); err != nil {
		return fmt.Errorf("%s: capture: %w", e.Name, err)
	}
	for name, pointer := range e.Capture {
		value := document
		for _, step := range strings.Split(pointer, "/")[1:] {
			step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
			switch v := value.(type) {
			case map[string]any:
				value = v[step]
			case []any:
				index, err := strconv.Atoi(step)
				if err != nil || index >= len(v) {
					return fmt.Errorf("%s: capture %s: no element %s", e.Name, pointer, step)
				}
				value = v[index]
			default:
				value = nil
			}
		}
		if value == nil {
			return fmt.Errorf("%s: capture: no %s in %s", e.Name, pointer, body)
		}
		vars[name] = fmt.Sprint(value)
	}
	return nil
}
