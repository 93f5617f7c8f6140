//! Where admission and allocation enter a write.

use async_trait::async_trait;
use knarr_kinds::Kind;
use knarr_machinery::{ApiError, UserInfo};
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

/// A write as admission sees it.
#[derive(Debug)]
pub struct Admission<'a> {
    /// What it does.
    pub operation: Operation,
    /// The kind (of the main resource).
    pub kind: &'a Kind,
    /// Group, version, kind of `object` (differs from `kind` for scale, binding, eviction).
    pub gvk: &'a knarr_machinery::GroupVersionKind,
    /// Subresource, if any.
    pub subresource: Option<&'a str>,
    /// Namespace, "" for cluster scope.
    pub namespace: &'a str,
    /// Name; may be empty on create with generateName.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The new object; None on delete.
    pub object: Option<Value>,
    /// The present object; None on create.
    pub old: Option<&'a Value>,
    /// Whether nothing will be persisted.
    pub dry_run: bool,
    /// The options document (CreateOptions, ...).
    pub options: &'a Value,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// Called once a reservation's write has ended; `true` when it was stored.
pub type Settle = Box<dyn FnOnce(bool) + Send>;

/// Mutating and validating admission, allocation of cluster-unique values, and release after deletes.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// May change `object`.
    async fn mutate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        let _ = admission;
        Ok(())
    }

    /// May refuse.
    async fn validate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        let _ = admission;
        Ok(())
    }

    /// Reserves cluster-unique values (service addresses) and writes them into `object`; called before validation.
    async fn allocate(&self, admission: &mut Admission<'_>) -> Result<Option<Settle>, ApiError> {
        let _ = admission;
        Ok(None)
    }

    /// An object has gone from storage.
    fn deleted(&self, kind: &Kind, object: &Value) {
        let _ = (kind, object);
    }
}

/// Admits everything: for the system's own bootstrap writes and for tests.
#[derive(Debug, Default, Clone, Copy)]
pub struct AllowAll;

#[async_trait]
impl Hooks for AllowAll {}
