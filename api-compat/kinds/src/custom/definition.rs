//! What is wrong with a CustomResourceDefinition. Paths are those of upstream's internal form: what all versions have
//! alike stands at `spec`, as `spec.validation`, `spec.subresources` and so on.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::custom::schema::Schema;
use crate::custom::{cel, prune, structural};
use crate::value::{drop_key, flag, go_form, is_empty, list, text};

mod openapi;
pub(in crate::custom) mod parts;

pub(in crate::custom) use openapi::unrecognized_formats;

/// Errors of `spec`, on create and update. `old` is the definition before, None on create.
pub(crate) fn validate(crd: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    group(&mut errors, text(crd, "/spec/group"), &spec.child("group"));
    let scopes = ["Cluster", "Namespaced"];
    check::one_of(&mut errors, text(crd, "/spec/scope"), &spec.child("scope"), &scopes, Some(""));
    let versions = list(crd, "/spec/versions");
    let schema_of = |v: &'_ Value| v.pointer("/schema/openAPIV3Schema").is_some_and(|s| !s.is_null());
    for (i, _) in versions.iter().enumerate().filter(|(_, v)| !schema_of(v)) {
        let at = spec.child("versions").index(i).child("schema").child("openAPIV3Schema");
        errors.push(FieldError::required(&at, ""));
    }
    let preserve = flag(crd, "/spec/preserveUnknownFields");
    let defaults = |v: &Value| {
        v.pointer("/schema/openAPIV3Schema").is_some_and(|s| Schema::parse(s).any(&|s| s.default.is_some()))
    };
    if preserve && versions.iter().any(defaults) {
        let text = "must be false in order to use defaults in the schema";
        errors.push(FieldError::invalid(&spec.child("preserveUnknownFields"), true, text));
    }
    let shared = |key: &str| shared(versions, key);
    for (i, version) in versions.iter().enumerate() {
        one_version(&mut errors, version, &spec.child("versions").index(i), &shared);
    }
    version_list(&mut errors, crd, &spec.child("versions"));
    // Upstream's internal form repeats the first version's name.
    let first = versions.first().map(|v| text(v, "/name")).unwrap_or_default();
    let found = names::is_dns1035_label(first);
    if !first.is_empty() && !found.is_empty() {
        errors.push(FieldError::invalid(&spec.child("version"), first, found.join(",")));
    }
    let given = crd.pointer("/spec/names").cloned().unwrap_or_default();
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(&given, &format!("/{key}")).is_empty() {
            errors.push(FieldError::required(&spec.child("names").child(key), ""));
        }
    }
    validate_names(&mut errors, &given, &spec.child("names"));
    if let Some(first) = versions.first() {
        let any_status = versions.iter().any(has_status);
        if let (true, Some(schema)) = (shared("schema"), first.get("schema")) {
            openapi::validate(&mut errors, schema, any_status, &spec.child("validation"));
        }
        if let (true, Some(subresources)) = (shared("subresources"), first.get("subresources")) {
            parts::subresources(&mut errors, subresources, &spec.child("subresources"));
        }
        if shared("additionalPrinterColumns") {
            parts::columns(&mut errors, first, &spec.child("additionalPrinterColumns"));
        }
        if shared("selectableFields") {
            parts::selectable(&mut errors, first, &spec.child("selectableFields"));
        }
    }
    conversion(&mut errors, crd, &spec.child("conversion"));
    stored_versions(&mut errors, crd);
    api_approval(&mut errors, crd, old);
    if preserve && !old.is_some_and(|o| flag(o, "/spec/preserveUnknownFields")) {
        let text = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(&spec.child("preserveUnknownFields"), true, text));
    }
    errors
}

/// Whether all versions have the same value, so that upstream keeps it once.
fn shared(versions: &[Value], key: &str) -> bool {
    let first = versions.first().and_then(|v| v.get(key));
    versions.iter().all(|v| check::same(v.get(key), first))
}

fn has_status(version: &Value) -> bool {
    version.pointer("/subresources/status").is_some_and(|v| !v.is_null())
}

fn group(errors: &mut Errors, group: &str, path: &Path) {
    let found = names::is_dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !found.is_empty() {
        errors.push(FieldError::invalid(path, group, found.join(",")));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid(path, group, "should be a domain with at least one dot"));
    }
}

fn one_version(errors: &mut Errors, version: &Value, path: &Path, shared: &dyn Fn(&str) -> bool) {
    let name = text(version, "/name");
    let found = names::is_dns1035_label(name);
    if !found.is_empty() {
        errors.push(FieldError::invalid(&path.child("name"), name, found.join(",")));
    }
    parts::deprecation(errors, version, &path.child("deprecationWarning"));
    if let (false, Some(schema)) = (shared("schema"), version.get("schema")) {
        openapi::validate(errors, schema, has_status(version), &path.child("schema"));
    }
    if let (false, Some(subresources)) = (shared("subresources"), version.get("subresources")) {
        parts::subresources(errors, subresources, &path.child("subresources"));
    }
    if !shared("additionalPrinterColumns") {
        parts::columns(errors, version, &path.child("additionalPrinterColumns"));
    }
    if !shared("selectableFields") {
        parts::selectable(errors, version, &path.child("selectableFields"));
    }
}

fn version_list(errors: &mut Errors, crd: &Value, path: &Path) {
    let versions = list(crd, "/spec/versions");
    let names: Vec<&str> = versions.iter().map(|v| text(v, "/name")).collect();
    let mut tell = |detail: &str| {
        let given = crd.pointer("/spec/versions").cloned().unwrap_or_default();
        let error = FieldError::invalid(path, given, detail);
        errors.push(if versions.is_empty() { error } else { error.shown_as(shown_versions(versions)) });
    };
    if (1..names.len()).any(|i| names[..i].contains(&names[i])) {
        tell("must contain unique version names");
    }
    if versions.iter().filter(|v| flag(v, "/storage")).count() != 1 {
        tell("must have exactly one version marked as storage version");
    }
}

/// The versions as upstream shows them: what all have alike is not repeated in each.
fn shown_versions(versions: &[Value]) -> String {
    const ALIKE: [(&str, &str, &str); 4] = [
        ("Schema", "schema", "null"),
        ("Subresources", "subresources", "null"),
        ("AdditionalPrinterColumns", "additionalPrinterColumns", "null"),
        ("SelectableFields", "selectableFields", "null"),
    ];
    let mut fields = vec![
        ("Name", "name", "\"\""),
        ("Served", "served", "false"),
        ("Storage", "storage", "false"),
        ("Deprecated", "deprecated", "false"),
        ("DeprecationWarning", "deprecationWarning", "null"),
    ];
    fields.extend(ALIKE);
    let shown = versions.iter().map(|version| {
        let mut version = version.clone();
        for (_, key, _) in ALIKE.iter().filter(|(_, key, _)| shared(versions, key)) {
            drop_key(&mut version, key);
        }
        go_form(&version, &fields)
    });
    format!("[{}]", shown.collect::<Vec<_>>().join(","))
}

/// The form of names, wanted or accepted.
pub(crate) fn validate_names(errors: &mut Errors, given: &Value, path: &Path) {
    for key in ["plural", "singular", "kind", "listKind"] {
        let value = text(given, &format!("/{key}"));
        let mixed = matches!(key, "kind" | "listKind");
        let found = names::is_dns1035_label(&if mixed { value.to_lowercase() } else { value.to_string() });
        if !value.is_empty() && !found.is_empty() {
            let head = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.push(FieldError::invalid(&path.child(key), value, format!("{head}{}", found.join(","))));
        }
    }
    let each = |errors: &mut Errors, key: &str| {
        for (i, n) in list(given, &format!("/{key}")).iter().filter_map(Value::as_str).enumerate() {
            let found = names::is_dns1035_label(n);
            if !found.is_empty() {
                errors.push(FieldError::invalid(&path.child(key).index(i), n, found.join(",")));
            }
        }
    };
    each(errors, "shortNames");
    let (kind, list_kind) = (text(given, "/kind"), text(given, "/listKind"));
    if !kind.is_empty() && kind == list_kind {
        let text = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(&path.child("listKind"), list_kind, text));
    }
    each(errors, "categories");
}

fn conversion(errors: &mut Errors, crd: &Value, path: &Path) {
    let Some(conversion) = crd.pointer("/spec/conversion").filter(|c| !c.is_null()) else { return };
    let strategy = text(conversion, "/strategy");
    check::one_of(errors, strategy, &path.child("strategy"), &["None", "Webhook"], Some(""));
    let client = conversion.pointer("/webhook/clientConfig").filter(|c| !c.is_null());
    let reviews = list(conversion, "/webhook/conversionReviewVersions");
    let config = path.child("webhookClientConfig");
    if strategy != "Webhook" {
        let text = "should not be set when strategy is not set to Webhook";
        if client.is_some() {
            errors.push(FieldError::forbidden(&config, text));
        }
        if !reviews.is_empty() {
            errors.push(FieldError::forbidden(&path.child("conversionReviewVersions"), text));
        }
        return;
    }
    match client {
        None => errors.push(FieldError::required(&config, "required when strategy is set to Webhook")),
        Some(c) if c.get("url").is_some() == c.get("service").is_some() => {
            errors.push(FieldError::required(&config, "exactly one of url or service is required"));
        }
        Some(_) => {}
    }
    parts::review_versions(errors, reviews, &path.child("conversionReviewVersions"));
    if client.is_some() {
        // Nothing here calls conversion webhooks yet: a definition that needs one is refused, not half served.
        errors.push(FieldError::forbidden(
            &path.child("strategy"),
            "conversion webhooks are not supported by this server yet; use strategy None",
        ));
    }
}

/// Errors of `status.storedVersions`.
pub(crate) fn stored_versions(errors: &mut Errors, crd: &Value) {
    let path = Path::new("status").child("storedVersions");
    let stored: Vec<&str> = list(crd, "/status/storedVersions").iter().filter_map(Value::as_str).collect();
    if stored.is_empty() {
        let text = "must have at least one stored version";
        errors.push(FieldError::invalid(&path, Value::Null, text));
        return;
    }
    let versions = list(crd, "/spec/versions");
    for v in versions.iter().filter(|v| flag(v, "/storage") && !stored.contains(&text(v, "/name"))) {
        let text = format!("must have the storage version {}", text(v, "/name"));
        errors.push(FieldError::invalid(&path, stored.clone(), text));
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|v| text(v, "/name") == *name) {
            let text = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(&path.index(i), *name, text));
        }
    }
}

/// Groups of Kubernetes itself ask for a word about their approval.
fn api_approval(errors: &mut Errors, crd: &Value, old: Option<&Value>) {
    const KEY: &str = "api-approved.kubernetes.io";
    let group = text(crd, "/spec/group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|g| group == *g || group.strip_suffix(g).is_some_and(|h| h.ends_with('.')));
    if !protected {
        return;
    }
    let state = |o: &Value| {
        let word =
            o.pointer("/metadata/annotations").and_then(|a| a.get(KEY)).and_then(Value::as_str).unwrap_or("");
        let address =
            word.split_once("://").is_some_and(|(scheme, host)| !scheme.is_empty() && !host.is_empty());
        match word {
            "" => (0, word.to_string()),
            w if w.starts_with("unapproved") || address => (1, word.to_string()),
            _ => (2, word.to_string()),
        }
    };
    let (now, word) = state(crd);
    if old.is_some_and(|o| state(o).0 == now) || now == 1 {
        return;
    }
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let at = Path::new("metadata").child("annotations").key(KEY);
    errors.push(if now == 0 {
        FieldError::required(&at, format!("protected groups must have approval annotation \"{KEY}\", {see}"))
    } else {
        let either = "with either a URL or a reason starting with \"unapproved\"";
        FieldError::invalid(
            &at,
            word,
            format!("protected groups must have approval annotation \"{KEY}\" {either}, {see}"),
        )
    });
}

/// Errors of an update of the main resource.
pub(crate) fn validate_update(crd: &Value, old: &Value) -> Errors {
    let mut errors = validate(crd, Some(old));
    let mut fixed: Vec<(&str, &str)> = vec![("group", "/spec/group"), ("names.plural", "/spec/names/plural")];
    if crate::custom::status::is_true(old, "Established") {
        fixed.splice(0..0, [("scope", "/spec/scope"), ("names.kind", "/spec/names/kind")]);
    }
    for (key, pointer) in fixed {
        let path = Path::new("spec").child(key);
        check::immutable(&mut errors, crd.pointer(pointer), old.pointer(pointer), &path);
    }
    errors
}

/// Errors of the defaults in a structural schema.
fn default_errors(schema: &Schema, path: &Path, root: bool) -> Errors {
    let mut errors = Vec::new();
    defaults(schema, path, root, false, &mut errors);
    errors
}

fn defaults(s: &Schema, path: &Path, resource: bool, inside_meta: bool, errors: &mut Errors) {
    let inside_meta = inside_meta && !s.embedded;
    // The root is a resource even where the schema does not say so.
    let whole =
        (resource && !s.embedded && s.default.is_some()).then(|| Schema { embedded: true, ..s.clone() });
    let s = whole.as_ref().unwrap_or(s);
    if let Some(given) = &s.default {
        let at = path.child("default");
        if !inside_meta {
            let mut pruned = given.clone();
            prune::prune_part(&mut pruned, s);
            if pruned != *given {
                errors.push(FieldError::invalid(&at, given.clone(), "must not have unknown fields"));
            }
            errors.extend(crate::custom::embedded::validate(s, given, &at));
        }
        let found = crate::custom::values::validate(s, given, &at);
        if found.is_empty() {
            errors.extend(cel::check_default(s, given, &at));
        }
        errors.extend(found);
    }
    if let Some(items) = &s.items {
        defaults(items, &path.child("items"), false, inside_meta, errors);
    }
    for (key, below) in &s.properties {
        let meta = (resource || s.embedded) && matches!(key.as_str(), "metadata" | "apiVersion" | "kind");
        defaults(below, &path.child("properties").key(key), false, inside_meta || meta, errors);
    }
}

/// Structural violations, or if there are none errors of defaults.
fn structure_errors(schema: &Schema, path: &Path) -> Errors {
    // Constructs that have no structural form are told elsewhere, and alone.
    if schema.any(&|s| !s.unsupported.is_empty()) {
        return Vec::new();
    }
    let found = structural::violations(schema, path);
    if found.is_empty() { default_errors(schema, path, true) } else { found }
}

/// Whether a document says nothing in a field.
fn absent(doc: &Value, key: &str) -> bool {
    is_empty(doc.get(key))
}
