//! CustomResourceDefinition.

use knarr_machinery::{FieldError, Path, names};
use serde_json::{Value, json};

use crate::check::{self, Errors};
use crate::facts::Facts;
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{each, fill, fill_text, flag, is_empty, list, text, with};

static RULES: RuleSet = RuleSet {
    default,
    status: Some(
        || json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": null}),
    ),
    create,
    validate,
    validate_update: Some(update),
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
        .categories(&["api-extensions"])
        .short(&["crd", "crds"])
        .status()
        .generation()
        .build(&RULES)
}

fn default(obj: &mut Value) {
    with(obj, "/spec", |spec| {
        fill(spec, "conversion", json!({"strategy": "None"}));
        with(spec, "/conversion/webhook/clientConfig/service", |s| fill(s, "port", 443));
        with(spec, "/names", |names| {
            let kind = text(names, "/kind").to_string();
            if !kind.is_empty() {
                fill_text(names, "singular", &kind.to_lowercase());
                fill_text(names, "listKind", &format!("{kind}List"));
            }
        });
        each(spec, "/versions", |v| each(v, "/additionalPrinterColumns", |_| {}));
    });
}

/// The first stored version is the storage version.
fn create(_ctx: &Ctx<'_>, obj: &mut Value) {
    let stored: Vec<Value> = list(obj, "/spec/versions")
        .iter()
        .filter(|v| flag(v, "/storage"))
        .map(|v| Value::from(text(v, "/name")))
        .collect();
    if !stored.is_empty() {
        obj["status"]["storedVersions"] = stored.into();
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let (group, plural) = (text(obj, "/spec/group"), text(obj, "/spec/names/plural"));
    let given = text(obj, "/metadata/name");
    if given != format!("{plural}.{group}") {
        errors.push(FieldError::invalid(
            &Path::new("metadata").child("name"),
            given,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    if group.is_empty() {
        errors.push(FieldError::required(&spec.child("group"), ""));
    } else {
        check::dns_subdomain(&mut errors, group, &spec.child("group"));
        if !group.contains('.') {
            errors.push(FieldError::invalid(
                &spec.child("group"),
                group,
                "should be a domain with at least one dot",
            ));
        }
    }
    check::one_of(
        &mut errors,
        text(obj, "/spec/scope"),
        &spec.child("scope"),
        &["Cluster", "Namespaced"],
        Some(""),
    );
    if flag(obj, "/spec/preserveUnknownFields") {
        errors.push(FieldError::invalid(
            &spec.child("preserveUnknownFields"),
            true,
            "must be false in order to use defaults in the schema",
        ));
    }
    validate_names(&mut errors, obj.pointer("/spec/names").unwrap_or(&Value::Null), &spec.child("names"));
    validate_versions(&mut errors, obj, &spec.child("versions"));
    let strategy = text(obj, "/spec/conversion/strategy");
    let conversion = spec.child("conversion");
    check::one_of(&mut errors, strategy, &conversion.child("strategy"), &["None", "Webhook"], Some(""));
    let webhook = obj.pointer("/spec/conversion/webhook").is_some_and(|w| !w.is_null());
    if strategy == "None" && webhook {
        errors.push(FieldError::forbidden(
            &conversion.child("webhook"),
            "should not be set when strategy is not set to Webhook",
        ));
    }
    if strategy == "Webhook" && !webhook {
        errors.push(FieldError::required(
            &conversion.child("webhook"),
            "required when strategy is set to Webhook",
        ));
    }
    errors
}

fn validate_names(errors: &mut Errors, given: &Value, path: &Path) {
    for key in ["plural", "singular", "kind", "listKind"] {
        let value = text(given, &format!("/{key}"));
        if value.is_empty() {
            if key != "singular" {
                errors.push(FieldError::required(&path.child(key), ""));
            }
            continue;
        }
        check::names(errors, names::is_dns1035_label(&value.to_lowercase()), value.into(), &path.child(key));
    }
    let (kind, list_kind) = (text(given, "/kind"), text(given, "/listKind"));
    if !kind.is_empty() && kind == list_kind {
        errors.push(FieldError::invalid(
            &path.child("listKind"),
            list_kind,
            "kind and listKind may not be the same",
        ));
    }
    for key in ["shortNames", "categories"] {
        for (i, n) in list(given, &format!("/{key}")).iter().filter_map(Value::as_str).enumerate() {
            check::names(errors, names::is_dns1035_label(n), n.into(), &path.child(key).index(i));
        }
    }
}

fn validate_versions(errors: &mut Errors, obj: &Value, path: &Path) {
    let versions = list(obj, "/spec/versions");
    let mut seen: Vec<&str> = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        let here = path.index(i);
        let given = text(version, "/name");
        check::names(errors, names::is_dns1035_label(given), given.into(), &here.child("name"));
        if seen.contains(&given) {
            errors.push(FieldError::invalid(path, given, "must contain unique version names"));
        }
        seen.push(given);
        if is_empty(version.pointer("/schema/openAPIV3Schema")) {
            errors.push(FieldError::required(
                &here.child("schema").child("openAPIV3Schema"),
                "schemas are required",
            ));
        } else {
            let root = here.child("schema").child("openAPIV3Schema").child("type");
            let kind = text(version, "/schema/openAPIV3Schema/type");
            if kind.is_empty() {
                errors.push(FieldError::required(&root, "must not be empty at the root"));
            } else if kind != "object" {
                errors.push(FieldError::invalid(&root, kind, "must be object at the root"));
            }
        }
        for (j, column) in list(version, "/additionalPrinterColumns").iter().enumerate() {
            let at = here.child("additionalPrinterColumns").index(j);
            for key in ["name", "type", "jsonPath"] {
                if text(column, &format!("/{key}")).is_empty() {
                    errors.push(FieldError::required(&at.child(key), ""));
                }
            }
            let types = ["integer", "number", "string", "boolean", "date"];
            check::one_of(errors, text(column, "/type"), &at.child("type"), &types, None);
        }
    }
    if versions.iter().filter(|v| flag(v, "/storage")).count() != 1 {
        errors.push(FieldError::invalid(
            path,
            versions.to_vec(),
            "must have exactly one version marked as storage version",
        ));
    }
}

fn update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    if ctx.subresource == Some("status") {
        return Vec::new();
    }
    let mut errors = validate(ctx, obj);
    let established = list(old, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == "Established" && text(c, "/status") == "True");
    if established {
        for (key, pointer) in [("scope", "/spec/scope"), ("names.kind", "/spec/names/kind")] {
            let path = Path::new("spec").child(key);
            check::immutable(&mut errors, obj.pointer(pointer), old.pointer(pointer), &path);
        }
    }
    for (key, pointer) in [("group", "/spec/group"), ("names.plural", "/spec/names/plural")] {
        let path = Path::new("spec").child(key);
        check::immutable(&mut errors, obj.pointer(pointer), old.pointer(pointer), &path);
    }
    errors
}
