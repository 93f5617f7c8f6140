//! Empties a namespace that is being deleted, and lets it go when nothing is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions, PropagationPolicy};

use crate::context::{Action, Controller, Ctx, work};
use crate::discovery::{ServedResource, discover};
use crate::error::{During, Error};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "namespace-controller",
    account: "namespace-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const FINALIZER: &str = "kubernetes";

/// Whether objects may be created in the namespace.
pub fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

/// What was found while emptying a namespace.
#[derive(Debug, Default)]
struct Findings {
    undiscovered: Vec<String>,
    failures: Vec<String>,
    /// Resource name to number of objects left.
    remaining: BTreeMap<String, usize>,
    /// Finalizer to number of objects that carry it.
    finalizers: BTreeMap<String, usize>,
    /// Longest grace of a pod that is still stopping, in seconds.
    grace: Option<u64>,
}

impl Findings {
    fn is_empty(&self) -> bool {
        self.undiscovered.is_empty() && self.failures.is_empty() && self.remaining.is_empty()
    }

    fn count(&mut self, resource: &ServedResource, left: &[ObjectMeta]) {
        if left.is_empty() {
            return;
        }
        self.remaining.insert(format!("{}.{}", resource.api.plural, resource.api.group), left.len());
        for meta in left {
            for finalizer in meta.finalizers.iter().flatten() {
                *self.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
            }
            if resource.api.kind == "Pod" && resource.api.group.is_empty() {
                let grace =
                    meta.deletion_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
                self.grace = self.grace.max(Some(grace));
            }
        }
    }
}

/// (status, reason, message) of a condition.
type Told = (&'static str, &'static str, String);

/// True with the first pair when something is wrong, else False with the second.
fn told(wrong: bool, yes: (&'static str, String), no: (&'static str, &'static str)) -> Told {
    if wrong { ("True", yes.0, yes.1) } else { ("False", no.0, no.1.to_owned()) }
}

fn listed(items: &BTreeMap<String, usize>, middle: &str) -> String {
    items.iter().map(|(k, n)| format!("{k} {middle} {n} resource instances")).collect::<Vec<_>>().join(", ")
}

/// What each of the five conditions tells.
fn report(findings: &Findings) -> [(&'static str, Told); 5] {
    let (undiscovered, failures) = (&findings.undiscovered, &findings.failures);
    let discovery = format!(
        "Discovery failed for some groups, {} failing: {}",
        undiscovered.len(),
        undiscovered.join(", ")
    );
    let content =
        format!("Failed to delete all resource types, {} remaining: {}", failures.len(), failures.join(", "));
    let remaining = format!("Some resources are remaining: {}", listed(&findings.remaining, "has"));
    let finalizers = format!(
        "Some content in the namespace has finalizers remaining: {}",
        listed(&findings.finalizers, "in")
    );
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            told(
                !undiscovered.is_empty(),
                ("DiscoveryFailed", discovery),
                ("ResourcesDiscovered", "All resources successfully discovered"),
            ),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("False", "ParsedGroupVersions", "All legacy kube types successfully parsed".to_owned()),
        ),
        (
            "NamespaceDeletionContentFailure",
            told(
                !failures.is_empty(),
                ("ContentDeletionFailed", content),
                ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ),
        ),
        (
            "NamespaceContentRemaining",
            told(
                !findings.remaining.is_empty(),
                ("SomeResourcesRemain", remaining),
                ("ContentRemoved", "All content successfully removed"),
            ),
        ),
        (
            "NamespaceFinalizersRemaining",
            told(
                !findings.finalizers.is_empty(),
                ("SomeFinalizersRemain", finalizers),
                ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            ),
        ),
    ]
}

/// The conditions that tell why a namespace is still there, beside foreign ones.
fn conditions(
    findings: &Findings,
    present: &[NamespaceCondition],
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let report = report(findings);
    let foreign = present.iter().filter(|c| !report.iter().any(|(kind, _)| *kind == c.type_));
    let mut next: Vec<NamespaceCondition> = foreign.cloned().collect();
    for (kind, (status, reason, message)) in report {
        let old = present.iter().find(|c| c.type_ == kind);
        let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        next.push(NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(now))),
        });
    }
    next
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let namespaces = ctx.store::<Namespace>();
    {
        let queue = queue.clone();
        namespaces.on_event(move |event| {
            if let Event::Applied { new, .. } = event
                && new.metadata.deletion_timestamp.is_some()
            {
                queue.add(new.name_any());
            }
        });
    }
    {
        // The last pod of a namespace is what most deletions wait for.
        let (queue, namespaces) = (queue.clone(), namespaces.clone());
        ctx.store::<Pod>().on_event(move |event| {
            if let Event::Deleted(pod) = event
                && let Some(namespace) = pod.namespace()
                && namespaces.get("", &namespace).is_some_and(|n| n.metadata.deletion_timestamp.is_some())
            {
                queue.add(namespace);
            }
        });
    }
    namespaces.synced().await;
    let run = ctx.clone();
    work(ctx, queue, 4, move |name| {
        let (ctx, namespaces) = (run.clone(), namespaces.clone());
        async move {
            match namespaces.get("", &name) {
                Some(namespace) if namespace.metadata.deletion_timestamp.is_some() => {
                    reconcile(&ctx, Namespace::clone(&namespace)).await
                }
                _ => Ok(Action::Done),
            }
        }
    })
    .await;
    Ok(())
}

async fn reconcile(ctx: &Ctx, namespace: Namespace) -> Result<Action, Error> {
    let name = namespace.name_any();
    let terminating = namespace.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Terminating");
    let namespace = if terminating {
        namespace
    } else {
        let mut next = namespace;
        next.status.get_or_insert_default().phase = Some("Terminating".to_owned());
        match write_status(ctx, &name, &next).await? {
            Some(written) => written,
            None => return Ok(Action::Done),
        }
    };
    let ours = |n: &Namespace| {
        n.spec.as_ref().is_some_and(|s| s.finalizers.iter().flatten().any(|f| f == FINALIZER))
    };
    if !ours(&namespace) {
        return let_go(ctx, &namespace).await;
    }
    let findings = empty(ctx, &name).await?;
    let present = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let told = conditions(&findings, &present, Timestamp::now());
    let mut namespace = namespace;
    // A namespace that is about to go needs no report, unless an earlier one told otherwise.
    if told != present && !(findings.is_empty() && present.is_empty()) {
        namespace.status.get_or_insert_default().conditions = Some(told);
        match write_status(ctx, &name, &namespace).await? {
            Some(written) => namespace = written,
            None => return Ok(Action::Done),
        }
    }
    if !findings.is_empty() {
        if let Some(grace) = findings.grace
            && findings.failures.is_empty()
        {
            return Ok(Action::After(Duration::from_secs(grace + 1)));
        }
        return Ok(Action::Backoff);
    }
    finalize(ctx, namespace).await
}

async fn write_status(ctx: &Ctx, name: &str, next: &Namespace) -> Result<Option<Namespace>, Error> {
    let api = ctx.api_all::<Namespace>();
    let result = api.replace_status(name, &PostParams::default(), next).await;
    match result.during("update status of", "Namespace", "", name) {
        Ok(written) => Ok(Some(written)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn finalize(ctx: &Ctx, mut namespace: Namespace) -> Result<Action, Error> {
    let name = namespace.name_any();
    if let Some(spec) = namespace.spec.as_mut() {
        spec.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
    }
    let api = ctx.api_all::<Namespace>();
    let result = api.replace_subresource("finalize", &name, &PostParams::default(), &namespace).await;
    match result.during("finalize", "Namespace", "", &name) {
        Ok(_) => Ok(Action::Done),
        Err(error) if error.is_not_found() => Ok(Action::Done),
        Err(error) => Err(error),
    }
}

/// Nothing of ours is left on it: a namespace without any finalizer is deleted for good.
async fn let_go(ctx: &Ctx, namespace: &Namespace) -> Result<Action, Error> {
    let held = namespace.spec.as_ref().is_some_and(|s| s.finalizers.iter().flatten().next().is_some())
        || namespace.metadata.finalizers.iter().flatten().next().is_some();
    if held {
        return Ok(Action::Done);
    }
    let name = namespace.name_any();
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: namespace.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match ctx.api_all::<Namespace>().delete(&name, &params).await.during("delete", "Namespace", "", &name) {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(Action::Done),
    }
}

/// Deletes everything in the namespace and tells what is left: pods first, the rest when they are gone, so that a
/// stopping pod keeps its volumes, policies and configuration.
async fn empty(ctx: &Ctx, namespace: &str) -> Result<Findings, Error> {
    let served = discover(&ctx.client).await?;
    let mut findings = Findings { undiscovered: served.failed, ..Findings::default() };
    let (pods, rest): (Vec<_>, Vec<_>) = served
        .resources
        .into_iter()
        .filter(|r| r.namespaced && r.can(&["delete", "list"]))
        .partition(|r| r.api.group.is_empty() && r.api.plural == "pods");
    for resource in pods {
        clear(ctx, namespace, &resource, &mut findings).await;
    }
    if findings.remaining.is_empty() && findings.failures.is_empty() {
        for resource in rest {
            clear(ctx, namespace, &resource, &mut findings).await;
        }
    }
    Ok(findings)
}

async fn clear(ctx: &Ctx, namespace: &str, resource: &ServedResource, findings: &mut Findings) {
    match try_clear(ctx, namespace, resource).await {
        Ok(left) => findings.count(resource, &left),
        // A resource that vanished since discovery, or cannot be listed after all, has no objects.
        Err(error) if error.is_not_found() || error.is_not_served() => {}
        Err(error) => findings.failures.push(error.to_string()),
    }
}

async fn try_clear(ctx: &Ctx, namespace: &str, resource: &ServedResource) -> Result<Vec<ObjectMeta>, Error> {
    let api = ctx.api_dynamic(&resource.api, Some(namespace));
    let before = list(&api, namespace, resource).await?;
    if before.is_empty() {
        return Ok(before);
    }
    let params =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    if resource.can(&["deletecollection"]) {
        let result = api.delete_collection(&params, &ListParams::default()).await;
        result.during("delete all", &resource.name(), namespace, "")?;
    } else {
        for meta in before {
            let name = meta.name.unwrap_or_default();
            match api.delete(&name, &params).await.during("delete", &resource.name(), namespace, &name) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    list(&api, namespace, resource).await
}

async fn list(
    api: &kube::Api<kube::api::DynamicObject>,
    namespace: &str,
    resource: &ServedResource,
) -> Result<Vec<ObjectMeta>, Error> {
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(500);
    loop {
        let page = api.list_metadata(&params).await.during("list", &resource.name(), namespace, "")?;
        all.extend(page.items.into_iter().map(|o| o.metadata));
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(token) => params = ListParams::default().limit(500).continue_token(&token),
            None => return Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_is_left() {
        let mut findings = Findings::default();
        findings.remaining.insert("pods.".into(), 2);
        findings.finalizers.insert("x.io/wait".into(), 1);
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let first = conditions(&findings, &[], now);
        let find =
            |all: &[NamespaceCondition], kind: &str| all.iter().find(|c| c.type_ == kind).cloned().unwrap();
        let left = find(&first, "NamespaceContentRemaining");
        assert_eq!(left.status, "True");
        assert_eq!(
            left.message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        let later = "2026-01-01T00:00:09Z".parse().unwrap();
        assert_eq!(conditions(&findings, &first, later), first);
        let done = conditions(&Findings::default(), &first, later);
        assert_eq!(find(&done, "NamespaceContentRemaining").last_transition_time, Some(Time(later)));
        assert!(done.iter().all(|c| c.status == "False"));
    }
}
