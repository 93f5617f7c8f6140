//! Upstream's discovery.go and server_version.go.

use serde_json::Value;

use crate::Result;
use crate::api::{array, text};
use crate::context::Context;

tests! {
    "[sig-api-machinery] Discovery should validate PreferredVersion for each APIGroup" => preferred_versions,
    "[sig-api-machinery] Discovery should locate the groupVersion and a resource within each APIGroup" => resources,
    "[sig-api-machinery] server version should find the server version" => version,
}

async fn preferred_versions(cx: Context) -> Result<()> {
    let list = cx.rest().get("/apis").await?;
    ensure_eq!(text(&list, "/kind"), "APIGroupList", "kind of /apis");
    anyhow::ensure!(!array(&list, "/groups").is_empty(), "/apis lists no groups");
    for group in array(&list, "/groups") {
        let name = text(group, "/name");
        // A custom resource definition of another test may be half gone.
        if name.ends_with(".example.com") {
            continue;
        }
        let seen = cx.rest().get(&format!("/apis/{name}")).await?;
        let preferred = text(&seen, "/preferredVersion/groupVersion");
        anyhow::ensure!(!preferred.is_empty(), "/apis/{name} has no preferred version");
        ensure_eq!(
            preferred,
            text(group, "/preferredVersion/groupVersion"),
            "preferred version of {name} in /apis"
        );
        let known = array(&seen, "/versions").iter().any(|v| v["groupVersion"] == preferred);
        anyhow::ensure!(known, "the preferred version {preferred} of {name} is none of its versions");
    }
    Ok(())
}

/// Upstream's table: a group and a resource that it must have.
const WANTED: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("apps", "deployments"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "jobs"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("coordination.k8s.io", "leases"),
    ("discovery.k8s.io", "endpointslices"),
    ("events.k8s.io", "events"),
    ("networking.k8s.io", "ingresses"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("storage.k8s.io", "csinodes"),
];

async fn resources(cx: Context) -> Result<()> {
    let list = cx.rest().get("/apis").await?;
    for (name, wanted) in WANTED {
        let group = array(&list, "/groups").iter().find(|g| g["name"] == *name);
        anyhow::ensure!(group.is_some(), "/apis does not list the group {name}");
        let group = cx.rest().get(&format!("/apis/{name}")).await?;
        ensure_eq!(text(&group, "/kind"), "APIGroup", "kind of /apis/{name}");
        let mut found = false;
        for version in array(&group, "/versions") {
            let version = text(version, "/groupVersion");
            let resources = cx.rest().get(&format!("/apis/{version}")).await?;
            ensure_eq!(text(&resources, "/kind"), "APIResourceList", "kind of /apis/{version}");
            ensure_eq!(text(&resources, "/groupVersion"), version, "groupVersion in /apis/{version}");
            found |= array(&resources, "/resources").iter().any(|r| r["name"] == *wanted);
        }
        anyhow::ensure!(found, "no version of {name} has {wanted}");
    }
    Ok(())
}

async fn version(cx: Context) -> Result<()> {
    let version = cx.rest().get("/version").await?;
    let number =
        |v: &Value| v.as_str().is_some_and(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
    anyhow::ensure!(number(&version["major"]), "major is no number in {version}");
    anyhow::ensure!(number(&version["minor"]), "minor is no number in {version}");
    Ok(())
}
