//! The roles and bindings every cluster starts with, and their repair at start.
//!
//! The facts are in `data/roles.txt`. [`reconcile`] creates what is missing and adds what was taken away from what
//! is there; it removes nothing and leaves alone what is annotated
//! `rbac.authorization.kubernetes.io/autoupdate: "false"`.

use http::Method;
use knarr_machinery::{ApiError, meta};
use serde_json::{Value, json};

use crate::api::Api;
use crate::escalation;
use crate::rules::{Rule, missing};

const FACTS: &str = include_str!("data/roles.txt");
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";

/// The bootstrap documents: cluster roles, roles, cluster role bindings and role bindings.
///
/// # Errors
/// A line of the facts that cannot be read.
pub fn documents() -> Result<Vec<Value>, String> {
    let mut out: Vec<Value> = Vec::new();
    let mut bindings = Vec::new();
    for (number, line) in FACTS.lines().enumerate() {
        let line = line.trim();
        let bad = |what: &str| format!("bootstrap roles, line {}: {what}: {line}", number + 1);
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        match head {
            "" => {}
            _ if line.starts_with('#') => {}
            "role" => out.push(role(rest).ok_or_else(|| bad("not a role"))?),
            "controller" => {
                out.push(role(&format!("system:controller:{rest}")).ok_or_else(|| bad("not a role"))?);
                let line = format!("system:controller:{rest} sa:kube-system/{rest}");
                bindings.push(binding(&line).ok_or_else(|| bad("not a binding"))?);
            }
            "bind" => bindings.push(binding(rest).ok_or_else(|| bad("not a binding"))?),
            _ => {
                let rules = out.last_mut().and_then(|r| r["rules"].as_array_mut());
                let rule = rule(line).ok_or_else(|| bad("not a rule"))?;
                rules.ok_or_else(|| bad("rule outside a role"))?.push(rule);
            }
        }
    }
    out.extend(bindings);
    Ok(out)
}

fn object(kind: &str, place: &str) -> Option<Value> {
    // Names of roles may contain slashes nowhere, so the first one ends the namespace.
    let (namespace, name) = place.split_once('/').unwrap_or(("", place));
    let kind = if namespace.is_empty() { format!("Cluster{kind}") } else { kind.to_string() };
    let mut v = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "annotations": {AUTO_UPDATE: "true"},
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        },
    });
    meta::set_str(&mut v, "namespace", namespace);
    (!name.is_empty()).then_some(v)
}

fn role(line: &str) -> Option<Value> {
    let mut words = line.split_whitespace();
    let mut v = object("Role", words.next()?)?;
    v["rules"] = json!([]);
    for word in words {
        let (key, value) = word.split_once('=')?;
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{value}");
        match key {
            "label" => meta::set_label(&mut v, &label, "true"),
            "aggregates" => {
                v["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
            }
            _ => return None,
        }
    }
    Some(v)
}

fn rule(line: &str) -> Option<Value> {
    if line == "events" {
        return rule("create patch update | core events.k8s.io | events");
    }
    let parts: Vec<&str> = line.split(" | ").collect();
    let words = |s: &str| -> Vec<String> {
        let s = s.split_whitespace().map(|w| match w {
            "R" => READ,
            "W" => WRITE,
            "core" => "",
            w => w,
        });
        let mut out: Vec<String> = s.flat_map(|w| w.split(' ')).map(str::to_string).collect();
        out.sort();
        out
    };
    match parts.as_slice() {
        [verbs, "url", urls] => Some(json!({"verbs": words(verbs), "nonResourceURLs": words(urls)})),
        [verbs, groups, resources] => {
            Some(json!({"verbs": words(verbs), "apiGroups": words(groups), "resources": words(resources)}))
        }
        [verbs, groups, resources, names] => Some(json!({"verbs": words(verbs), "apiGroups": words(groups),
            "resources": words(resources), "resourceNames": words(names)})),
        _ => None,
    }
}

fn binding(line: &str) -> Option<Value> {
    let mut words = line.split_whitespace();
    let mut v = object("RoleBinding", words.next()?)?;
    let mut role = meta::name(&v).to_string();
    let mut subjects = Vec::new();
    for word in words {
        if let Some(name) = word.strip_prefix("role=") {
            role = name.to_string();
            continue;
        }
        let (kind, name) = word.split_once(':')?;
        subjects.push(match kind {
            "user" => json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}),
            "group" => json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name}),
            "sa" => {
                let (namespace, name) = name.split_once('/')?;
                json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
            }
            _ => return None,
        });
    }
    let kind = if meta::namespace(&v).is_empty() { "ClusterRole" } else { "Role" };
    v["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
    if !subjects.is_empty() {
        v["subjects"] = subjects.into();
    }
    Some(v)
}

/// The present object with what the wanted one has more; None when nothing is missing.
fn repaired(present: &Value, wanted: &Value) -> Option<Value> {
    if meta::annotation(present, AUTO_UPDATE) == Some("false") {
        return None;
    }
    let mut next = present.clone();
    for (k, v) in meta::labels(wanted) {
        meta::set_label(&mut next, &k, &v);
    }
    for (k, v) in meta::annotations(wanted) {
        meta::set_annotation(&mut next, &k, &v);
    }
    if wanted.get("aggregationRule").is_some() {
        // The rules of an aggregated role are computed.
        next["aggregationRule"] = wanted["aggregationRule"].clone();
    } else if wanted.get("rules").is_some() {
        let have: Vec<Rule> = escalation::rules_of(present);
        let mut rules = present["rules"].as_array().cloned().unwrap_or_default();
        for (document, rule) in
            wanted["rules"].as_array().into_iter().flatten().zip(escalation::rules_of(wanted))
        {
            if !missing(&have, &[rule]).is_empty() {
                rules.push(document.clone());
            }
        }
        next["rules"] = rules.into();
    }
    if let Some(wanted) = wanted["subjects"].as_array() {
        let mut subjects = present["subjects"].as_array().cloned().unwrap_or_default();
        let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|f| a[*f] == b[*f]);
        for s in wanted {
            if !subjects.iter().any(|p| same(p, s)) {
                subjects.push(s.clone());
            }
        }
        next["subjects"] = subjects.into();
    }
    (next != *present).then_some(next)
}

fn collection(doc: &Value) -> String {
    let plural = match meta::kind(doc) {
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "Role" => "roles",
        _ => "rolebindings",
    };
    let base = "/apis/rbac.authorization.k8s.io/v1";
    match meta::namespace(doc) {
        "" => format!("{base}/{plural}"),
        ns => format!("{base}/namespaces/{ns}/{plural}"),
    }
}

/// Creates and repairs the bootstrap roles and bindings. What is right is not written. The client must be of
/// `system:masters`, and the namespaces kube-system and kube-public must exist.
///
/// # Errors
/// The first request that fails, naming the object.
pub async fn reconcile(client: &kube::Client) -> Result<(), ApiError> {
    let api = Api::new(client.clone());
    for wanted in documents().map_err(ApiError::internal)? {
        let collection = collection(&wanted);
        // Names contain ":", which is allowed in a path.
        let path = format!("{collection}/{}", meta::name(&wanted));
        let present = match api.get(&path).await? {
            None => match api.send(Method::POST, &collection, &wanted).await {
                Err(e) if e.reason == "AlreadyExists" => api.get(&path).await?,
                Err(e) => return Err(e),
                Ok(_) => continue,
            },
            present => present,
        };
        let Some(present) = present else { continue };
        if present.get("roleRef").is_some() && present["roleRef"] != wanted["roleRef"] {
            // A roleRef cannot be changed, so upstream makes such a binding anew.
            api.delete(&path).await?;
            api.send(Method::POST, &collection, &wanted).await?;
        } else if let Some(next) = repaired(&present, &wanted) {
            api.send(Method::PUT, &path, &next).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(kind: &str, name: &str) -> Value {
        let found = documents().unwrap().into_iter().find(|d| meta::kind(d) == kind && meta::name(d) == name);
        found.unwrap_or_default()
    }

    #[test]
    fn facts_read() {
        let all = documents().unwrap();
        let count = |k: &str| all.iter().filter(|d| meta::kind(d) == k).count();
        assert_eq!(
            (count("ClusterRole"), count("Role"), count("ClusterRoleBinding"), count("RoleBinding")),
            (71, 7, 52, 7)
        );
        assert_eq!(
            find("ClusterRole", "system:controller:ttl-controller")["rules"],
            json!([{"verbs": ["list", "patch", "update", "watch"], "apiGroups": [""], "resources": ["nodes"]},
                {"verbs": ["create", "patch", "update"], "apiGroups": ["", "events.k8s.io"], "resources": ["events"]}])
        );
        assert_eq!(
            find("ClusterRoleBinding", "system:controller:ttl-controller")["subjects"],
            json!([{"kind": "ServiceAccount", "namespace": "kube-system", "name": "ttl-controller"}])
        );
        let edit = find("ClusterRole", "edit");
        assert_eq!(meta::label(&edit, "rbac.authorization.k8s.io/aggregate-to-admin"), Some("true"));
        assert_eq!(
            find("RoleBinding", "system::extension-apiserver-authentication-reader")["roleRef"]["name"],
            "extension-apiserver-authentication-reader"
        );
        for d in &all {
            for r in escalation::rules_of(d) {
                assert!(!r.verbs.is_empty() && (!r.resources.is_empty() || !r.urls.is_empty()), "{d}");
            }
        }
    }

    #[test]
    fn repair() {
        let wanted = find("ClusterRole", "system:node-proxier");
        assert_eq!(repaired(&wanted, &wanted), None);
        let mut present = wanted.clone();
        present["rules"].as_array_mut().unwrap().remove(0);
        present["rules"]
            .as_array_mut()
            .unwrap()
            .push(json!({"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}));
        let next = repaired(&present, &wanted).unwrap();
        assert!(next["rules"].as_array().unwrap().contains(&wanted["rules"][0]));
        assert_eq!(next["rules"].as_array().unwrap().len(), wanted["rules"].as_array().unwrap().len() + 1);
        present["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        assert_eq!(repaired(&present, &wanted), None);
        let wanted = find("ClusterRoleBinding", "cluster-admin");
        let mut present = wanted.clone();
        present["subjects"] = json!([{"kind": "User", "name": "me"}]);
        assert_eq!(repaired(&present, &wanted).unwrap()["subjects"].as_array().unwrap().len(), 2);
    }
}
