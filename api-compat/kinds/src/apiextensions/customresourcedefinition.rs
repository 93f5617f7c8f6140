//! CustomResourceDefinition.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::custom::{definition, status, warnings};
use crate::facts::{CREATED_AT, Facts, NAME};
use crate::kind::{Ctx, Kind, Warnings};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{each, fill, fill_text, flag, list, name, text, with};

static RULES: RuleSet = RuleSet {
    default,
    status: Some(
        || json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": null}),
    ),
    create,
    update,
    validate,
    validate_update: Some(validate_update),
    warnings: |ctx, obj, old| {
        if ctx.subresource.is_some() { Warnings::new() } else { warnings::of(obj, old) }
    },
    unconditional_update: false,
    row,
    begin_delete: |crd, now| {
        status::begin_deletion(crd, now);
        true
    },
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
        .categories(&["api-extensions"])
        .short(&["crd", "crds"])
        .status()
        .generation()
        .columns(&[
            NAME,
            ("Scope", "string", 0, "Cluster/Namespaced"),
            ("Versions", "string", 0, "Served versions"),
            CREATED_AT,
            ("Group", "string", 1, "API group"),
            ("Kind", "string", 1, "CustomResource kind"),
            ("ShortNames", "string", 1, "Short names"),
            ("Established", "boolean", 1, "Established status"),
        ])
        .build(&RULES)
}

fn row(obj: &Value, _now: &str) -> Vec<Value> {
    let mut versions: Vec<String> = list(obj, "/spec/versions")
        .iter()
        .filter(|v| flag(v, "/served"))
        .map(|v| format!("{}{}", text(v, "/name"), if flag(v, "/storage") { "(storage)" } else { "" }))
        .collect();
    versions.sort();
    let short: Vec<&str> = list(obj, "/spec/names/shortNames").iter().filter_map(Value::as_str).collect();
    vec![
        name(obj),
        text(obj, "/spec/scope").into(),
        versions.join(",").into(),
        text(obj, "/metadata/creationTimestamp").into(),
        text(obj, "/spec/group").into(),
        text(obj, "/spec/names/kind").into(),
        short.join(",").into(),
        status::is_true(obj, "Established").into(),
    ]
}

fn default(obj: &mut Value) {
    with(obj, "/spec", |spec| {
        fill(spec, "conversion", json!({"strategy": "None"}));
        each(spec, "/versions", |v| with(v, "/schema/openAPIV3Schema", drop_null_defaults));
        with(spec, "/conversion/webhook/clientConfig/service", |s| fill(s, "port", 443));
        with(spec, "/names", |names| {
            let kind = text(names, "/kind").to_string();
            if !kind.is_empty() {
                fill_text(names, "singular", &kind.to_lowercase());
                fill_text(names, "listKind", &format!("{kind}List"));
            }
        });
    });
}

/// `default: null` says nothing.
fn drop_null_defaults(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["default", "example"] {
        if map.get(key).is_some_and(Value::is_null) {
            map.remove(key);
        }
    }
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "definitions", Value::Object(all)) => {
                all.values_mut().for_each(drop_null_defaults);
            }
            ("items" | "additionalProperties" | "not", v) => drop_null_defaults(v),
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => all.iter_mut().for_each(drop_null_defaults),
            _ => {}
        }
    }
}

fn create(_ctx: &Ctx<'_>, obj: &mut Value) {
    add_stored_version(obj);
}

fn update(ctx: &Ctx<'_>, obj: &mut Value, _old: &Value) {
    if ctx.subresource != Some("status") {
        add_stored_version(obj);
    }
}

/// The version that is stored from now on belongs to those that may be found in storage.
fn add_stored_version(obj: &mut Value) {
    let Some(name) =
        list(obj, "/spec/versions").iter().find(|v| flag(v, "/storage")).map(|v| v["name"].clone())
    else {
        return;
    };
    let mut stored = list(obj, "/status/storedVersions").to_vec();
    if !stored.contains(&name) {
        stored.push(name);
        obj["status"]["storedVersions"] = stored.into();
    }
}

fn name_error(obj: &Value) -> Option<FieldError> {
    let (group, plural) = (text(obj, "/spec/group"), text(obj, "/spec/names/plural"));
    let given = text(obj, "/metadata/name");
    (given != format!("{plural}.{group}")).then(|| {
        let text = "must be spec.names.plural+\".\"+spec.group";
        FieldError::invalid(&Path::new("metadata").child("name"), given, text)
    })
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = name_error(obj).into_iter().collect();
    errors.extend(definition::validate(obj, None));
    errors
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    if ctx.subresource == Some("status") {
        let mut errors = Vec::new();
        if let Some(names) = obj.pointer("/status/acceptedNames") {
            let path = Path::new("status").child("acceptedNames");
            definition::validate_names(&mut errors, names, &path);
        }
        return errors;
    }
    definition::validate_update(obj, old)
}
