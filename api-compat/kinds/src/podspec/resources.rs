//! Validation of resource requirements, of containers and of whole pods.

use std::collections::{BTreeMap, BTreeSet};

use knarr_machinery::quantity::Quantity;
use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::scene::{Scene, given};
use crate::check::{self, Errors};
use crate::value::{list, text};

/// Quantities by resource.
pub(super) type Amounts<'a> = BTreeMap<&'a str, Quantity>;

/// Resources of huge pages of one size.
fn is_huge_page(resource: &str) -> bool {
    resource.starts_with("hugepages-")
}

/// Without a domain, or in the domain of Kubernetes.
fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

/// Domain-qualified resources that nodes offer in whole numbers.
fn is_extended(resource: &str) -> bool {
    !is_native(resource)
        && !resource.starts_with("requests.")
        && names::is_qualified_name(&format!("requests.{resource}")).is_empty()
}

/// Resources that may be asked for more than once over.
fn is_overcommittable(resource: &str) -> bool {
    is_native(resource) && !is_huge_page(resource)
}

/// Objects that are counted.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

fn is_standard(resource: &str) -> bool {
    let amounts = ["cpu", "memory", "ephemeral-storage", "storage"];
    let bounded = resource.strip_prefix("requests.").or_else(|| resource.strip_prefix("limits."));
    amounts.contains(&resource)
        || COUNTED.contains(&resource)
        || is_huge_page(resource)
        || bounded.is_some_and(|r| amounts[..3].contains(&r))
        || resource == "requests.storage"
        || resource.starts_with("requests.hugepages-")
}

/// A name of any resource.
pub(crate) fn validate_name(errors: &mut Errors, resource: &str, path: &Path) {
    let messages = names::is_qualified_name(resource);
    if messages.is_empty() && !resource.contains('/') && !is_standard(resource) {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path, resource, detail));
    }
    check::names(errors, messages, resource.into(), path);
}

/// A name of a resource that containers have.
fn container_name(errors: &mut Errors, resource: &str, path: &Path) {
    validate_name(errors, resource, path);
    let own = ["cpu", "memory", "ephemeral-storage"].contains(&resource) || is_huge_page(resource);
    if !resource.contains('/') {
        if !own {
            errors.push(FieldError::invalid(path, resource, "must be a standard resource for containers"));
        }
    } else if !is_native(resource) && !is_extended(resource) {
        let detail = "doesn't follow extended resource name standard";
        errors.push(FieldError::invalid(path, resource, detail));
    }
}

fn is_pod_level(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory") || is_huge_page(resource)
}

/// A name of a resource that whole pods have.
fn pod_name(errors: &mut Errors, resource: &str, path: &Path) {
    let before = errors.len();
    validate_name(errors, resource, path);
    if errors.len() == before && !is_pod_level(resource) {
        errors.push(FieldError::not_supported(path, resource, &["cpu", "hugepages-", "memory"]));
    }
}

/// An amount is not negative, and whole where halves make no sense.
pub(crate) fn validate_amount(errors: &mut Errors, resource: &str, amount: &Quantity, path: &Path) {
    if amount.sign() < 0 {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path, amount.to_string(), detail));
    }
    if (COUNTED.contains(&resource) || is_extended(resource)) && amount.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(path, amount.to_string(), "must be an integer"));
    }
}

type NameCheck = fn(&mut Errors, &str, &Path);

fn amounts<'a>(errors: &mut Errors, value: Option<&'a Value>, name: NameCheck, path: &Path) -> Amounts<'a> {
    let mut parsed = Amounts::new();
    for (key, v) in value.and_then(Value::as_object).into_iter().flatten() {
        let at = path.key(key);
        name(errors, key, &at);
        match Quantity::from_json(v) {
            Ok(q) => {
                validate_amount(errors, key, &q, &at);
                if is_huge_page(key) && !is_whole_pages(key, &q) {
                    let detail = format!("{q} is not positive integer multiple of {key}");
                    errors.push(FieldError::invalid(&at, q.to_string(), detail));
                }
                parsed.insert(key.as_str(), q);
            }
            Err(e) => errors.push(FieldError::invalid(&at, v.clone(), e)),
        }
    }
    parsed
}

/// Whether an amount of huge pages is a multiple of their size.
fn is_whole_pages(resource: &str, amount: &Quantity) -> bool {
    let size = resource.strip_prefix("hugepages-").and_then(|s| Quantity::parse(s).ok());
    size.is_some_and(|s| s.sign() > 0 && s.is_integer() && amount.value() % s.value() == 0)
}

/// A map of quantities with names of any resource: `overhead` and its like.
pub(crate) fn validate_list(errors: &mut Errors, value: Option<&Value>, path: &Path) {
    amounts(errors, value, container_name, path);
}

/// Limits, requests and claims of a container; without `claims` none may be named.
pub(super) fn validate_container(
    errors: &mut Errors,
    resources: &Value,
    claims: Option<&BTreeSet<&str>>,
    path: &Path,
) {
    requirements(errors, resources, container_name, path);
    validate_claims(errors, list(resources, "/claims"), claims, &path.child("claims"));
}

fn requirements(errors: &mut Errors, resources: &Value, name: NameCheck, path: &Path) {
    let (limit_path, request_path) = (path.child("limits"), path.child("requests"));
    let limits = amounts(errors, resources.get("limits"), name, &limit_path);
    let requests = amounts(errors, resources.get("requests"), name, &request_path);
    for (key, request) in &requests {
        let detail = match limits.get(key) {
            Some(limit) if request != limit && !is_overcommittable(key) => {
                format!("must be equal to {key} limit of {limit}")
            }
            Some(limit) if request > limit => format!("must be less than or equal to {key} limit of {limit}"),
            None if !is_overcommittable(key) => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(&limit_path, detail));
                continue;
            }
            _ => continue,
        };
        errors.push(FieldError::invalid(&request_path, request.to_string(), detail));
    }
    let mut keys = limits.keys().chain(requests.keys());
    let compute = keys.clone().any(|k| matches!(*k, "cpu" | "memory"));
    if !compute && keys.any(|k| is_huge_page(k)) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

fn validate_claims(errors: &mut Errors, claims: &[Value], known: Option<&BTreeSet<&str>>, path: &Path) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let (at, name) = (path.index(i), text(claim, "/name"));
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        if seen.contains(name) {
            errors.push(FieldError::duplicate(&at, name));
        } else {
            let request = text(claim, "/request");
            let key = if request.is_empty() { name.to_string() } else { format!("{name}/{request}") };
            if !request.is_empty() {
                check::dns_label(errors, request, &at.child("request"));
            }
            if seen.contains(&key) {
                errors.push(FieldError::duplicate(&at, key.as_str()));
            } else if request.is_empty() {
                let parts = seen.iter().filter(|k| k.split_once('/').is_some_and(|(n, _)| n == name)).count();
                errors.extend((0..parts).map(|_| FieldError::duplicate(&at, name)));
            }
            seen.insert(key);
        }
        if !known.is_some_and(|k| k.contains(name)) {
            let mut error = FieldError::not_found(&at, name);
            let names: Vec<&str> = known.into_iter().flatten().copied().collect();
            error.detail = match names.is_empty() {
                true => "must be one of the names in pod.spec.resourceClaims which is empty".to_string(),
                false => format!("must be one of the names in pod.spec.resourceClaims: {}", names.join(", ")),
            };
            errors.push(error);
        }
    }
}

/// `spec.resources`: what the pod as a whole may use.
pub(super) fn validate_pod(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    let Some(resources) = given(scene.spec, "resources") else { return };
    let claims = path.child("claims");
    if given(resources, "claims").is_some() {
        let detail = "claims cannot be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&claims, detail));
    }
    requirements(errors, resources, pod_name, path);
    validate_claims(errors, list(resources, "/claims"), Some(&scene.claims), &claims);
    let own = |key: &str, name: &str| {
        resources.get(key).and_then(|m| m.get(name)).and_then(|v| Quantity::from_json(v).ok())
    };
    for (name, sum) in aggregate(scene.spec, "requests") {
        if !is_pod_level(name) {
            continue;
        }
        let pod = own("requests", name).unwrap_or_else(|| Quantity::from_value(0, sum.format()));
        if sum > pod {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(FieldError::invalid(&path.child("requests").key(name), pod.to_string(), detail));
        }
    }
    for (i, c) in list(scene.spec, "/containers").iter().enumerate() {
        for (name, limit) in parse(c, "limits") {
            if let Some(pod) = own("limits", name).filter(|pod| limit > *pod) {
                let at = path.child("containers").index(i).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {pod}");
                errors.push(FieldError::invalid(&at, limit.to_string(), detail));
            }
        }
    }
}

/// Requests or limits of a container.
fn parse<'a>(c: &'a Value, key: &str) -> Amounts<'a> {
    c.pointer(&format!("/resources/{key}"))
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.as_str(), Quantity::from_json(v).ok()?)))
        .collect()
}

fn add<'a>(sum: &mut Amounts<'a>, more: &Amounts<'a>) {
    for (key, q) in more {
        let total = sum.get(key).map_or_else(|| q.clone(), |s| s.add(q));
        sum.insert(key, total);
    }
}

fn raise<'a>(most: &mut Amounts<'a>, other: &Amounts<'a>) {
    for (key, q) in other {
        if most.get(key).is_none_or(|m| q > m) {
            most.insert(key, q.clone());
        }
    }
}

/// What the containers need together: the sum of those that run side by side, or more while the init containers run.
pub(super) fn aggregate<'a>(spec: &'a Value, key: &str) -> Amounts<'a> {
    let mut total = Amounts::new();
    for c in list(spec, "/containers") {
        add(&mut total, &parse(c, key));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for c in list(spec, "/initContainers") {
        let own = parse(c, key);
        if text(c, "/restartPolicy") == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut most, &sidecars);
        } else {
            let mut while_it_runs = own;
            add(&mut while_it_runs, &sidecars);
            raise(&mut most, &while_it_runs);
        }
    }
    raise(&mut total, &most);
    total
}

/// Whether the pod as a whole may be given an amount of this resource.
pub(super) fn pod_may_have(resource: &str) -> bool {
    is_pod_level(resource)
}

/// Whether requests of this resource may be lower than its limit.
pub(super) fn may_overcommit(resource: &str) -> bool {
    is_overcommittable(resource)
}
