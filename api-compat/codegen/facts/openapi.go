package main

import (
	"encoding/json"
	"os"
	"sort"
)

// writeOpenAPI writes the component schemas without any description, plus group, version and kind; the program in
// ../docs adds the documentation of the crate k8s-openapi.
func (g *generator) writeOpenAPI(path string, gvks map[string][]map[string]any) {
	out := map[string]any{}
	for name, def := range g.defs {
		raw, err := json.Marshal(def.Schema)
		must(err)
		var doc map[string]any
		must(json.Unmarshal(raw, &doc))
		strip(doc)
		if list := gvks[name]; list != nil {
			sort.Slice(list, func(i, j int) bool { return key(list[i]) < key(list[j]) })
			doc["x-kubernetes-group-version-kind"] = list
		}
		out[name] = doc
	}
	raw, err := json.MarshalIndent(out, "", " ")
	must(err)
	must(os.WriteFile(path, raw, 0o644))
}

func key(m map[string]any) string {
	return m["group"].(string) + "/" + m["version"].(string) + "/" + m["kind"].(string)
}

// strip drops every description of a schema (not properties of that name).
func strip(doc map[string]any) {
	delete(doc, "description")
	for k, v := range doc {
		switch k {
		case "properties":
			for _, p := range v.(map[string]any) {
				strip(p.(map[string]any))
			}
		case "items", "additionalProperties":
			if m, ok := v.(map[string]any); ok {
				strip(m)
			}
		case "allOf", "oneOf", "anyOf":
			for _, p := range v.([]any) {
				strip(p.(map[string]any))
			}
		}
	}
}
