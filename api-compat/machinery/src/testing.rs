//! Small hand-made types for this crate's tests: Pod, Deployment-like and Service-like documents.

use std::sync::Arc;

use crate::types::{
    Field, ListKey, ListKind, ListType, MapType, PatchStrategy, Scalar, StructId, StructType, Type, TypeRef,
    TypeSet,
};
use serde_json::{Value, json};

pub(crate) const STR: Type = Type::Scalar(Scalar::String);
pub(crate) const INT: Type = Type::Scalar(Scalar::Int32);

pub(crate) fn field(name: &'static str, ty: Type) -> Field {
    Field {
        name: name.into(),
        ty,
        tag: 1,
        required: false,
        strategy: PatchStrategy::default(),
        merge_key: None,
        default: None,
        nullable: false,
    }
}

pub(crate) fn required(f: Field) -> Field {
    Field { required: true, ..f }
}

pub(crate) fn inline(f: Field) -> Field {
    Field { default: Some(json!({})), ..f }
}

pub(crate) fn merged(f: Field, key: &'static str) -> Field {
    let strategy = PatchStrategy { merge: true, ..f.strategy };
    Field { strategy, merge_key: (!key.is_empty()).then(|| key.into()), ..f }
}

pub(crate) fn list(item: Type, kind: ListKind) -> Type {
    Type::List(Arc::new(ListType { item, kind }))
}

pub(crate) fn keyed(item: Type, keys: &[(&'static str, Option<Value>)]) -> Type {
    let keys = keys.iter().map(|(n, d)| ListKey { name: (*n).into(), default: d.clone() }).collect();
    list(item, ListKind::Map(keys))
}

pub(crate) fn map(value: Type) -> Type {
    Type::Map(Arc::new(MapType { value, atomic: false }))
}

pub(crate) fn structure(set: &mut TypeSet, name: &'static str, atomic: bool, fields: Vec<Field>) -> Type {
    Type::Struct(add(set, name, atomic, fields))
}

fn add(set: &mut TypeSet, name: &'static str, atomic: bool, fields: Vec<Field>) -> StructId {
    set.add(StructType {
        name: name.into(),
        fields,
        by_name: Default::default(),
        atomic,
        preserve_unknown: false,
    })
}

fn metadata(set: &mut TypeSet) -> Type {
    let owner = structure(
        set,
        "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
        true,
        vec![field("uid", STR), field("name", STR), field("kind", STR), field("apiVersion", STR)],
    );
    structure(
        set,
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        false,
        vec![
            field("name", STR),
            field("namespace", STR),
            field("generateName", STR),
            field("uid", STR),
            field("resourceVersion", STR),
            field("generation", Type::Scalar(Scalar::Int64)),
            field("creationTimestamp", Type::Scalar(Scalar::Time)),
            field("labels", map(STR)),
            field("annotations", map(STR)),
            merged(field("finalizers", list(STR, ListKind::Set)), ""),
            merged(field("ownerReferences", keyed(owner, &[("uid", None)])), "uid"),
            field("managedFields", list(Type::Any, ListKind::Atomic)),
        ],
    )
}

fn container(set: &mut TypeSet) -> Type {
    let port = structure(
        set,
        "io.k8s.api.core.v1.ContainerPort",
        false,
        vec![
            required(field("containerPort", INT)),
            field("hostPort", INT),
            field("name", STR),
            Field { default: Some(json!("TCP")), ..field("protocol", STR) },
        ],
    );
    let env = structure(
        set,
        "io.k8s.api.core.v1.EnvVar",
        false,
        vec![required(field("name", STR)), field("value", STR)],
    );
    let limits = map(Type::Scalar(Scalar::Quantity));
    let resources = structure(
        set,
        "io.k8s.api.core.v1.ResourceRequirements",
        false,
        vec![field("limits", limits.clone()), field("requests", limits)],
    );
    let ports = keyed(port, &[("containerPort", None), ("protocol", Some(json!("TCP")))]);
    structure(
        set,
        "io.k8s.api.core.v1.Container",
        false,
        vec![
            required(field("name", STR)),
            field("image", STR),
            field("command", list(STR, ListKind::Atomic)),
            field("args", list(STR, ListKind::Atomic)),
            merged(field("env", keyed(env, &[("name", None)])), "name"),
            merged(field("ports", ports), "containerPort"),
            inline(field("resources", resources)),
        ],
    )
}

fn pod_spec(set: &mut TypeSet) -> Type {
    let container = container(set);
    let containers = keyed(container, &[("name", None)]);
    let selector = Type::Map(Arc::new(MapType { value: STR, atomic: true }));
    let source = structure(set, "io.k8s.api.core.v1.EmptyDir", false, vec![field("medium", STR)]);
    let host = structure(set, "io.k8s.api.core.v1.HostPath", false, vec![required(field("path", STR))]);
    let volume = structure(
        set,
        "io.k8s.api.core.v1.Volume",
        false,
        vec![required(field("name", STR)), field("emptyDir", source), field("hostPath", host)],
    );
    let mut volumes = merged(field("volumes", keyed(volume, &[("name", None)])), "name");
    volumes.strategy.retain_keys = true;
    structure(
        set,
        "io.k8s.api.core.v1.PodSpec",
        false,
        vec![
            merged(required(field("containers", containers)), "name"),
            volumes,
            field("nodeSelector", selector),
            field("nodeName", STR),
            field("restartPolicy", STR),
            field("terminationGracePeriodSeconds", Type::Scalar(Scalar::Int64)),
        ],
    )
}

fn root(set: &mut TypeSet, name: &'static str, mut fields: Vec<Field>) -> Type {
    let meta = metadata(set);
    fields.extend([field("apiVersion", STR), field("kind", STR), inline(field("metadata", meta))]);
    structure(set, name, false, fields)
}

pub(crate) fn pod_types() -> TypeRef {
    let mut set = TypeSet::default();
    let spec = pod_spec(&mut set);
    let status = structure(&mut set, "io.k8s.api.core.v1.PodStatus", false, vec![field("phase", STR)]);
    let root = root(
        &mut set,
        "io.k8s.api.core.v1.Pod",
        vec![inline(field("spec", spec)), inline(field("status", status))],
    );
    TypeRef { set: Arc::new(set), root }
}

pub(crate) fn deployment_types() -> TypeRef {
    let mut set = TypeSet::default();
    let spec = pod_spec(&mut set);
    let meta = metadata(&mut set);
    let template = structure(
        &mut set,
        "io.k8s.api.core.v1.PodTemplateSpec",
        false,
        vec![inline(field("metadata", meta)), inline(field("spec", spec))],
    );
    let selector = structure(
        &mut set,
        "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
        true,
        vec![field("matchLabels", map(STR))],
    );
    let rolling = structure(
        &mut set,
        "io.k8s.api.apps.v1.RollingUpdateDeployment",
        false,
        vec![field("maxSurge", Type::Scalar(Scalar::IntOrString))],
    );
    let strategy = structure(
        &mut set,
        "io.k8s.api.apps.v1.DeploymentStrategy",
        false,
        vec![field("type", STR), field("rollingUpdate", rolling)],
    );
    let mut strategy = inline(field("strategy", strategy));
    strategy.strategy.retain_keys = true;
    let spec = structure(
        &mut set,
        "io.k8s.api.apps.v1.DeploymentSpec",
        false,
        vec![
            field("replicas", INT),
            required(field("selector", selector)),
            inline(required(field("template", template))),
            strategy,
        ],
    );
    let status =
        structure(&mut set, "io.k8s.api.apps.v1.DeploymentStatus", false, vec![field("replicas", INT)]);
    let root = root(
        &mut set,
        "io.k8s.api.apps.v1.Deployment",
        vec![inline(field("spec", spec)), inline(field("status", status))],
    );
    TypeRef { set: Arc::new(set), root }
}

pub(crate) fn service_types() -> TypeRef {
    let mut set = TypeSet::default();
    let port = structure(
        &mut set,
        "io.k8s.api.core.v1.ServicePort",
        false,
        vec![
            field("name", STR),
            required(field("port", INT)),
            Field { default: Some(json!("TCP")), ..field("protocol", STR) },
            field("targetPort", Type::Scalar(Scalar::IntOrString)),
            field("nodePort", INT),
        ],
    );
    let ports = keyed(port, &[("port", None), ("protocol", Some(json!("TCP")))]);
    let selector = Type::Map(Arc::new(MapType { value: STR, atomic: true }));
    let spec = structure(
        &mut set,
        "io.k8s.api.core.v1.ServiceSpec",
        false,
        vec![merged(field("ports", ports), "port"), field("selector", selector), field("type", STR)],
    );
    let root = root(&mut set, "io.k8s.api.core.v1.Service", vec![inline(field("spec", spec))]);
    TypeRef { set: Arc::new(set), root }
}
