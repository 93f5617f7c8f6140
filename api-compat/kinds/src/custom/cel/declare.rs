//! A schema as a CEL type. What the schema does not describe, expressions do not see.

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_cel::{ObjectType, Type, escape};

use crate::custom::schema::Schema;

/// The type of a node; None for what expressions cannot see. A resource has kind, apiVersion and its names.
pub(super) fn of(schema: &Schema, resource: bool) -> Option<Type> {
    if schema.int_or_string {
        return Some(Type::Dyn);
    }
    match schema.ty.as_str() {
        "array" => {
            let items = schema.items.as_deref()?;
            Some(Type::list(of(items, items.embedded)?))
        }
        "object" => {
            if let Some(below) = schema.additional_schema() {
                return Some(Type::map(of(below, below.embedded)?));
            }
            Some(object(schema, resource))
        }
        "string" => Some(match schema.checks.format.as_str() {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::String,
        }),
        "boolean" => Some(Type::Bool),
        "number" => Some(Type::Double),
        "integer" => Some(Type::Int),
        _ => None,
    }
}

fn object(schema: &Schema, resource: bool) -> Type {
    let mut fields = BTreeMap::new();
    for (name, s) in &schema.properties {
        if let (Some(ty), Some(name)) = (of(s, s.embedded), escape(name)) {
            fields.insert(name, ty);
        }
    }
    if resource {
        for name in ["apiVersion", "kind"] {
            fields.insert(name.to_string(), Type::String);
        }
        let names = ["name", "generateName"].map(|n| (n.to_string(), Type::String));
        let metadata = ObjectType { name: "object".into(), fields: names.into_iter().collect() };
        fields.insert("metadata".to_string(), Type::Object(Arc::new(metadata)));
    }
    Type::Object(Arc::new(ObjectType { name: "object".into(), fields }))
}
