//! What a client is warned of when it writes a CustomResourceDefinition.

use serde_json::Value;

use crate::custom::schema::Schema;
use crate::kind::Warnings;
use crate::value::list;

/// Formats that nobody checks, and sets of items that apply cannot tell apart; only what is new.
pub(crate) fn of(crd: &Value, old: Option<&Value>) -> Warnings {
    let before = old.map(all).unwrap_or_default();
    all(crd).into_iter().filter(|w| !before.contains(w)).collect()
}

fn all(crd: &Value) -> Warnings {
    let (mut formats, mut sets) = (Vec::new(), Vec::new());
    let mut seen: Vec<&Value> = Vec::new();
    for version in list(crd, "/spec/versions") {
        let Some(doc) = version.pointer("/schema/openAPIV3Schema") else { continue };
        // Versions with one and the same schema are judged once.
        if seen.contains(&doc) {
            continue;
        }
        seen.push(doc);
        let schema = Schema::parse(doc);
        super::definition::unrecognized_formats(&schema, &mut formats);
        set_items(&schema, &mut sets);
    }
    sets.sort();
    sets.dedup();
    let mut out: Warnings = formats.into_iter().map(|f| format!("unrecognized format {f:?}")).collect();
    out.append(&mut sets);
    out
}

fn set_items(schema: &Schema, found: &mut Vec<String>) {
    if let (Some("set"), Some(items)) = (schema.list_type.as_deref(), &schema.items)
        && matches!(items.ty.as_str(), "object" | "array")
    {
        found.push(format!(
            "x-kubernetes-list-type: set for items of type {:?} is not supported by server-side apply or CEL validation rules",
            items.ty
        ));
    }
    let children = schema.items.as_deref().into_iter().chain(schema.properties.values());
    for s in children.chain(schema.additional_schema()) {
        set_items(s, found);
    }
}
