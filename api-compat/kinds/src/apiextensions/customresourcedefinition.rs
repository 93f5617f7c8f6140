//! CustomResourceDefinition.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::custom::{definition, status, warnings};
use crate::facts::Facts;
use crate::kind::{Ctx, Kind, Warnings};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{fill, fill_text, flag, list, text, with};

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
    });
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
