//! Rules in CEL (`x-kubernetes-validations`).

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::custom::schema::Schema;

/// The compiled rules of a schema.
#[derive(Debug)]
pub(crate) struct CelRules;

impl CelRules {
    /// None when there are no rules.
    pub fn new(_schema: &Schema) -> Option<Self> {
        None
    }

    /// Errors of an object.
    pub fn check(&self, _schema: &Schema, _obj: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        Vec::new()
    }
}

/// Errors of a default.
pub(crate) fn check_default(_schema: &Schema, _value: &Value, _path: &Path) -> Vec<FieldError> {
    Vec::new()
}

/// Errors of the rules of a definition.
pub(crate) fn definition_errors(schema: &Schema, path: &Path, _unchanged: bool) -> Vec<FieldError> {
    if schema.any(&|s| !s.rules.is_empty()) {
        let at = path.child("x-kubernetes-validations");
        return vec![FieldError::forbidden(&at, "rules are not supported by this server yet")];
    }
    Vec::new()
}
