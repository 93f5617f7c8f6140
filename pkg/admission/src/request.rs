//! A write as plugins see it.

use std::collections::BTreeSet;

use knarr_kinds::Kind;
use knarr_machinery::{ApiError, GroupVersionKind, GroupVersionResource, UserInfo, meta};
use parking_lot::Mutex;
use serde_json::Value;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// A removed object.
    Delete,
    /// A stream to an object (exec, attach, portforward, proxy).
    Connect,
}

/// A write.
#[derive(Debug)]
pub struct Request<'a> {
    /// What it does.
    pub operation: Operation,
    /// Kind of the object (Binding, Eviction, ... for subresources with documents of their own).
    pub kind: &'a GroupVersionKind,
    /// Resource, without subresource.
    pub resource: &'a GroupVersionResource,
    /// Subresource.
    pub subresource: Option<&'a str>,
    /// Namespace, "" for cluster scope.
    pub namespace: &'a str,
    /// Name; may be "" on create.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The new object; None on delete.
    pub object: Option<Value>,
    /// The present object; None on create.
    pub old: Option<&'a Value>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// CreateOptions, UpdateOptions, DeleteOptions.
    pub options: &'a Value,
    /// Warnings for the client.
    pub warnings: Vec<String>,
    /// The kind of the main resource, in the version of the request.
    pub served: Option<&'a Kind>,
    /// What is kept between the two rounds of mutation.
    pub rounds: Rounds,
    /// Warnings of validation, which only looks at the request.
    pub noted: Notes,
}

/// Warnings that come up while a request is only looked at.
#[derive(Debug, Default)]
pub struct Notes(Mutex<Vec<String>>);

impl Notes {
    /// Adds one.
    pub fn add(&self, warning: String) {
        self.0.lock().push(warning);
    }

    /// Takes them all.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// The rounds of mutation: when a webhook or policy changes an object, plugins see it once more.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Whether this is the second one.
    pub second: bool,
    /// Whether a second one is needed.
    pub wanted: bool,
    pub(crate) webhooks: Called,
    pub(crate) policies: Called,
}

/// Who was called in the first round.
#[derive(Debug, Default)]
pub(crate) struct Called {
    /// The object when the last one was done.
    pub output: Option<Value>,
    /// Those who want to be called again when the object changes after them.
    pub willing: BTreeSet<String>,
    /// Those after whom it did.
    pub due: BTreeSet<String>,
}

impl Called {
    /// The object changed: all willing ones are due.
    pub fn changed(&mut self) {
        self.due.append(&mut self.willing);
    }
}

impl Request<'_> {
    /// Whether the write is of this resource (core group: "").
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.resource.group == group && self.resource.resource == resource
    }

    /// Whether the write is of this resource itself, not of a subresource.
    pub fn is_main(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_none() && self.is(group, resource)
    }

    /// The new object, or null.
    pub fn new_object(&self) -> &Value {
        self.object.as_ref().unwrap_or(&Value::Null)
    }

    /// The present object, or null.
    pub fn old_object(&self) -> &Value {
        self.old.unwrap_or(&Value::Null)
    }

    /// The name for messages: of the request, of the object, or its generateName.
    pub fn shown_name(&self) -> &str {
        let object = self.new_object();
        [self.name, meta::name(object), meta::generate_name(object)]
            .into_iter()
            .find(|n| !n.is_empty())
            .unwrap_or_default()
    }

    /// The name: of the request, or of the object; "" where it is yet to be made.
    pub fn object_name(&self) -> &str {
        if self.name.is_empty() { meta::name(self.new_object()) } else { self.name }
    }

    /// 403 naming resource and object: `pods "x" is forbidden: <cause>`.
    pub fn forbidden(&self, cause: impl AsRef<str>) -> ApiError {
        ApiError::forbidden(&self.resource.group_resource(), self.shown_name(), cause.as_ref())
    }
}

/// Several errors as one text, as upstream joins them.
pub(crate) fn aggregate(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Owned parts of a request.
    pub(crate) struct Case {
        pub operation: Operation,
        pub kind: GroupVersionKind,
        pub resource: GroupVersionResource,
        pub subresource: Option<&'static str>,
        pub user: UserInfo,
        pub object: Option<Value>,
        pub old: Option<Value>,
    }

    impl Case {
        pub fn new(
            operation: Operation,
            group: &'static str,
            kind: &'static str,
            resource: &'static str,
        ) -> Self {
            Self {
                operation,
                kind: GroupVersionKind::new(group, "v1", kind),
                resource: GroupVersionResource::new(group, "v1", resource),
                subresource: None,
                user: UserInfo::component("jane", &[]),
                object: None,
                old: None,
            }
        }

        pub fn request(&self) -> Request<'_> {
            let any = self.object.as_ref().or(self.old.as_ref()).unwrap_or(&Value::Null);
            Request {
                operation: self.operation,
                kind: &self.kind,
                resource: &self.resource,
                subresource: self.subresource,
                namespace: meta::namespace(any),
                name: meta::name(any),
                user: &self.user,
                object: self.object.clone(),
                old: self.old.as_ref(),
                dry_run: false,
                options: &Value::Null,
                warnings: Vec::new(),
                served: None,
                rounds: Rounds::default(),
                noted: Notes::default(),
            }
        }
    }
}
