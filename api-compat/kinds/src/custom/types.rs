//! A schema as the types of patch and apply.

use std::collections::HashMap;
use std::sync::Arc;

use knarr_machinery::types::{
    Field, ListKey, ListKind, ListType, MapType, PatchStrategy, Scalar, StructId, StructType, Type, TypeRef,
    TypeSet,
};

use crate::custom::schema::Schema;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The types of object metadata alone.
pub(crate) fn metadata_types() -> TypeRef {
    knarr_schema::builtin_type(OBJECT_META).unwrap_or(TypeRef { set: Arc::default(), root: Type::Any })
}

/// The types of a custom resource.
pub(crate) fn of(schema: &Schema, definition: &str) -> TypeRef {
    let mut build = Build { set: TypeSet::default(), copied: HashMap::new() };
    let root = build.resource(schema, definition);
    TypeRef { set: Arc::new(build.set), root }
}

struct Build {
    set: TypeSet,
    copied: HashMap<u32, StructId>,
}

fn field(name: &str, ty: Type, nullable: bool) -> Field {
    Field {
        name: name.to_string().into(),
        ty,
        tag: 0,
        required: false,
        strategy: PatchStrategy::default(),
        merge_key: None,
        default: None,
        nullable,
    }
}

impl Build {
    fn resource(&mut self, schema: &Schema, name: &str) -> Type {
        let mut fields = vec![
            field("apiVersion", Type::Scalar(Scalar::String), false),
            field("kind", Type::Scalar(Scalar::String), false),
        ];
        let metadata = metadata_types();
        let ty = self.copy(&metadata.set, &metadata.root);
        fields.push(field("metadata", ty, false));
        for (key, s) in &schema.properties {
            if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                let ty = self.value(s);
                fields.push(field(key, ty, s.nullable));
            }
        }
        self.structure(name, fields, schema)
    }

    fn structure(&mut self, name: &str, fields: Vec<Field>, schema: &Schema) -> Type {
        Type::Struct(self.set.add(StructType {
            name: name.to_string().into(),
            fields,
            by_name: HashMap::new(),
            atomic: schema.map_type.as_deref() == Some("atomic"),
            preserve_unknown: schema.preserve_unknown,
        }))
    }

    fn value(&mut self, schema: &Schema) -> Type {
        if schema.int_or_string {
            return Type::Scalar(Scalar::IntOrString);
        }
        match schema.ty.as_str() {
            "object" => self.object(schema),
            "array" => match &schema.items {
                Some(items) => {
                    let item = self.value(items);
                    Type::List(Arc::new(ListType { item, kind: list_kind(schema, items) }))
                }
                None => Type::Any,
            },
            "string" => Type::Scalar(Scalar::String),
            "integer" => Type::Scalar(Scalar::Int64),
            "number" => Type::Scalar(Scalar::Double),
            "boolean" => Type::Scalar(Scalar::Bool),
            // Without a type everything is kept: granular for maps, as upstream deduces it.
            _ => {
                let open = Schema { preserve_unknown: true, ..Schema::default() };
                self.structure(knarr_machinery::types::DEDUCED, Vec::new(), &open)
            }
        }
    }

    fn object(&mut self, schema: &Schema) -> Type {
        if schema.embedded {
            return self.resource(schema, "");
        }
        if let (Some(below), true) = (schema.additional_schema(), schema.properties.is_empty()) {
            let value = self.value(below);
            let atomic = schema.map_type.as_deref() == Some("atomic");
            return Type::Map(Arc::new(MapType { value, atomic }));
        }
        let mut fields = Vec::new();
        for (key, s) in &schema.properties {
            let ty = self.value(s);
            fields.push(field(key, ty, s.nullable));
        }
        let open = schema.preserve_unknown || schema.additional.is_some();
        let schema =
            Schema { preserve_unknown: open, map_type: schema.map_type.clone(), ..Schema::default() };
        self.structure("", fields, &schema)
    }

    /// A type of another set with everything it refers to.
    fn copy(&mut self, from: &TypeSet, ty: &Type) -> Type {
        match ty {
            Type::Struct(id) => {
                if let Some(known) = self.copied.get(&id.0) {
                    return Type::Struct(*known);
                }
                let old = from.get(*id).clone();
                let fields = old
                    .fields
                    .iter()
                    .map(|f| Field { ty: self.copy(from, &f.ty), tag: 0, ..f.clone() })
                    .collect();
                let new = self.set.add(StructType { fields, ..old });
                self.copied.insert(id.0, new);
                Type::Struct(new)
            }
            Type::List(l) => {
                let item = self.copy(from, &l.item);
                Type::List(Arc::new(ListType { item, kind: l.kind.clone() }))
            }
            Type::Map(m) => {
                let value = self.copy(from, &m.value);
                Type::Map(Arc::new(MapType { value, atomic: m.atomic }))
            }
            other => other.clone(),
        }
    }
}

fn list_kind(schema: &Schema, items: &Schema) -> ListKind {
    match schema.list_type.as_deref() {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(
            schema
                .list_keys
                .iter()
                .map(|k| ListKey {
                    name: k.clone().into(),
                    default: items.properties.get(k).and_then(|s| s.default.clone()),
                })
                .collect(),
        ),
        _ => ListKind::Atomic,
    }
}
