// Command verify reads the documents that `KNARR_DUMP=<dir> cargo test -p knarr-openapi` writes with upstream's own
// parsers: verify <dir>.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/spec3"
	util "k8s.io/kube-openapi/pkg/util/proto"
	"sigs.k8s.io/yaml"
)

func main() {
	dir := os.Args[1]
	bad := 0
	fail := func(format string, args ...any) {
		bad++
		fmt.Printf(format+"\n", args...)
	}
	raw := read(dir, "v2.json")
	fromJSON, err := openapi_v2.ParseDocument(raw)
	if err != nil {
		fail("v2.json: %v", err)
	}
	ours := &openapi_v2.Document{}
	if err := proto.Unmarshal(read(dir, "v2.pb"), ours); err != nil {
		fail("v2.pb: %v", err)
	}
	if fromJSON != nil && !reflect.DeepEqual(plain(ours), plain(fromJSON)) {
		fail("v2.pb differs from gnostic's reading of v2.json")
	}
	models, err := util.NewOpenAPIData(ours)
	if err != nil {
		fail("v2 models: %v", err)
	} else {
		fmt.Printf("v2: %d models\n", len(models.ListModels()))
		if _, err := schemaconv.ToSchema(models); err != nil {
			fail("v2 to apply schema: %v", err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "v3-*.json"))
	for _, f := range files {
		var doc spec3.OpenAPI
		if err := doc.UnmarshalJSON(read("", f)); err != nil {
			fail("%s: %v", f, err)
			continue
		}
		if _, err := schemaconv.ToSchemaFromOpenAPI(doc.Components.Schemas, false); err != nil {
			fail("%s to apply schema: %v", f, err)
		}
	}
	fmt.Printf("v3: %d documents, %d problems\n", len(files), bad)
	if bad > 0 {
		os.Exit(1)
	}
}

// plain is the document as JSON values, the YAML texts in it read.
func plain(doc proto.Message) any {
	raw, err := protojson.Marshal(doc)
	if err != nil {
		log.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		log.Fatal(err)
	}
	return readYAML(value)
}

func readYAML(value any) any {
	switch v := value.(type) {
	case map[string]any:
		if text, ok := v["yaml"].(string); ok && len(v) == 1 {
			var inner any
			if err := yaml.Unmarshal([]byte(text), &inner); err != nil {
				log.Fatal(err)
			}
			return inner
		}
		for k := range v {
			v[k] = readYAML(v[k])
		}
	case []any:
		for i := range v {
			v[i] = readYAML(v[i])
		}
	}
	return value
}

func read(dir, name string) []byte {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		log.Fatal(err)
	}
	return raw
}
