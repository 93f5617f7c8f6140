// Command cases writes documents as upstream's own serializers write them, one a line: JSON, a tab, protobuf in base64.
//
//	cases zero           the zero value of every kind
//	cases crd            custom resource definitions and what else k8s.io/api's test data lacks
//	cases random <n>     n sparse random objects of every kind
//
// The Rust test reads the first two from api-compat/schema/tests/data, the last from the file in KNARR_CODEC_CASES.
package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log"
	"math/rand"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/resource"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	jsonserializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"sigs.k8s.io/randfill"
)

func main() {
	s := scheme.Scheme
	for _, add := range []func(*runtime.Scheme) error{
		apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme, metricsv1beta1.AddToScheme, metav1.AddMetaToScheme,
	} {
		if err := add(s); err != nil {
			log.Fatal(err)
		}
	}
	switch {
	case len(os.Args) == 2 && os.Args[1] == "zero":
		for _, gvk := range kinds(s) {
			obj, err := s.New(gvk)
			if err != nil {
				log.Fatal(err)
			}
			write(s, gvk, obj)
		}
	case len(os.Args) == 2 && os.Args[1] == "crd":
		for _, obj := range special() {
			gvks, _, err := s.ObjectKinds(obj)
			if err != nil {
				log.Fatal(err)
			}
			write(s, gvks[0], obj)
		}
	case len(os.Args) == 3 && os.Args[1] == "random":
		n, err := strconv.Atoi(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		random(s, n)
	default:
		log.Fatal("usage: cases zero | crd | random <n>")
	}
}

// kinds are all that have both forms, options and events left out.
func kinds(s *runtime.Scheme) []schema.GroupVersionKind {
	var all []schema.GroupVersionKind
	for gvk := range s.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal || gvk.Kind == "WatchEvent" || strings.HasSuffix(gvk.Kind, "Options") ||
			gvk.Group == "meta.k8s.io" && strings.HasPrefix(gvk.Kind, "Table") {
			continue
		}
		all = append(all, gvk)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].String() < all[j].String() })
	return all
}

func random(s *runtime.Scheme, n int) {
	funcs := fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, func(serializer.CodecFactory) []interface{} {
		return []interface{}{
			func(q *resource.Quantity, c randfill.Continue) {
				*q = *resource.NewQuantity(c.Int63n(1000), resource.DecimalSI)
			},
			func(q *intstr.IntOrString, c randfill.Continue) {
				if *q = intstr.FromInt32(c.Int31()); c.Bool() {
					*q = intstr.FromString("10%")
				}
			},
			func(d *metav1.Duration, c randfill.Continue) { d.Duration = time.Duration(c.Int63n(1 << 50)) },
			func(d *metav1.MicroTime, c randfill.Continue) { d.Time = time.UnixMicro(c.Int63n(1 << 50)).UTC() },
			func(r *runtime.RawExtension, c randfill.Continue) { r.Raw = []byte(`{"a":1}`) },
			func(r *apiextensionsv1.JSON, c randfill.Continue) { r.Raw = []byte(`{"a":1}`) },
			func(v *metav1.FieldsV1, c randfill.Continue) { v.Raw = []byte(`{"f:a":{}}`) },
			// Few digits, so that every reader of the JSON comes to the same number.
			func(v *float64, c randfill.Continue) { *v = float64(c.Int63n(1000)) / 4 },
			func(v *apiextensionsv1.JSONSchemaPropsOrBool, c randfill.Continue) { v.Allows = c.Bool() },
			func(v *apiextensionsv1.JSONSchemaPropsOrArray, c randfill.Continue) {
				v.Schema = &apiextensionsv1.JSONSchemaProps{Type: "object"}
			},
			func(v *apiextensionsv1.JSONSchemaPropsOrStringArray, c randfill.Continue) { v.Property = []string{"a"} },
		}
	})
	f := fuzzer.FuzzerFor(funcs, rand.NewSource(1), serializer.NewCodecFactory(s)).NilChance(0.5).NumElements(0, 2).MaxDepth(12)
	for _, gvk := range kinds(s) {
		for range n {
			obj, err := s.New(gvk)
			if err != nil {
				log.Fatal(err)
			}
			f.Fill(obj)
			write(s, gvk, obj)
		}
	}
}

func write(s *runtime.Scheme, gvk schema.GroupVersionKind, obj runtime.Object) {
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	var text, pb bytes.Buffer
	codec := protobuf.NewSerializer(s, s)
	if err := codec.Encode(obj, &pb); err != nil {
		if strings.Contains(err.Error(), "does not implement") {
			return
		}
		log.Fatalf("%v: %v", gvk, err)
	}
	// Protobuf does not tell an empty list from none, so the JSON is that of what protobuf keeps.
	kept, _, err := codec.Decode(pb.Bytes(), nil, nil)
	if err != nil {
		log.Fatalf("%v: %v", gvk, err)
	}
	kept.GetObjectKind().SetGroupVersionKind(gvk)
	if err := jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, s, s, jsonserializer.SerializerOptions{}).Encode(kept, &text); err != nil {
		log.Fatalf("%v: %v", gvk, err)
	}
	fmt.Printf("%s\t%s\n", bytes.TrimSpace(text.Bytes()), base64.StdEncoding.EncodeToString(pb.Bytes()))
}

func special() []runtime.Object {
	number := func(n float64) *float64 { return &n }
	yes, count, group := true, int64(3), "g"
	raw := func(text string) *apiextensionsv1.JSON { return &apiextensionsv1.JSON{Raw: []byte(text)} }
	props := &apiextensionsv1.JSONSchemaProps{
		Type: "object",
		Properties: map[string]apiextensionsv1.JSONSchemaProps{
			"any":      {XPreserveUnknownFields: &yes},
			"default":  {Type: "integer", Default: raw(`5`), Minimum: number(1.5), Maximum: number(10), MaxLength: &count},
			"enum":     {Type: "string", Enum: []apiextensionsv1.JSON{{Raw: []byte(`"a"`)}, {Raw: []byte(`"b"`)}}, Nullable: true},
			"list":     {Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &apiextensionsv1.JSONSchemaProps{Type: "string"}}},
			"tuple":    {Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{JSONSchemas: []apiextensionsv1.JSONSchemaProps{{Type: "string"}, {Type: "integer"}}}},
			"open":     {Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true}},
			"closed":   {Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{}},
			"map":      {Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: &apiextensionsv1.JSONSchemaProps{Type: "string"}}},
			"depends":  {Dependencies: apiextensionsv1.JSONSchemaDependencies{"a": {Property: []string{"b", "c"}}, "d": {Schema: &apiextensionsv1.JSONSchemaProps{Type: "string"}}}},
			"checked":  {XValidations: apiextensionsv1.ValidationRules{{Rule: "self > 0", Message: "m"}}, XListMapKeys: []string{"k"}},
			"combined": {AnyOf: []apiextensionsv1.JSONSchemaProps{{Type: "string"}, {Not: &apiextensionsv1.JSONSchemaProps{Type: "integer"}}}, XIntOrString: true},
		},
	}
	now := metav1.NewTime(time.Unix(1577836800, 0).UTC())
	return []runtime.Object{
		&apiextensionsv1.CustomResourceDefinition{
			ObjectMeta: metav1.ObjectMeta{Name: "crontabs.stable.example.com", CreationTimestamp: now},
			Spec: apiextensionsv1.CustomResourceDefinitionSpec{
				Group: "stable.example.com",
				Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "crontabs", Kind: "CronTab", ShortNames: []string{"ct"}},
				Scope: apiextensionsv1.NamespaceScoped,
				Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
					Name: "v1", Served: true, Storage: true,
					Schema:                   &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: props},
					Subresources:             &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}, Scale: &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas"}},
					AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Spec", Type: "string", JSONPath: ".spec"}},
				}},
				Conversion: &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
					ClientConfig: &apiextensionsv1.WebhookClientConfig{CABundle: []byte{0, 1, 255}}, ConversionReviewVersions: []string{"v1"}}},
			},
			Status: apiextensionsv1.CustomResourceDefinitionStatus{Conditions: []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, LastTransitionTime: now}}},
		},
		&apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: "v1beta1.metrics.k8s.io"},
			Spec: apiregistrationv1.APIServiceSpec{Service: &apiregistrationv1.ServiceReference{Namespace: "kube-system", Name: "metrics-server"},
				Group: "metrics.k8s.io", Version: "v1beta1", InsecureSkipTLSVerify: true, GroupPriorityMinimum: 100, VersionPriority: 100},
		},
		&metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}, Timestamp: now, Window: metav1.Duration{Duration: 90 * time.Second},
			Containers: []metricsv1beta1.ContainerMetrics{{Name: "c", Usage: corev1.ResourceList{"cpu": resource.MustParse("5m"), "memory": resource.MustParse("12Ki")}}},
		}}},
		&corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "x", RemainingItemCount: &count}, Items: []corev1.Pod{{
			ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}},
		&corev1.Secret{Data: map[string][]byte{"a": {}, "b": nil, "c": {1, 2}}, StringData: map[string]string{"": "x"}},
		&corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}, {Port: -1, TargetPort: intstr.FromString("http")}}}},
		&metav1.Status{Status: "Failure", Reason: "NotFound", Code: 404, Details: &metav1.StatusDetails{Name: "x", Causes: []metav1.StatusCause{{Type: "t", Message: "m", Field: "f"}}}},
		&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "x", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", Time: &now, FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:data":{".":{}}}`)}}}}},
		&corev1.Event{Reason: group, LastTimestamp: now, EventTime: metav1.MicroTime{Time: time.Unix(1577836800, 123456000).UTC()}},
	}
}
