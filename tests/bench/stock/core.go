package main

import (
	"context"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"knarr.dev/bench/stock/generated"
)

var (
	scheme   = runtime.NewScheme()
	codecs   = serializer.NewCodecFactory(scheme)
	version  = corev1.SchemeGroupVersion
	internal = schema.GroupVersion{Version: runtime.APIVersionInternal}
)

func init() {
	utilruntime.Must(corev1.AddToScheme(scheme))
	// The published types serve as their own internal form: nothing is converted, which favours this side.
	scheme.AddKnownTypes(internal, &corev1.Pod{}, &corev1.PodList{}, &corev1.ConfigMap{}, &corev1.ConfigMapList{})
	metav1.AddToGroupVersion(scheme, version)
	unversioned := schema.GroupVersion{Version: "v1"}
	scheme.AddUnversionedTypes(unversioned, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	utilruntime.Must(scheme.SetVersionPriority(version))
}

// plain accepts every object of a namespaced kind.
type plain struct {
	runtime.ObjectTyper
	names.NameGenerator
}

func (plain) NamespaceScoped() bool                                            { return true }
func (plain) PrepareForCreate(context.Context, runtime.Object)                 {}
func (plain) PrepareForUpdate(context.Context, runtime.Object, runtime.Object) {}
func (plain) Validate(context.Context, runtime.Object) field.ErrorList         { return nil }
func (plain) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return nil
}
func (plain) WarningsOnCreate(context.Context, runtime.Object) []string                 { return nil }
func (plain) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string { return nil }
func (plain) Canonicalize(runtime.Object)                                               {}
func (plain) AllowCreateOnUpdate(context.Context) bool                                  { return false }
func (plain) AllowUnconditionalUpdate(context.Context) bool                             { return true }

func attributes(object runtime.Object) (labels.Set, fields.Set, error) {
	meta := object.(metav1.Object)
	return meta.GetLabels(), fields.Set{"metadata.name": meta.GetName(), "metadata.namespace": meta.GetNamespace()}, nil
}

func store(getter generic.RESTOptionsGetter, resource, singular string, one, list func() runtime.Object) (rest.Storage, error) {
	strategy := plain{scheme, names.SimpleNameGenerator}
	s := &genericregistry.Store{
		NewFunc:                   one,
		NewListFunc:               list,
		DefaultQualifiedResource:  schema.GroupResource{Resource: resource},
		SingularQualifiedResource: schema.GroupResource{Resource: singular},
		PredicateFunc: func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: attributes}
		},
		CreateStrategy: strategy,
		UpdateStrategy: strategy,
		DeleteStrategy: strategy,
		TableConvertor: rest.NewDefaultTableConvertor(schema.GroupResource{Resource: resource}),
	}
	return s, s.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: attributes})
}

func runCore(args []string) error {
	codec := codecs.CodecForVersions(protobuf.NewSerializer(scheme, scheme), codecs.UniversalDeserializer(), version, internal)
	o := genericoptions.NewRecommendedOptions("/registry", codec)
	o.Authentication, o.Authorization, o.CoreAPI, o.Admission = nil, nil, nil, nil
	o.Features.EnablePriorityAndFairness = false
	flags := pflag.NewFlagSet("core", pflag.ContinueOnError)
	o.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := o.SecureServing.MaybeDefaultWithSelfSignedCerts("localhost", nil, nil); err != nil {
		return err
	}
	config := genericapiserver.NewRecommendedConfig(codecs)
	namer := openapi.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generated.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generated.GetOpenAPIDefinitions, namer)
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.FeatureGate = utilfeature.DefaultFeatureGate
	// The defaults refuse the 201st write at a time with 429; the load has 256 clients.
	config.MaxRequestsInFlight, config.MaxMutatingRequestsInFlight = 4096, 4096
	config.LegacyAPIGroupPrefixes.Insert("/api")
	if err := o.ApplyTo(config); err != nil {
		return err
	}
	server, err := config.Complete().New("core", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return err
	}
	pods, err := store(config.RESTOptionsGetter, "pods", "pod",
		func() runtime.Object { return &corev1.Pod{} }, func() runtime.Object { return &corev1.PodList{} })
	if err != nil {
		return err
	}
	maps, err := store(config.RESTOptionsGetter, "configmaps", "configmap",
		func() runtime.Object { return &corev1.ConfigMap{} }, func() runtime.Object { return &corev1.ConfigMapList{} })
	if err != nil {
		return err
	}
	group := genericapiserver.NewDefaultAPIGroupInfo("", scheme, metav1.ParameterCodec, codecs)
	group.VersionedResourcesStorageMap["v1"] = map[string]rest.Storage{"pods": pods, "configmaps": maps}
	if err := server.InstallLegacyAPIGroup("/api", &group); err != nil {
		return err
	}
	return server.PrepareRun().RunWithContext(context.Background())
}
