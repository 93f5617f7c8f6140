//! Label and field selectors of a request, judged on index entries.

use knarr_kinds::Kind;
use knarr_machinery::fields::FieldSelector;
use knarr_machinery::labels::Selector;
use knarr_machinery::{ApiError, Str};

use crate::cache::Entry;

/// What a list, watch or deletecollection asks for.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    labels: Option<Selector>,
    fields: Option<FieldSelector>,
    /// The one name that can match, from `metadata.name=`.
    name: Option<String>,
    /// The request's version has other fields than the stored one: convert before judging.
    convert: Option<Kind>,
}

impl Selection {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Parses and checks the two selectors for a kind.
    ///
    /// # Errors
    /// 400 for text that does not parse or fields that the kind does not offer.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let mut selection = Self::default();
        if !labels.is_empty() {
            selection.labels =
                Some(Selector::parse(labels).map_err(|e| ApiError::bad_request(e.to_string()))?);
        }
        if !fields.is_empty() {
            let selector = FieldSelector::parse(fields).map_err(|e| ApiError::bad_request(e.to_string()))?;
            let known = |f: &str| {
                matches!(f, "metadata.name" | "metadata.namespace")
                    || kind.info.selectable_fields.iter().any(|k| k == f)
            };
            let mut foreign = false;
            for requirement in selector.requirements() {
                let field: &str = &requirement.field;
                if !known(field) {
                    return Err(ApiError::bad_request(unknown_field(kind, field)));
                }
                foreign |= !field.starts_with("metadata.");
                if field == "metadata.name" && requirement.equal {
                    selection.name = Some(requirement.value.to_string());
                }
            }
            let stored = crate::registry::is_stored_version(kind);
            // What a webhook converts is converted before it is judged.
            if foreign && !stored && kind.rules.conversion().is_none() {
                selection.convert = Some(kind.clone());
            }
            selection.fields = Some(selector);
        }
        Ok(selection)
    }

    /// Adds `metadata.name=<name>` (a request for one object by path).
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.name = Some(name.to_string());
        self
    }

    /// The selection without what depends on the version of an object, and whether there was such a thing.
    #[must_use]
    pub fn without_fields(mut self) -> (Self, bool) {
        let selected = self.fields.take().is_some();
        self.convert = None;
        (self, selected)
    }

    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none() && self.name.is_none()
    }

    /// The one name that can match, if there is one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Judges an entry.
    pub fn matches(&self, entry: &Entry) -> bool {
        if self.name.as_deref().is_some_and(|n| n != &*entry.name) {
            return false;
        }
        if let Some(labels) = &self.labels
            && !labels.matches_fn(|key| entry.label(key))
        {
            return false;
        }
        match (&self.fields, &self.convert) {
            (None, _) => true,
            (Some(fields), None) => fields.matches(|name| indexed(entry, name)),
            (Some(fields), Some(kind)) => converted(entry, kind)
                .is_some_and(|values| fields.matches(|name| value_of(entry, &values, name))),
        }
    }
}

fn unknown_field(kind: &Kind, field: &str) -> String {
    if kind.info.selectable_fields.is_empty() && !kind.info.custom {
        format!("\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {field}")
    }
}

fn indexed(entry: &Entry, name: &str) -> Option<String> {
    match name {
        "metadata.name" => Some(entry.name.to_string()),
        "metadata.namespace" => Some(entry.namespace.to_string()),
        _ => entry.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_string()),
    }
}

fn converted(entry: &Entry, kind: &Kind) -> Option<Vec<(Str, String)>> {
    Some(kind.rules.fields(&crate::registry::read(kind, entry).ok()?))
}

fn value_of(entry: &Entry, values: &[(Str, String)], name: &str) -> Option<String> {
    match name {
        "metadata.name" => Some(entry.name.to_string()),
        "metadata.namespace" => Some(entry.namespace.to_string()),
        _ => values.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()),
    }
}
