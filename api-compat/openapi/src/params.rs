//! Query parameters of the verbs.

use knarr_machinery::types::{Scalar, Type};

/// A parameter of an operation.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub name: String,
    /// `path` or `query`.
    pub place: &'static str,
    /// `string`, `integer` or `boolean`.
    pub kind: &'static str,
    pub description: String,
}

type Row = (&'static str, &'static str, &'static str);

const PRETTY: Row = ("pretty", "string", "Whether the answer is indented for people to read: true or false.");
const DRY_RUN: Row = ("dryRun", "string", "All: go through all stages, store nothing.");
const FIELD_MANAGER: Row = (
    "fieldManager",
    "string",
    "Name of the one who makes the change, at most 128 characters; kept in metadata.managedFields.",
);
const FIELD_VALIDATION: Row = (
    "fieldValidation",
    "string",
    "What happens to unknown and duplicate fields: Ignore drops them, Warn drops them with a warning, Strict refuses the request.",
);
const FORCE: Row = ("force", "boolean", "Only for apply: take over fields that others manage.");

const LIST: &[Row] = &[
    ("allowWatchBookmarks", "boolean", "Only for watch: BOOKMARK events may be sent."),
    ("continue", "string", "The continue token of the page before, to get the next one."),
    ("fieldSelector", "string", "Return only objects whose fields fit this selector."),
    ("labelSelector", "string", "Return only objects whose labels fit this selector."),
    ("limit", "integer", "At most so many objects; the answer has a continue token if there are more."),
    (
        "resourceVersion",
        "string",
        "The version the answer has to reflect, in the way resourceVersionMatch says.",
    ),
    ("resourceVersionMatch", "string", "How resourceVersion applies to a list: Exact or NotOlderThan."),
    (
        "sendInitialEvents",
        "boolean",
        "Only for watch: begin with an event for each object there is, then a BOOKMARK.",
    ),
    ("timeoutSeconds", "integer", "End the list or watch after so many seconds."),
    ("watch", "boolean", "Stream changes instead of returning the list."),
];

const DELETE: &[Row] = &[
    DRY_RUN,
    (
        "gracePeriodSeconds",
        "integer",
        "Seconds until the object is deleted; 0 means at once, none means the kind's default.",
    ),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Delete even an object that cannot be read from the store. Unsafe.",
    ),
    ("orphanDependents", "boolean", "Deprecated: whether dependents are kept. Use propagationPolicy."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];

fn rows<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<Param> {
    rows.into_iter()
        .map(|(name, kind, text)| Param {
            name: (*name).to_owned(),
            place: "query",
            kind,
            description: (*text).to_owned(),
        })
        .collect()
}

/// `pretty`, which every operation but connect takes.
pub(crate) fn pretty() -> Param {
    let (name, kind, text) = PRETTY;
    Param { name: name.to_owned(), place: "query", kind, description: text.to_owned() }
}

pub(crate) fn list() -> Vec<Param> {
    rows(LIST)
}

pub(crate) fn write() -> Vec<Param> {
    rows(&[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION])
}

pub(crate) fn patch() -> Vec<Param> {
    rows(&[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE])
}

pub(crate) fn delete() -> Vec<Param> {
    rows(DELETE)
}

/// Those of both [`list`] and [`delete`], without watching.
pub(crate) fn delete_collection() -> Vec<Param> {
    let keep = |p: &Param| !matches!(p.name.as_str(), "allowWatchBookmarks" | "watch");
    let mut all: Vec<Param> = list().into_iter().filter(keep).chain(delete()).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The fields of an options kind (PodExecOptions) as query parameters.
pub(crate) fn options(definition: &str) -> Vec<Param> {
    let Some(types) = knarr_schema::builtin_type(definition) else {
        return Vec::new();
    };
    let Type::Struct(id) = types.root else {
        return Vec::new();
    };
    types
        .set
        .get(id)
        .fields
        .iter()
        .filter(|f| !matches!(f.name.as_ref(), "apiVersion" | "kind"))
        .map(|f| Param {
            name: f.name.to_string(),
            place: "query",
            kind: match &f.ty {
                Type::Scalar(Scalar::Bool) => "boolean",
                Type::Scalar(Scalar::Int32 | Scalar::Int64) => "integer",
                _ => "string",
            },
            description: String::new(),
        })
        .collect()
}

/// A path parameter.
pub(crate) fn path(name: &str, description: String) -> Param {
    Param { name: name.to_owned(), place: "path", kind: "string", description }
}
