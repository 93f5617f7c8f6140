//! PodSecurity: namespaces say by their labels which Pod Security Standard their pods must meet.

use std::collections::BTreeMap;

use async_trait::async_trait;
use knarr_machinery::{ApiError, FieldError, Path, meta};
use serde_json::Value;

use crate::Plugin;
use crate::pod_security_checks::{Level, Violation, violations};
use crate::request::{Operation, Request};
use crate::state::{Api, Context};

/// Most pods that are looked at when a namespace gets stricter.
const PODS_MAX: usize = 3000;
const LABEL: &str = "pod-security.kubernetes.io/";

/// A level and its version; `u32::MAX` is latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standard {
    level: Level,
    minor: u32,
}

impl Standard {
    fn text(self) -> String {
        let version =
            if self.minor == u32::MAX { "latest".to_string() } else { format!("v1.{}", self.minor) };
        format!("{}:{version}", self.level.as_str())
    }

    fn check(self, pod: &Value) -> Vec<Violation> {
        violations(self.level, self.minor, &pod["metadata"]["annotations"], &pod["spec"])
    }
}

/// What a namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    enforce: Standard,
    warn: Standard,
}

fn version(text: &str) -> Option<u32> {
    if text == "latest" {
        return Some(u32::MAX);
    }
    let digits = text.strip_prefix("v1.")?;
    let plain = digits == "0" || !digits.starts_with('0');
    (plain && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Reads the labels; a value that is not understood is as strict as can be for enforce, and lax for the others.
fn policy(labels: &BTreeMap<String, String>) -> (Policy, Vec<FieldError>) {
    let mut errors = Vec::new();
    let mut level = |mode: &str, otherwise: Level| {
        let key = format!("{LABEL}{mode}");
        let text = labels.get(&key)?;
        let parsed = Level::parse(text);
        if parsed.is_none() {
            let path = Path::new("metadata").child("labels").key(&key);
            let detail = "must be one of privileged, baseline, restricted";
            errors.push(FieldError::invalid(&path, text.as_str(), detail));
        }
        Some((parsed.unwrap_or(otherwise), parsed.is_some()))
    };
    let enforce = level("enforce", Level::Restricted);
    let _audit = level("audit", Level::Privileged);
    let warn = level("warn", Level::Privileged);
    let mut minor = |mode: &str| {
        let key = format!("{LABEL}{mode}-version");
        let text = labels.get(&key)?;
        let parsed = version(text);
        if parsed.is_none() {
            let path = Path::new("metadata").child("labels").key(&key);
            errors.push(FieldError::invalid(&path, text.as_str(), "must be \"latest\" or \"v1.x\""));
        }
        Some(parsed.unwrap_or(u32::MAX))
    };
    let (enforce_minor, _audit_minor, warn_minor) = (minor("enforce"), minor("audit"), minor("warn"));
    let standard = |level: Option<(Level, bool)>, minor: Option<u32>| Standard {
        level: level.map_or(Level::Privileged, |l| l.0),
        minor: minor.unwrap_or(u32::MAX),
    };
    let enforced = standard(enforce, enforce_minor);
    let mut warned = standard(warn, warn_minor);
    // Without a word about warnings, they are as strict as what is enforced.
    if warn.is_none() && enforce.is_some_and(|e| e.1) && enforced.level > warned.level {
        warned = Standard { level: enforced.level, minor: warn_minor.unwrap_or(enforced.minor) };
    }
    (Policy { enforce: enforced, warn: warned }, errors)
}

fn details(all: &[Violation]) -> String {
    all.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect::<Vec<_>>().join(", ")
}

/// Where kinds that make pods keep their template.
fn template<'a>(request: &'a Request<'_>) -> Option<&'a Value> {
    let object = request.new_object();
    let at = match (&*request.resource.group, &*request.resource.resource) {
        ("", "replicationcontrollers") => "spec.template",
        ("", "podtemplates") => "template",
        ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets") => "spec.template",
        ("batch", "jobs") => "spec.template",
        ("batch", "cronjobs") => "spec.jobTemplate.spec.template",
        _ => return None,
    };
    let template = meta::at(object, at);
    (!template.is_null()).then_some(template)
}

/// Whether an update changes what a pod runs.
fn significant(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value, field: &str| -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.map(|c| (text(&c["name"]), text(&c["image"]))).collect()
    };
    ["containers", "initContainers", "ephemeralContainers"].iter().any(|f| images(new, f) != images(old, f))
}

/// Warnings about the pods that a stricter namespace already has.
fn existing_warnings(namespace: &str, standard: Standard, pods: &[Value]) -> Vec<String> {
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in pods.iter().take(PODS_MAX) {
        let all = standard.check(pod);
        if all.is_empty() {
            continue;
        }
        let reasons = all.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ");
        let name = meta::name(pod).to_string();
        let entry = found.entry(reasons).or_insert_with(|| (name.clone(), 0));
        entry.1 += 1;
        if name < entry.0 {
            entry.0 = name;
        }
    }
    let mut out = Vec::new();
    if pods.len() > PODS_MAX {
        out.push(format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        let standard = standard.text();
        out.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {standard:?}"
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, (pod, count))| match count {
            1 => format!("{pod}: {reasons}"),
            2 => format!("{pod} (and 1 other pod): {reasons}"),
            n => format!("{pod} (and {} other pods): {reasons}", n - 1),
        })
        .collect();
    lines.sort();
    out.extend(lines);
    out
}

/// The plugin.
pub(crate) struct PodSecurity {
    api: Api,
    namespaces: std::sync::Arc<knarr_client::Store<k8s_openapi::api::core::v1::Namespace>>,
}

impl PodSecurity {
    pub(crate) fn new(context: &Context) -> Self {
        Self { api: context.api.clone(), namespaces: context.informers.of() }
    }

    async fn labels(&self, request: &Request<'_>) -> Result<BTreeMap<String, String>, ApiError> {
        self.namespaces.synced().await;
        if let Some(ns) = self.namespaces.get("", request.namespace) {
            return Ok(ns.metadata.labels.clone().unwrap_or_default());
        }
        let found = self.api.get(&format!("/api/v1/namespaces/{}", request.namespace)).await?;
        let missing = || ApiError::internal(format!("failed to lookup namespace {:?}", request.namespace));
        found.as_ref().map(meta::labels).ok_or_else(missing)
    }

    /// Warnings about existing pods when a namespace gets stricter.
    async fn namespace_warnings(&self, request: &Request<'_>) -> Result<Vec<String>, ApiError> {
        let (now, _) = policy(&meta::labels(request.new_object()));
        let (before, _) = policy(&meta::labels(request.old_object()));
        let (now, before) = (now.enforce, before.enforce);
        let laxer = now.minor == before.minor && now.level <= before.level;
        if request.operation == Operation::Create || now.level == Level::Privileged || laxer {
            return Ok(Vec::new());
        }
        let path = format!("/api/v1/namespaces/{}/pods", request.shown_name());
        let pods = self.api.get(&path).await?.unwrap_or_default();
        let pods = pods["items"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(existing_warnings(request.shown_name(), now, pods))
    }

    async fn warnings(&self, request: &Request<'_>) -> Result<Vec<String>, ApiError> {
        if request.is_main("", "namespaces") {
            return self.namespace_warnings(request).await;
        }
        let pod = match template(request) {
            Some(template) if request.subresource.is_none() => template,
            _ if judged_pod(request) => request.new_object(),
            _ => return Ok(Vec::new()),
        };
        let (policy, _) = policy(&self.labels(request).await?);
        if judged_pod(request) && !policy.enforce.check(pod).is_empty() {
            // It is going to be refused.
            return Ok(Vec::new());
        }
        let all = policy.warn.check(pod);
        let text = || format!("would violate PodSecurity {:?}: {}", policy.warn.text(), details(&all));
        Ok(if all.is_empty() { Vec::new() } else { vec![text()] })
    }
}

/// Whether the write is of a pod that the policy judges.
fn judged_pod(request: &Request<'_>) -> bool {
    let parts = matches!(request.subresource, None | Some("ephemeralcontainers" | "resize"));
    let update = request.operation == Operation::Update;
    request.is("", "pods") && parts && (!update || significant(request.new_object(), request.old_object()))
}

/// Labels of a namespace that are not understood are refused, unless they were there before.
fn check_namespace(request: &Request<'_>) -> Result<(), ApiError> {
    let (_, errors) = policy(&meta::labels(request.new_object()));
    let (_, before) = policy(&meta::labels(request.old_object()));
    if errors.is_empty() || (request.operation == Operation::Update && errors == before) {
        return Ok(());
    }
    let gk = knarr_machinery::GroupKind::new("", "Namespace");
    Err(ApiError::invalid(&gk, request.shown_name(), &errors))
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    // The object is not changed; warnings are told here because the other pass cannot add any.
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let warnings = self.warnings(request).await?;
        request.warnings.extend(warnings);
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        if request.is_main("", "namespaces") {
            return check_namespace(request);
        }
        if !judged_pod(request) {
            return Ok(());
        }
        let (policy, _) = policy(&self.labels(request).await?);
        let all = policy.enforce.check(request.new_object());
        if all.is_empty() {
            return Ok(());
        }
        Err(request.forbidden(format!("violates PodSecurity {:?}: {}", policy.enforce.text(), details(&all))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (format!("{LABEL}{k}"), (*v).to_string())).collect()
    }

    #[test]
    fn policies() {
        let (p, e) = policy(&labels(&[("enforce", "baseline"), ("enforce-version", "v1.30")]));
        assert!(e.is_empty());
        assert_eq!(p.enforce.text(), "baseline:v1.30");
        assert_eq!(p.warn.text(), "baseline:v1.30");
        let (p, _) = policy(&labels(&[("enforce", "restricted"), ("warn", "privileged")]));
        assert_eq!(
            (p.enforce.text(), p.warn.text()),
            ("restricted:latest".into(), "privileged:latest".into())
        );
        let (p, e) = policy(&labels(&[("enforce", "x"), ("warn-version", "1.2")]));
        assert_eq!(p.enforce.level, Level::Restricted);
        assert_eq!(p.warn.level, Level::Privileged);
        assert_eq!(
            e[0].to_string(),
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted"
        );
        assert_eq!(e.len(), 2);
        for (text, want) in [("latest", Some(u32::MAX)), ("v1.0", Some(0)), ("v1.01", None), ("v2.0", None)] {
            assert_eq!(version(text), want, "{text}");
        }
    }

    #[test]
    fn existing_pods() {
        let pod = |n: &str| json!({"metadata": {"name": n}, "spec": {"hostNetwork": true}});
        let standard = Standard { level: Level::Baseline, minor: u32::MAX };
        assert_eq!(
            existing_warnings("n", standard, &[pod("b"), pod("a"), json!({"spec": {}})]),
            [
                "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 1 other pod): host namespaces"
            ]
        );
    }
}
