//! One kind at one place of the API: every verb, with JSON documents in and out.

use std::borrow::Cow;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};

use crate::Result;
use crate::rest::{Rest, is_code};
use crate::watch::Watch;

/// What the API server calls a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group, empty for the core.
    pub group: Cow<'static, str>,
    /// Version.
    pub version: Cow<'static, str>,
    /// Plural, as in the path.
    pub plural: Cow<'static, str>,
    /// Kind, as in documents.
    pub kind: Cow<'static, str>,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
}

impl Kind {
    /// A constant of a built-in kind.
    pub const fn new(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
        namespaced: bool,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced,
        }
    }

    /// A kind known at run time only.
    pub fn custom(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool) -> Self {
        Self {
            group: Cow::Owned(group.to_string()),
            version: Cow::Owned(version.to_string()),
            plural: Cow::Owned(plural.to_string()),
            kind: Cow::Owned(kind.to_string()),
            namespaced,
        }
    }

    /// `apps/v1`, or `v1` for the core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `/apis/apps/v1`, or `/api/v1`.
    pub fn root(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// A document of this kind: the given one with `apiVersion` and `kind`.
    pub fn document(&self, mut body: Value) -> Value {
        body["apiVersion"] = json!(self.api_version());
        body["kind"] = json!(self.kind);
        body
    }
}

/// A patch with its media type.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
    /// Server-side apply by a field manager, forced.
    Apply(&'static str, Value),
}

/// A kind in one namespace, in all, or without any.
#[derive(Clone)]
pub struct Api {
    /// The client.
    pub rest: Rest,
    /// The kind.
    pub kind: Kind,
    /// The namespace, if one.
    pub namespace: Option<String>,
}

impl Api {
    /// Path of the collection.
    pub fn path(&self) -> String {
        match &self.namespace {
            Some(ns) => format!("{}/namespaces/{ns}/{}", self.kind.root(), self.kind.plural),
            None => format!("{}/{}", self.kind.root(), self.kind.plural),
        }
    }

    /// Path of an object; `name/subresource` does too.
    pub fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path())
    }

    /// Creates; kind and apiVersion are filled in.
    pub async fn create(&self, body: &Value) -> Result<Value> {
        self.create_with(&[], body).await
    }

    /// Creates with query parameters.
    pub async fn create_with(&self, query: &[(&str, &str)], body: &Value) -> Result<Value> {
        let body = self.kind.document(body.clone());
        self.rest.json(Method::POST, &Rest::uri(&self.path(), query), Some(&body)).await
    }

    /// POST to a subresource (eviction, binding, token); the body is sent as it is.
    pub async fn create_sub(&self, name: &str, sub: &str, body: &Value) -> Result<Value> {
        self.rest.json(Method::POST, &self.path_of(&format!("{name}/{sub}")), Some(body)).await
    }

    /// Reads one; `name/status` reads a subresource.
    pub async fn get(&self, name: &str) -> Result<Value> {
        self.rest.get(&self.path_of(name)).await
    }

    /// Reads one that may not be there.
    pub async fn find(&self, name: &str) -> Result<Option<Value>> {
        match self.get(name).await {
            Ok(v) => Ok(Some(v)),
            Err(e) if is_code(&e, 404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The list document.
    pub async fn list(&self, query: &[(&str, &str)]) -> Result<Value> {
        self.rest.get(&Rest::uri(&self.path(), query)).await
    }

    /// The items of a list.
    pub async fn items(&self, query: &[(&str, &str)]) -> Result<Vec<Value>> {
        let list = self.list(query).await?;
        list["items"].as_array().cloned().with_context(|| format!("GET {}: no items", self.path()))
    }

    /// Items with a label.
    pub async fn labelled(&self, selector: &str) -> Result<Vec<Value>> {
        self.items(&[("labelSelector", selector)]).await
    }

    /// Replaces; the name stands in the document.
    pub async fn update(&self, body: &Value) -> Result<Value> {
        self.rest
            .json(Method::PUT, &self.path_of(name_of(body)?), Some(&self.kind.document(body.clone())))
            .await
    }

    /// Replaces a subresource; the body is sent as it is.
    pub async fn update_sub(&self, name: &str, sub: &str, body: &Value) -> Result<Value> {
        self.rest.json(Method::PUT, &self.path_of(&format!("{name}/{sub}")), Some(body)).await
    }

    /// Reads, changes and replaces, again after a conflict.
    pub async fn modify(&self, name: &str, change: impl Fn(&mut Value) + Send) -> Result<Value> {
        self.modify_at(name, "", change).await
    }

    /// As [`Api::modify`], through a subresource.
    pub async fn modify_at(
        &self,
        name: &str,
        sub: &str,
        change: impl Fn(&mut Value) + Send,
    ) -> Result<Value> {
        for _ in 0..30 {
            let mut object = self.get(name).await?;
            change(&mut object);
            let path =
                if sub.is_empty() { self.path_of(name) } else { self.path_of(&format!("{name}/{sub}")) };
            match self.rest.json(Method::PUT, &path, Some(&object)).await {
                Err(e) if is_code(&e, 409) => {}
                other => return other,
            }
        }
        anyhow::bail!("update of {} {name}: a conflict each of 30 times", self.kind.plural)
    }

    /// Patches; `name/status` patches a subresource.
    pub async fn patch(&self, name: &str, patch: Patch) -> Result<Value> {
        self.patch_with(name, &[], patch).await
    }

    /// Patches with query parameters.
    pub async fn patch_with(&self, name: &str, query: &[(&str, &str)], patch: Patch) -> Result<Value> {
        let mut query = query.to_vec();
        let (media, body) = match patch {
            Patch::Merge(b) => ("application/merge-patch+json", b),
            Patch::Strategic(b) => ("application/strategic-merge-patch+json", b),
            Patch::Json(b) => ("application/json-patch+json", b),
            Patch::Apply(manager, b) => {
                query.extend([("fieldManager", manager), ("force", "true")]);
                ("application/apply-patch+yaml", b)
            }
        };
        let uri = Rest::uri(&self.path_of(name), &query);
        let headers = [("content-type", media), ("accept", "application/json")];
        let reply = self.rest.raw(Method::PATCH, &uri, &headers, body.to_string().into_bytes()).await?;
        reply.success(&format!("PATCH {uri}"))
    }

    /// Deletes with default options.
    pub async fn delete(&self, name: &str) -> Result<Value> {
        self.rest.json(Method::DELETE, &self.path_of(name), None).await
    }

    /// Deletes with `DeleteOptions`, as `json!({"propagationPolicy": "Orphan"})`.
    pub async fn delete_with(&self, name: &str, options: Value) -> Result<Value> {
        self.rest.json(Method::DELETE, &self.path_of(name), Some(&delete_options(options))).await
    }

    /// Deletes without grace.
    pub async fn delete_now(&self, name: &str) -> Result<Value> {
        self.delete_with(name, json!({"gracePeriodSeconds": 0})).await
    }

    /// Deletes what matches the query.
    pub async fn delete_collection(&self, query: &[(&str, &str)]) -> Result<Value> {
        self.rest.json(Method::DELETE, &Rest::uri(&self.path(), query), None).await
    }

    /// Watches; `watch=true` is added.
    pub async fn watch(&self, query: &[(&str, &str)]) -> Result<Watch> {
        let mut query = query.to_vec();
        query.push(("watch", "true"));
        Watch::open(&self.rest, &Rest::uri(&self.path(), &query)).await
    }
}

fn delete_options(options: Value) -> Value {
    let mut options = options;
    options["kind"] = json!("DeleteOptions");
    options["apiVersion"] = json!("v1");
    options
}

/// `metadata.name`.
pub fn name_of(object: &Value) -> Result<&str> {
    object["metadata"]["name"].as_str().context("a document without metadata.name")
}

/// A text at a JSON pointer, empty when absent.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// A number at a JSON pointer, 0 when absent.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The array at a JSON pointer, empty when absent.
pub fn array<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The condition of a type in `status.conditions`, null when absent.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    array(object, "/status/conditions").iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

/// `metadata.resourceVersion`.
pub fn version_of(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}
