//! The object of a request in the version that a webhook or policy asks for.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use knarr_client::Store;
use knarr_kinds::Kind;
use knarr_machinery::{ApiError, GroupVersionKind, GroupVersionResource};
use serde_json::Value;

use crate::request::{Operation, Request};
use crate::rules::{Criteria, Rule, namespace_of, selects};
use crate::state::{Api, Context, Server};

/// As what a request is told.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub resource: GroupVersionResource,
    pub kind: GroupVersionKind,
    /// The kind into which the object is converted; None where it is told as it is.
    pub convert: Option<Kind>,
}

/// Finds out for what a request is.
pub(crate) struct Matcher {
    namespaces: Arc<Store<Namespace>>,
    api: Api,
    pub server: Arc<dyn Server>,
}

impl Matcher {
    pub(crate) fn new(context: &Context) -> Self {
        Self { namespaces: context.informers.of(), api: context.api.clone(), server: context.server.clone() }
    }

    /// A namespace.
    ///
    /// # Errors
    /// 404, 500.
    pub(crate) async fn namespace(&self, name: &str) -> Result<Value, ApiError> {
        if let Some(ns) = self.namespaces.read("", name) {
            let mut value = serde_json::to_value(&*ns).map_err(ApiError::internal)?;
            value["apiVersion"] = "v1".into();
            value["kind"] = "Namespace".into();
            return Ok(value);
        }
        // The view may be a moment old.
        let found = self.api.get(&format!("/api/v1/namespaces/{name}")).await?;
        found.ok_or_else(|| ApiError::not_found(&knarr_machinery::GroupResource::new("", "namespaces"), name))
    }

    /// `namespaceObject` of an expression: null for cluster scope.
    pub(crate) async fn namespace_object(&self, request: &Request<'_>) -> Result<Value, ApiError> {
        if request.namespace.is_empty() || request.is("", "namespaces") {
            return Ok(Value::Null);
        }
        self.namespace(request.namespace).await
    }

    async fn selects_namespace(&self, criteria: &Criteria, request: &Request<'_>) -> Result<bool, ApiError> {
        let name = namespace_of(request);
        if name.is_empty() {
            return Ok(true);
        }
        let selector = criteria.namespaces.as_ref().map_err(ApiError::internal)?;
        if selector.is_everything() {
            return Ok(true);
        }
        let itself = request.is_main("", "namespaces")
            && matches!(request.operation, Operation::Create | Operation::Update);
        if itself {
            return Ok(selects(selector, &request.new_object()["metadata"]));
        }
        Ok(selects(selector, &self.namespace(name).await?["metadata"]))
    }

    /// As what the request is told to whoever has these criteria; None when it is not for them.
    ///
    /// # Errors
    /// Selectors that do not parse, namespaces that are gone; only where the rules match.
    pub(crate) async fn target(
        &self,
        criteria: &Criteria,
        request: &Request<'_>,
    ) -> Result<Option<Target>, ApiError> {
        // Rules first: they are cheap. Errors of selectors count only where the rules match, as upstream.
        if self.first(&criteria.excluded, criteria.equivalent, request).is_some() {
            return Ok(None);
        }
        let target = if criteria.open {
            Some(own(request))
        } else {
            self.first(&criteria.rules, criteria.equivalent, request)
        };
        let Some(target) = target else { return Ok(None) };
        if !criteria.selects_object(request).map_err(ApiError::internal)?
            || !self.selects_namespace(criteria, request).await?
        {
            return Ok(None);
        }
        Ok(Some(target))
    }

    fn first(&self, rules: &[Rule], equivalent: bool, request: &Request<'_>) -> Option<Target> {
        if rules.iter().any(|r| r.matches(request, request.resource)) {
            return Some(own(request));
        }
        if !equivalent || rules.is_empty() {
            return None;
        }
        let others = self.server.equivalents(request.resource);
        let seen = |rule: &Rule| {
            others.iter().find_map(|kind| {
                let resource = resource_of(kind);
                rule.matches(request, &resource).then(|| as_kind(request, kind, resource)).flatten()
            })
        };
        rules.iter().find_map(seen)
    }
}

fn own(request: &Request<'_>) -> Target {
    Target { resource: request.resource.clone(), kind: request.kind.clone(), convert: None }
}

/// Group, version and plural of a kind.
pub(crate) fn resource_of(kind: &Kind) -> GroupVersionResource {
    let gvk = &kind.info.gvk;
    GroupVersionResource::new(gvk.group.clone(), gvk.version.clone(), kind.info.plural.clone())
}

/// A request as one for another version of its kind; None where that one has no such subresource.
fn as_kind(request: &Request<'_>, kind: &Kind, resource: GroupVersionResource) -> Option<Target> {
    let whole = request.served.is_some_and(|s| s.info.gvk == *request.kind);
    let gvk = match request.subresource {
        None => kind.info.gvk.clone(),
        Some(sub) => kind.info.subresource(sub)?.gvk.clone(),
    };
    let convert = (whole && gvk == kind.info.gvk && gvk != *request.kind).then(|| kind.clone());
    Some(Target { resource, kind: gvk, convert })
}

/// The object and its present state in the version of a target.
pub(crate) async fn documents(
    server: &dyn Server,
    request: &Request<'_>,
    target: &Target,
) -> Result<(Value, Value), ApiError> {
    let (object, old) = (request.new_object(), request.old_object());
    let (Some(to), Some(from)) = (&target.convert, request.served) else {
        return Ok((object.clone(), old.clone()));
    };
    Ok((converted(server, from, to, object).await?, converted(server, from, to, old).await?))
}

/// A document in another version; null stays null.
pub(crate) async fn converted(
    server: &dyn Server,
    from: &Kind,
    to: &Kind,
    document: &Value,
) -> Result<Value, ApiError> {
    if document.is_null() {
        return Ok(Value::Null);
    }
    server.convert(from, to, document.clone()).await
}

/// Brings what a patch made to the form that decoding gives.
///
/// # Errors
/// A value of a wrong type.
pub(crate) fn settle(kind: &Kind, document: &mut Value) -> Result<(), ApiError> {
    kind.rules.prune(&kind.info.types, document)?;
    kind.rules.default(document);
    Ok(())
}
