//! The arithmetic of rollouts. Pure.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::revision::{desired_of, max_of};

/// A new size for one of the sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resize {
    /// Name of the set.
    pub name: String,
    /// Its new `spec.replicas`.
    pub to: i32,
}

/// `spec.replicas` of a deployment.
pub fn wanted(d: &Deployment) -> i32 {
    d.spec.replicas.unwrap_or(1)
}

/// `spec.replicas` of a set.
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// `status.availableReplicas` of a set.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Whether the strategy is Recreate.
pub fn is_recreate(d: &Deployment) -> bool {
    d.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

pub(super) fn created(set: &ReplicaSet) -> Option<Timestamp> {
    set.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    created(a).cmp(&created(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// Sets in order of creation.
pub fn oldest_first<'a>(sets: &[&'a ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let mut sets = sets.to_vec();
    sets.sort_by(|a, b| by_age(a, b));
    sets
}

fn scaled(value: Option<&IntOrString>, of: i32, round_up: bool) -> i32 {
    match value {
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(of);
            let value = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(value).unwrap_or(i32::MAX)
        }
        None => 0,
    }
}

/// Surge and unavailability in pods: (max surge, max unavailable). Both zero would never move, so one may then be
/// unavailable.
pub fn fenceposts(d: &Deployment) -> (i32, i32) {
    if is_recreate(d) {
        return (0, 0);
    }
    let rolling = d.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let (surge, unavailable) = match rolling {
        Some(r) => (r.max_surge.as_ref().unwrap_or(&quarter), r.max_unavailable.as_ref().unwrap_or(&quarter)),
        None => (&quarter, &quarter),
    };
    let surge = scaled(Some(surge), wanted(d), true);
    let mut unavailable = scaled(Some(unavailable), wanted(d), false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    (surge, unavailable)
}

/// Pods that may be unavailable now.
pub fn max_unavailable(d: &Deployment) -> i32 {
    if is_recreate(d) || wanted(d) == 0 { 0 } else { fenceposts(d).1.min(wanted(d)) }
}

/// Pods that there may be at most while rolling.
pub fn max_total(d: &Deployment) -> i32 {
    wanted(d).saturating_add(fenceposts(d).0)
}

/// The size that the new set should have now. `new` is its present size, `total` that of all sets together.
pub fn new_set_size(d: &Deployment, new: i32, total: i32) -> i32 {
    if is_recreate(d) {
        return wanted(d);
    }
    if total >= max_total(d) {
        return new;
    }
    new + (max_total(d) - total).min(wanted(d) - new)
}

/// One step up of the new set, or down when it is too large.
pub fn step_new(d: &Deployment, new: &ReplicaSet, all: &[&ReplicaSet]) -> Option<Resize> {
    let now = size(new);
    let to = match now.cmp(&wanted(d)) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Greater => wanted(d),
        std::cmp::Ordering::Less => new_set_size(d, now, all.iter().map(|s| size(s)).sum()),
    };
    (to != now).then(|| resize(new, to))
}

fn resize(set: &ReplicaSet, to: i32) -> Resize {
    Resize { name: set.metadata.name.clone().unwrap_or_default(), to }
}

/// One step down of the old sets: pods that are not available first, then available ones as far as the budget goes.
pub fn step_old(d: &Deployment, new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Vec<Resize> {
    let old_total: i32 = old.iter().map(|s| size(s)).sum();
    if old_total == 0 {
        return Vec::new();
    }
    let min_available = wanted(d) - max_unavailable(d);
    let (new_size, new_available) = new.map_or((0, 0), |s| (size(s), available(s)));
    let budget = old_total + new_size - min_available - (new_size - new_available);
    if budget <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<(&ReplicaSet, i32)> = oldest_first(old).into_iter().map(|s| (s, size(s))).collect();
    let mut cleaned = 0;
    for (set, now) in &mut sizes {
        if cleaned >= budget {
            break;
        }
        let cut = (budget - cleaned).min((*now - available(set)).max(0));
        *now -= cut;
        cleaned += cut;
    }
    let all_available: i32 = old.iter().map(|s| available(s)).sum::<i32>() + new_available;
    let mut left = (all_available - min_available).max(0);
    for (_, now) in &mut sizes {
        let cut = left.min(*now);
        *now -= cut;
        left -= cut;
    }
    sizes.into_iter().filter(|(set, now)| size(set) != *now).map(|(set, now)| resize(set, now)).collect()
}

/// Whether the new set alone carries the deployment.
pub fn is_saturated(d: &Deployment, new: Option<&ReplicaSet>) -> bool {
    new.is_some_and(|set| {
        desired_of(set) == Some(wanted(d)) && size(set) == wanted(d) && available(set) == wanted(d)
    })
}

/// Sizes after the deployment itself was scaled, in the middle of a rollout or paused.
pub fn scale(d: &Deployment, new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Vec<Resize> {
    if let Some(only) = active_or_latest(new, old) {
        // Told even when the size is right: the annotations of the set must follow the deployment.
        return vec![resize(only, wanted(d))];
    }
    let active_old: Vec<_> = old.iter().copied().filter(|s| size(s) > 0).collect();
    if is_saturated(d, new) {
        return active_old.into_iter().map(|s| resize(s, 0)).collect();
    }
    if is_recreate(d) {
        return Vec::new();
    }
    let mut all: Vec<_> = active_old;
    all.extend(new.filter(|s| size(s) > 0));
    let total: i32 = all.iter().map(|s| size(s)).sum();
    let allowed = if wanted(d) > 0 { max_total(d) } else { 0 };
    proportional(d, all, allowed - total)
}

/// The set to scale when only one counts: the single active one, or the newest when none is active.
fn active_or_latest<'a>(new: Option<&'a ReplicaSet>, old: &[&'a ReplicaSet]) -> Option<&'a ReplicaSet> {
    let mut active = old.iter().copied().chain(new).filter(|s| size(s) > 0);
    match (active.next(), active.next()) {
        (None, _) => new.or_else(|| oldest_first(old).pop()),
        (Some(only), None) => Some(only),
        _ => None,
    }
}

fn proportional(d: &Deployment, mut all: Vec<&ReplicaSet>, to_add: i32) -> Vec<Resize> {
    // Larger sets first; equal ones newer first when growing, older first when shrinking.
    all.sort_by(|a, b| {
        size(b).cmp(&size(a)).then_with(|| if to_add > 0 { by_age(b, a) } else { by_age(a, b) })
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(all.len());
    for set in &all {
        let share = share(d, set, to_add, added);
        sizes.push(size(set) + share);
        added += share;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    // Unchanged sets are told as well: their annotations must follow.
    all.into_iter().zip(sizes).map(|(set, to)| resize(set, to)).collect()
}

fn share(d: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if size(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let allowed = to_add - added;
    let fraction = fraction(d, set);
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(d: &Deployment, set: &ReplicaSet) -> i32 {
    if wanted(d) == 0 {
        return -size(set);
    }
    let status_replicas = d.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
    let before = max_of(set).filter(|n| *n != 0).unwrap_or(status_replicas);
    if before <= 0 {
        return 0;
    }
    let exact = f64::from(size(set)) * f64::from(max_total(d)) / f64::from(before);
    #[allow(clippy::cast_possible_truncation)]
    let rounded = exact.round() as i32;
    rounded - size(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        let value = |v: &str| v.parse::<i32>().map_or_else(|_| json!(v), |n| json!(n));
        serde_json::from_value(json!({
            "metadata": {"name": "d"},
            "spec": {"replicas": replicas, "selector": {}, "template": {"spec": {"containers": []}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": value(surge), "maxUnavailable": value(unavailable)}}},
        }))
        .unwrap()
    }

    fn set(name: &str, size: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"replicas": size, "selector": {}},
            "status": {"replicas": size, "availableReplicas": available},
        }))
        .unwrap()
    }

    #[test]
    fn posts() {
        for (n, surge, unavailable, expected) in [
            (10, "25%", "25%", (3, 2)),
            (1, "25%", "25%", (1, 0)),
            (3, "0", "0", (0, 1)),
            (10, "0", "20%", (0, 2)),
            (0, "25%", "25%", (0, 1)),
        ] {
            assert_eq!(fenceposts(&deployment(n, surge, unavailable)), expected, "{n} {surge} {unavailable}");
        }
    }

    #[test]
    fn new_set() {
        // (wanted, surge, unavailable, new, old) -> new size
        for (n, s, u, new, old, to) in [
            (10, "2", "0", 0, 10, Some(2)),
            (10, "0", "2", 0, 10, None),
            (10, "5", "0", 0, 10, Some(5)),
            (10, "0", "1", 10, 0, None),
            (2, "1", "1", 5, 0, Some(2)),
            (10, "50%", "0", 5, 8, Some(7)),
        ] {
            let d = deployment(n, s, u);
            let (new, old) = (set("n", new, new), set("o", old, old));
            let got = step_new(&d, &new, &[&old, &new]).map(|r| r.to);
            assert_eq!(got, to, "{n} {s} {u}");
        }
    }

    #[test]
    fn old_sets() {
        let check = |d: &Deployment, new: ReplicaSet, old: &[ReplicaSet], expected: &[(&str, i32)]| {
            let old: Vec<_> = old.iter().collect();
            let got = step_old(d, Some(&new), &old);
            let got: Vec<_> = got.iter().map(|r| (r.name.as_str(), r.to)).collect();
            assert_eq!(got, expected);
        };
        let d = deployment(10, "0", "2");
        check(&d, set("n", 0, 0), &[set("o", 10, 10)], &[("o", 8)]);
        check(&d, set("n", 2, 0), &[set("o", 8, 8)], &[]);
        check(&d, set("n", 2, 2), &[set("o", 8, 8)], &[("o", 6)]);
        // Unhealthy pods of old sets go first and do not count against availability.
        check(&d, set("n", 2, 2), &[set("a", 4, 0), set("b", 6, 6)], &[("a", 0)]);
        check(&d, set("n", 10, 10), &[set("o", 0, 0)], &[]);
    }

    #[test]
    fn scaling_in_proportion() {
        let mut d = deployment(20, "0", "1");
        d.status = Some(serde_json::from_value(json!({"replicas": 10})).unwrap());
        let (old, new) = (set("o", 7, 7), set("n", 3, 3));
        let got = scale(&d, Some(&new), &[&old]);
        assert_eq!(got, [Resize { name: "o".into(), to: 14 }, Resize { name: "n".into(), to: 6 }]);
        let d = deployment(5, "1", "0");
        assert_eq!(scale(&d, Some(&set("n", 3, 3)), &[]), [Resize { name: "n".into(), to: 5 }]);
        assert_eq!(
            scale(&d, Some(&set("n", 5, 5)), &[&set("o", 0, 0)]),
            [Resize { name: "n".into(), to: 5 }]
        );
    }
}
