package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// normalizer replaces what differs from run to run, numbering values in order of appearance over one scenario.
// api-compat/golden/src/normalize.rs does exactly the same; a change here is a change there.
type normalizer struct {
	seen  map[string]string
	count map[string]int
}

func newNormalizer() *normalizer {
	return &normalizer{seen: map[string]string{}, count: map[string]int{}}
}

// name gives a value of a class its number.
func (n *normalizer) name(class, value string) string {
	key := class + " " + value
	if known, found := n.seen[key]; found {
		return known
	}
	n.count[class]++
	n.seen[key] = fmt.Sprintf("<%s-%d>", class, n.count[class])
	return n.seen[key]
}

var (
	continueToken = regexp.MustCompile(`("continue": ?"|continue: |\n *3: ")([A-Za-z0-9_=+/-]{8,})`)
	uuid          = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	instant       = regexp.MustCompile(`20(?:2[5-9]|[3-9][0-9])-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z`)
	version       = regexp.MustCompile(`(resourceVersion\\*": ?\\*"|resourceVersion: "|resource version: |ResourceVersion in (?:record|precondition) \(|too old resource version: <rv-[0-9]+> \(|, current: |\n *[26]: ")([1-9][0-9]*)`)
	generated     = regexp.MustCompile(`(gen-|aaaa)([bcdfghjklmnpqrstvwxz2456789]{5})\b`)
	host          = regexp.MustCompile(`127\.0\.0\.1:[0-9]+`)
	schemeName    = regexp.MustCompile(`in scheme \\"[^"\\]*\\"`)
	// Upstream's documentation; ours has its own words.
	prose = regexp.MustCompile(`("description": ?")(?:[^"\\]|\\.){70,}"`)
	// The last cell of a row, where it is an age: seconds pass while a scenario is played.
	age  = regexp.MustCompile(`"[0-9]{1,2}s"\]`)
	hash = regexp.MustCompile(`hash=[0-9A-Fa-f]+`)
)

func (n *normalizer) text(text string) string {
	text = n.classed(text, continueToken, "continue")
	text = uuid.ReplaceAllStringFunc(text, func(v string) string { return n.name("uid", v) })
	text = instant.ReplaceAllStringFunc(text, func(v string) string {
		if dot := strings.IndexByte(v, '.'); dot >= 0 {
			return fmt.Sprintf("<time.%d>", len(v)-dot-2)
		}
		return "<time>"
	})
	// Twice: the number in brackets follows one that has just been replaced.
	text = n.classed(n.classed(text, version, "rv"), version, "rv")
	text = n.classed(text, generated, "gen")
	text = host.ReplaceAllString(text, "<host>")
	text = schemeName.ReplaceAllString(text, `in scheme \"<scheme>\"`)
	text = prose.ReplaceAllString(text, `$1<prose>"`)
	text = age.ReplaceAllString(text, `"<age>"]`)
	return hash.ReplaceAllString(text, "hash=<hash>")
}

func (n *normalizer) classed(text string, pattern *regexp.Regexp, class string) string {
	var out strings.Builder
	last := 0
	for _, m := range pattern.FindAllStringSubmatchIndex(text, -1) {
		out.WriteString(text[last:m[4]])
		out.WriteString(n.name(class, text[m[4]:m[5]]))
		last = m[5]
	}
	out.WriteString(text[last:])
	return out.String()
}

// only keeps, on the first level of a JSON document, the entries that contain a text, and indents it.
// In objects keys count; in lists the elements do. Other fields stay.
func only(body []byte, part string) ([]byte, error) {
	var document map[string]json.RawMessage
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, err
	}
	for field, raw := range document {
		var list []json.RawMessage
		var object map[string]json.RawMessage
		switch {
		case json.Unmarshal(raw, &list) == nil:
			kept := []json.RawMessage{}
			for _, element := range list {
				if bytes.Contains(element, []byte(part)) {
					kept = append(kept, element)
				}
			}
			document[field] = encode(kept)
		case (field == "definitions" || field == "paths") && json.Unmarshal(raw, &object) == nil:
			for key := range object {
				if !strings.Contains(key, part) {
					delete(object, key)
				}
			}
			document[field] = encode(object)
		}
	}
	return sortedIndent(encode(document))
}

// sortedIndent is the canonical long form: sorted keys, two spaces.
func sortedIndent(body []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var document any
	if err := decoder.Decode(&document); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(document)
	return out.Bytes(), err
}

func encode(value any) json.RawMessage {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err) // Only raw JSON that has just been parsed gets here.
	}
	return bytes.TrimSpace(out.Bytes())
}
