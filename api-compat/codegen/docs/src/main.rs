//! Adds the documentation of k8s-openapi to the component schemas that ../facts wrote.
//!
//! `knarr-codegen-docs <schemas.json> <documented.json>`
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

include!(concat!(env!("OUT_DIR"), "/all.rs"));

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, from, to] = args.as_slice() else { panic!("usage: knarr-codegen-docs <schemas.json> <documented.json>") };
    let mut settings = SchemaSettings::openapi3();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    all(&mut generator);
    let docs: Map<String, Value> = generator.take_definitions(true);
    let text = std::fs::read(from).expect("schemas");
    let mut schemas: Map<String, Value> = serde_json::from_slice(&text).expect("schemas");
    let own: Map<String, Value> = serde_json::from_str(include_str!("../own.json")).expect("own.json");
    let (mut with, mut without) = (0, 0);
    for (name, schema) in &mut schemas {
        let doc = docs.get(name).or_else(|| own.get(name)).cloned();
        // A definition with documentation there has a list (generic in k8s-openapi, so without a schema of its own).
        let item = name.strip_suffix("List").filter(|item| docs.contains_key(*item));
        match (doc, item) {
            (Some(doc), _) => describe(schema, &doc),
            (None, Some(item)) => describe(schema, &list_documentation(item)),
            (None, None) => {
                without += 1;
                continue;
            }
        }
        with += 1;
    }
    eprintln!("{with} definitions documented, {without} not (kinds that k8s-openapi does not have)");
    std::fs::write(to, serde_json::to_vec(&schemas).expect("json")).expect("write");
}

fn list_documentation(item: &str) -> Value {
    let kind = item.rsplit('.').next().unwrap_or(item);
    serde_json::json!({
        "description": format!("A list of {kind} objects."),
        "properties": {
            "apiVersion": {"description": "Group and version of this document."},
            "kind": {"description": "Kind of this document."},
            "metadata": {"description": "List metadata: resourceVersion, and continue where the list goes on."},
            "items": {"description": format!("The {kind} objects.")},
        },
    })
}

/// Copies `description` of the schema and of its properties. Upstream writes a reference with a description as
/// `allOf: [{$ref}]`; a default is on the outside too.
fn describe(schema: &mut Value, doc: &Value) {
    let Value::Object(schema) = schema else { return };
    if let Some(Value::Object(v2)) = schema.get_mut("x-kubernetes-v2-schema") {
        v2.remove("description");
    }
    if let Some(d) = doc.get("description") {
        schema.insert("description".into(), d.clone());
    }
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (name, property) in properties {
        let Some(d) = doc.pointer("/properties").and_then(|p| p.get(name)).and_then(|p| p.get("description")) else { continue };
        if let Value::Object(property) = property {
            property.insert("description".into(), d.clone());
        }
    }
}
