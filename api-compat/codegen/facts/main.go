// Command facts writes the checked-in facts about the types of Kubernetes: api-compat/schema/data/types.txt.
//
// It walks the Go types by reflection (field order, JSON and protobuf tags, pointers, patch strategies) and takes
// topology, defaults and required fields from the OpenAPI definitions that upstream's own openapi-gen writes into
// the package ./openapi just before (see ../generate.sh). No sentence is taken over.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"reflect"
	"sort"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apidiscoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"knarr.dev/codegen/facts/openapi"
)

// modelNamer is what every published type carries.
type modelNamer interface{ OpenAPIModelName() string }

// wire forms of types that marshal themselves; the key is the definition name.
var special = map[string]string{
	"io.k8s.apimachinery.pkg.api.resource.Quantity":                                         "q",
	"io.k8s.apimachinery.pkg.util.intstr.IntOrString":                                       "x",
	"io.k8s.apimachinery.pkg.apis.meta.v1.Time":                                             "t",
	"io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime":                                        "m",
	"io.k8s.apimachinery.pkg.apis.meta.v1.Duration":                                         "n",
	"io.k8s.apimachinery.pkg.runtime.RawExtension":                                          "*",
	"io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1":                                         "*",
	"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON":                         "*",
	"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool":        "*B",
	"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray":       "*A",
	"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": "*S",
}

type generator struct {
	defs    map[string]common.OpenAPIDefinition // by definition name
	structs map[string]reflect.Type
	queue   []string
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: facts <types.txt> <openapi.json>")
	}
	s := scheme.Scheme
	for _, add := range []func(*runtime.Scheme) error{
		admissionv1.AddToScheme, admissionv1beta1.AddToScheme, apidiscoveryv2.AddToScheme, apidiscoveryv2beta1.AddToScheme,
		imagepolicyv1alpha1.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme, metricsv1beta1.AddToScheme,
		metav1.AddMetaToScheme, metav1beta1.AddMetaToScheme,
	} {
		if err := add(s); err != nil {
			log.Fatal(err)
		}
	}
	g := &generator{structs: map[string]reflect.Type{}}
	g.defs = openapi.GetOpenAPIDefinitions(func(path string) spec.Ref {
		return spec.MustCreateRef("#/components/schemas/" + path)
	})
	var kinds []string
	gvks := map[string][]map[string]any{}
	for gvk, t := range s.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		name := g.add(t)
		if name == "" {
			log.Fatalf("kind %v (%v) has no definition name", gvk, t)
		}
		gv := gvk.GroupVersion().String()
		kinds = append(kinds, fmt.Sprintf("K %s %s %s", gv, gvk.Kind, name))
		gvks[name] = append(gvks[name], map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind})
	}
	g.add(reflect.TypeOf(runtime.Unknown{}))
	bodies := map[string]string{}
	for len(g.queue) > 0 {
		name := g.queue[0]
		g.queue = g.queue[1:]
		bodies[name] = g.body(name)
	}
	sort.Strings(kinds)
	var names []string
	for n := range bodies {
		names = append(names, n)
	}
	sort.Strings(names)
	var out bytes.Buffer
	fmt.Fprintf(&out, "# Facts about the types of Kubernetes v1.37; written by api-compat/codegen, format in ../src/facts.rs.\n")
	for _, n := range names {
		out.WriteString(bodies[n])
	}
	for _, k := range kinds {
		fmt.Fprintln(&out, k)
	}
	must(os.WriteFile(os.Args[1], out.Bytes(), 0o644))
	g.writeOpenAPI(os.Args[2], gvks)
	fmt.Printf("%d structs, %d kinds\n", len(names), len(kinds))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// definition returns the definition name of a Go type, "" when it has none.
func definition(t reflect.Type) string {
	if n, ok := reflect.New(t).Interface().(modelNamer); ok {
		return n.OpenAPIModelName()
	}
	if t.PkgPath() == "" || t.Name() == "" || !strings.Contains(t.PkgPath(), "k8s.io/") {
		return ""
	}
	parts := strings.Split(t.PkgPath(), "/")
	host := strings.Split(parts[0], ".")
	for i, j := 0, len(host)-1; i < j; i, j = i+1, j-1 {
		host[i], host[j] = host[j], host[i]
	}
	parts[0] = strings.Join(host, ".")
	return strings.Join(parts, ".") + "." + t.Name()
}

// add queues a struct type and returns its definition name.
func (g *generator) add(t reflect.Type) string {
	name := definition(t)
	if name == "" {
		return ""
	}
	if _, seen := g.structs[name]; !seen {
		g.structs[name] = t
		g.queue = append(g.queue, name)
	}
	return name
}

// schemaOf returns the definition's schema with `x-kubernetes-*` extensions.
func (g *generator) schemaOf(name string) *spec.Schema {
	if d, ok := g.defs[name]; ok {
		return &d.Schema
	}
	return nil
}

func pkg(name string) string { return name[:strings.LastIndex(name, ".")] }

// body renders one struct: `S name [a]`, then `F` and `I` lines.
func (g *generator) body(name string) string {
	var b strings.Builder
	t := g.structs[name]
	schema := g.schemaOf(name)
	flags := ""
	if schema != nil {
		if v, ok := schema.Extensions.GetString("x-kubernetes-map-type"); ok && v == "atomic" {
			flags += " a"
		}
	} else {
		fmt.Fprintf(os.Stderr, "no openapi definition: %s\n", name)
	}
	fmt.Fprintf(&b, "S %s%s\n", name, flags)
	for i := 0; i < t.NumField(); i++ {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		tag, hasTag := f.Tag.Lookup("json")
		parts := strings.Split(tag, ",")
		if parts[0] == "-" {
			continue
		}
		number := 0
		if pb := f.Tag.Get("protobuf"); pb != "" && pb != "-" {
			if _, err := fmt.Sscanf(strings.Split(pb, ",")[1], "%d", &number); err != nil {
				log.Fatalf("%s.%s: protobuf tag %q: %v", name, f.Name, pb, err)
			}
		}
		if f.Anonymous && parts[0] == "" {
			et := f.Type
			ptr := ""
			if et.Kind() == reflect.Pointer {
				et, ptr = et.Elem(), " p"
			}
			fmt.Fprintf(&b, "I %d %s%s\n", number, g.ref(pkg(name), g.add(et)), ptr)
			continue
		}
		jname := parts[0]
		if jname == "" {
			jname = f.Name
			if hasTag {
				fmt.Fprintf(os.Stderr, "note: %s.%s has no JSON name\n", name, f.Name)
			}
		}
		b.WriteString(g.field(name, schema, f, jname, number, parts[1:]))
	}
	return b.String()
}

// field renders `F json type tag flags [~mergekey] [=default]`.
func (g *generator) field(owner string, schema *spec.Schema, f reflect.StructField, jname string, number int, opts []string) string {
	ft := f.Type
	flags := ""
	if ft.Kind() == reflect.Pointer {
		flags += "p"
		ft = ft.Elem()
	}
	for _, o := range opts {
		switch o {
		case "omitempty":
			flags += "o"
		case "omitzero":
			flags += "z"
		case "inline":
		default:
			log.Fatalf("%s.%s: json option %q", owner, f.Name, o)
		}
	}
	var prop *spec.Schema
	if schema != nil {
		for _, r := range schema.Required {
			if r == jname {
				flags += "r"
			}
		}
		if p, ok := schema.Properties[jname]; ok {
			prop = &p
		} else if len(schema.Properties) > 0 {
			fmt.Fprintf(os.Stderr, "no openapi property: %s.%s\n", owner, jname)
		}
	}
	for _, s := range strings.Split(f.Tag.Get("patchStrategy"), ",") {
		switch s {
		case "merge":
			flags += "M"
		case "replace":
			flags += "R"
		case "retainKeys":
			flags += "K"
		case "":
		default:
			log.Fatalf("%s.%s: patch strategy %q", owner, f.Name, s)
		}
	}
	if flags == "" {
		flags = "-"
	}
	line := fmt.Sprintf("F %s %s %d %s", jname, g.typ(pkg(owner), ft, prop), number, flags)
	if k := f.Tag.Get("patchMergeKey"); k != "" {
		line += " ~" + k
	}
	if prop != nil && prop.Default != nil {
		d, err := json.Marshal(prop.Default)
		must(err)
		line += " =" + string(d)
	}
	return line + "\n"
}

// ref shortens a definition name of the same package to `.Name`.
func (g *generator) ref(from, name string) string {
	if pkg(name) == from {
		return "@" + name[len(from):]
	}
	return "@" + name
}

// typ renders a type; prop gives the topology of lists and maps.
func (g *generator) typ(from string, t reflect.Type, prop *spec.Schema) string {
	if t.Kind() == reflect.Pointer {
		log.Fatalf("pointer inside %v", t)
	}
	if c, ok := special[definition(t)]; ok {
		return c
	}
	switch t.Kind() {
	case reflect.String:
		return "s"
	case reflect.Int32:
		return "i"
	case reflect.Int64, reflect.Int:
		return "l"
	case reflect.Float64, reflect.Float32:
		return "d"
	case reflect.Bool:
		return "b"
	case reflect.Struct:
		return g.ref(from, g.add(t))
	case reflect.Interface:
		return "*"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "y"
		}
		wrapped := ""
		if _, ok := reflect.New(t).Interface().(interface{ Unmarshal([]byte) error }); ok {
			wrapped = "w"
		}
		return "[" + wrapped + listKind(prop) + "]" + g.typ(from, t.Elem(), items(prop))
	case reflect.Map:
		atomic := ""
		if prop != nil {
			if v, _ := prop.Extensions.GetString("x-kubernetes-map-type"); v == "atomic" {
				atomic = "a"
			}
		}
		var inner *spec.Schema
		if prop != nil && prop.AdditionalProperties != nil {
			inner = prop.AdditionalProperties.Schema
		}
		return "{" + atomic + "}" + g.typ(from, t.Elem(), inner)
	}
	log.Fatalf("no form for %v", t)
	return ""
}

func items(prop *spec.Schema) *spec.Schema {
	if prop == nil || prop.Items == nil {
		return nil
	}
	return prop.Items.Schema
}

// listKind renders a (atomic), s (set) or m:key,key (map).
func listKind(prop *spec.Schema) string {
	if prop == nil {
		return "a"
	}
	switch v, _ := prop.Extensions.GetString("x-kubernetes-list-type"); v {
	case "set":
		return "s"
	case "map":
		keys, _ := prop.Extensions.GetStringSlice("x-kubernetes-list-map-keys")
		return "m:" + strings.Join(keys, ",")
	}
	return "a"
}
