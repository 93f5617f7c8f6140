//! `meta/v1` Table and PartialObjectMetadata documents.

use serde_json::{Value, json};

use crate::Str;

/// A column of a Table.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDefinition {
    /// Header.
    pub name: Str,
    /// OpenAPI type.
    pub kind: Str,
    /// OpenAPI format.
    pub format: Str,
    /// Description.
    pub description: Str,
    /// 0 is always shown.
    pub priority: i32,
}

/// What a row carries besides its cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter; None for an unknown value.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A Table. `list_meta` is the ListMeta (resourceVersion, continue, remainingItemCount).
pub fn table(version: &str, columns: &[ColumnDefinition], rows: Vec<Value>, list_meta: Value) -> Value {
    let columns: Vec<Value> = columns.iter().map(column).collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": list_meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn column(c: &ColumnDefinition) -> Value {
    json!({
        "name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority,
    })
}

/// A row of a Table.
pub fn row(cells: Vec<Value>, obj: &Value, include: IncludeObject) -> Value {
    let mut row = json!({"cells": cells});
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = partial_metadata("v1", obj),
        IncludeObject::Object => row["object"] = obj.clone(),
    }
    row
}

/// PartialObjectMetadata of an object.
pub fn partial_metadata(version: &str, obj: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": obj.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// PartialObjectMetadataList of objects.
pub fn partial_metadata_list<'a>(
    version: &str,
    items: impl Iterator<Item = &'a Value>,
    list_meta: Value,
) -> Value {
    let items: Vec<Value> = items.map(|o| partial_metadata(version, o)).collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": list_meta,
        "items": items,
    })
}

/// The columns of a kind without printer columns of its own: Name and Created At.
pub fn default_columns() -> Vec<ColumnDefinition> {
    vec![
        ColumnDefinition {
            name: "Name".into(),
            kind: "string".into(),
            format: "name".into(),
            description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names".into(),
            priority: 0,
        },
        ColumnDefinition {
            name: "Created At".into(),
            kind: "date".into(),
            format: "".into(),
            description: "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata".into(),
            priority: 0,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let o = json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {}});
        let r = row(vec![json!("a")], &o, IncludeObject::Metadata);
        assert_eq!(r["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(r["object"]["metadata"]["name"], "a");
        assert!(row(vec![], &o, IncludeObject::None).get("object").is_none());
        assert_eq!(row(vec![], &o, IncludeObject::Object)["object"], o);
        let t = table("v1", &default_columns(), vec![r], json!({"resourceVersion": "5"}));
        assert_eq!(t["apiVersion"], "meta.k8s.io/v1");
        assert_eq!(t["columnDefinitions"][0]["format"], "name");
        assert_eq!(IncludeObject::parse("x"), None);
    }
}
