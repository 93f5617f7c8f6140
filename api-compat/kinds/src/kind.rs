//! The kind contract: [`KindInfo`] (facts) and [`Rules`] (pure behaviour), joined in [`Kind`].

use std::sync::Arc;

use knarr_machinery::decode::{self, Finding};
use knarr_machinery::types::TypeRef;
use knarr_machinery::{ApiError, FieldError, GroupResource, GroupVersionKind, Str, UserInfo};
use serde_json::Value;

/// Whether objects live in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the whole cluster.
    Cluster,
    /// In a namespace.
    Namespaced,
}

/// The verbs of discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// As written in discovery and RBAC.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// A subresource as discovery lists it, such as `status`, `scale`, `log`, `binding`.
#[derive(Debug, Clone, PartialEq)]
pub struct Subresource {
    /// Name after the slash.
    pub name: Str,
    /// Group, version and kind of its document (`autoscaling/v1 Scale` for `scale`); discovery's
    /// `responseKind`.
    pub gvk: GroupVersionKind,
    /// Verbs in discovery's order.
    pub verbs: Vec<Verb>,
}

/// Where objects of a kind are stored; several versions may share one place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Storage {
    /// Group and plural of the stored resource. Keys are `/registry/<plural>[.<group>]/[<namespace>/]<name>`;
    /// core resources have no group part.
    pub resource: GroupResource,
    /// Version whose form is stored.
    pub version: Str,
}

/// A printer column (`kubectl get`).
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Header, such as `Name`.
    pub name: Str,
    /// OpenAPI type: string, integer, number, boolean, date.
    pub kind: Str,
    /// Format, `name` for the name column.
    pub format: Str,
    /// Description as Table column definitions carry it.
    pub description: Str,
    /// 0 is always shown, above 0 with `-o wide`.
    pub priority: i32,
}

/// The facts about one group/version/resource.
#[derive(Debug, Clone)]
pub struct KindInfo {
    /// Group, version and kind.
    pub gvk: GroupVersionKind,
    /// Kind of the list document, `PodList`.
    pub list_kind: Str,
    /// Plural resource name in paths.
    pub plural: Str,
    /// Singular name for kubectl.
    pub singular: Str,
    /// Scope.
    pub scope: Scope,
    /// Short names, such as `po`.
    pub short_names: Vec<Str>,
    /// Categories, such as `all`.
    pub categories: Vec<Str>,
    /// Verbs in discovery's order (alphabetical).
    pub verbs: Vec<Verb>,
    /// Subresources sorted by name.
    pub subresources: Vec<Subresource>,
    /// Place of storage. `None` for virtual kinds that only take create (TokenReview, SubjectAccessReview, ...).
    pub storage: Option<Storage>,
    /// Types of the whole document, for pruning, patching, applying, protobuf.
    pub types: TypeRef,
    /// OpenAPI definition name, `io.k8s.api.apps.v1.Deployment`.
    pub definition: Str,
    /// Whether `metadata.generation` is counted (raised when anything outside metadata and status changes).
    pub has_generation: bool,
    /// Printer columns.
    pub columns: Vec<Column>,
    /// Field selectors allowed besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<Str>,
    /// From a CustomResourceDefinition.
    pub custom: bool,
}

impl KindInfo {
    /// Group and plural.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.gvk.group.clone(), resource: self.plural.clone() }
    }

    /// The subresource with this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// Warnings for the client (`Warning` response headers).
pub type Warnings = Vec<String>;

/// What a rule may know about the request.
#[derive(Debug, Clone)]
pub struct Ctx<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// Namespace of the request, "" for cluster scope.
    pub namespace: &'a str,
    /// Subresource that is written, if any.
    pub subresource: Option<&'a str>,
    /// Now, RFC 3339 with seconds in UTC (`2026-01-02T03:04:05Z`).
    pub now: &'a str,
    /// A fresh UID for rules that need a second one (Job controller-uid labels, ...).
    pub uid: &'a str,
}

/// What a delete does to an object (upstream's graceful delete strategy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletePlan {
    /// The object goes at once (subject to finalizers).
    Now,
    /// deletionTimestamp is set this many seconds ahead; somebody (the kubelet) deletes it later with grace 0.
    Graceful(i64),
}

/// The behaviour of a kind. Every method has the default of upstream's generic strategy.
///
/// Documents are JSON objects of the version named in [`KindInfo::gvk`], already decoded, converted, strictly
/// checked and pruned. Rules never see protobuf.
pub trait Rules: Send + Sync {
    /// Fills the defaults of `pkg/apis/<group>/<version>/defaults.go`.
    fn default(&self, obj: &mut Value) {
        let _ = obj;
    }

    /// Before validation of a create: drops status, sets initial fields.
    fn prepare_create(&self, ctx: &Ctx<'_>, obj: &mut Value) {
        let _ = (ctx, obj);
    }

    /// Before validation of an update: on the main resource keeps the old status, on `status` keeps the old spec,
    /// and so on for the kind's other subresources (`ctx.subresource`).
    fn prepare_update(&self, ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
        let _ = (ctx, obj, old);
    }

    /// All errors of a new object at once. Object metadata is checked by the registry before.
    fn validate(&self, ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
        let _ = (ctx, obj);
        Vec::new()
    }

    /// All errors of a changed object at once, the subresource given by `ctx`.
    fn validate_update(&self, ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
        let _ = old;
        self.validate(ctx, obj)
    }

    /// Warnings on create (`old` is None) and update.
    fn warnings(&self, ctx: &Ctx<'_>, obj: &Value, old: Option<&Value>) -> Warnings {
        let _ = (ctx, obj, old);
        Warnings::new()
    }

    /// Check of `metadata.name`; returns the messages of upstream's name functions. The default is DNS subdomain.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String>;

    /// Whether an update by PUT or apply may create the object (`AllowCreateOnUpdate`).
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether an update without resourceVersion is allowed (`AllowUnconditionalUpdate`).
    fn unconditional_update(&self) -> bool {
        true
    }

    /// The plan for a delete with this requested grace period in seconds.
    fn delete_plan(&self, obj: &Value, requested: Option<i64>) -> DeletePlan {
        let _ = (obj, requested);
        DeletePlan::Now
    }

    /// Whether propagation defaults to orphaning (`batch/v1` Job by the old default, ReplicationController).
    fn orphan_by_default(&self) -> bool {
        false
    }

    /// The cells of a Table row, in the order of [`KindInfo::columns`]. `now` as in [`Ctx::now`].
    fn row(&self, obj: &Value, now: &str) -> Vec<Value>;

    /// Values of the selectable fields (name, value), `metadata.*` excluded.
    fn fields(&self, obj: &Value) -> Vec<(Str, String)> {
        let _ = obj;
        Vec::new()
    }

    /// Converts a stored document (storage version) to this version.
    ///
    /// # Errors
    /// A form that cannot be told in this version.
    #[allow(clippy::wrong_self_convention)] // `self` is the kind, the document is the argument.
    fn from_storage(&self, obj: Value) -> Result<Value, ApiError> {
        Ok(obj)
    }

    /// Converts a document of this version to the storage version.
    ///
    /// # Errors
    /// A form that cannot be told in the storage version.
    fn to_storage(&self, obj: Value) -> Result<Value, ApiError> {
        Ok(obj)
    }

    /// Brings a decoded document to what the kind describes and tells what it did not know.
    ///
    /// # Errors
    /// A value of a wrong type (400, with the text that follows `cannot be handled as a Pod: `).
    fn prune(&self, types: &TypeRef, obj: &mut Value) -> Result<Vec<Finding>, ApiError> {
        decode::prune(types, obj)
    }

    /// The kind of the stored form, when it is not in the table under its own version (an unserved one of a CRD).
    fn storage_kind(&self) -> Option<Kind> {
        None
    }

    /// The OpenAPI v3 schema of a custom kind.
    fn openapi(&self) -> Option<&Value> {
        None
    }

    /// Whether the kind is on its way out: no objects are made any more.
    fn terminating(&self) -> bool {
        false
    }

    /// What every answer about this version warns of.
    fn deprecation(&self) -> Option<&str> {
        None
    }

    /// Whether stored documents must pass [`Rules::from_storage`] even in their own version.
    fn reads_through(&self) -> bool {
        false
    }

    /// The webhook that converts documents between the versions of a custom kind. Then [`Rules::from_storage`] and
    /// [`Rules::to_storage`] leave the version as it is: whoever reads or writes calls the webhook.
    fn conversion(&self) -> Option<&Conversion> {
        None
    }

    /// What a conversion webhook returned, brought to what this version describes.
    ///
    /// # Errors
    /// A value of a wrong type.
    fn converted(&self, obj: Value) -> Result<Value, ApiError> {
        Ok(obj)
    }

    /// What the first delete of an object does to it before anything else (finalizers, conditions); false for
    /// nothing.
    fn begin_delete(&self, obj: &mut Value, now: &str) -> bool {
        let _ = (obj, now);
        false
    }

    /// Replica paths of the `scale` subresource, when the kind has one.
    fn scale_paths(&self) -> Option<ScalePaths> {
        None
    }
}

/// How documents of a custom kind are converted by a webhook.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    /// Name of the definition.
    pub definition: String,
    /// `spec.conversion.webhook.clientConfig`.
    pub client: Value,
    /// `spec.conversion.webhook.conversionReviewVersions`.
    pub review_versions: Vec<String>,
}

/// Where `scale` finds its values; dotted JSON paths such as `spec.replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Desired replicas.
    pub spec_replicas: Str,
    /// Observed replicas.
    pub status_replicas: Str,
    /// Selector: a LabelSelector document, a label map, or a string.
    pub selector: Option<Str>,
}

/// A kind: facts and rules. Cheap to clone.
#[derive(Clone)]
pub struct Kind {
    /// Facts.
    pub info: Arc<KindInfo>,
    /// Behaviour.
    pub rules: Arc<dyn Rules>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kind").field(&self.info.gvk).finish()
    }
}
