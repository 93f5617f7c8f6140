//! Crates carry a level; dependencies only go down. A deny list names edges that levels alone would allow.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Every crate with its directory and level, bottom up. Test crates may use anything and be used by nothing.
pub const LEVELS: &[(&str, &str, u8)] = &[
    ("knarr-machinery", "api-compat/machinery", 0),
    ("knarr-telemetry", "pkg/telemetry", 0),
    ("knarr-pki", "pkg/pki", 0),
    ("knarr-cri", "pkg/cri", 0),
    ("knarr-datastore", "pkg/datastore", 0),
    ("knarr-streaming", "pkg/streaming", 0),
    ("knarr-ipam", "cni/ipam", 0),
    ("knarr-netlink", "cni/netlink", 0),
    ("knarr-cel", "api-compat/cel", 1),
    ("knarr-schema", "api-compat/schema", 1),
    ("knarr-client", "pkg/client", 2),
    ("knarr-kinds", "api-compat/kinds", 2),
    ("knarr-plugin", "cni/plugin", 2),
    ("knarr-openapi", "api-compat/openapi", 3),
    ("knarr-registry", "pkg/registry", 3),
    ("knarr-auth", "pkg/auth", 3),
    ("knarr-admission", "pkg/admission", 3),
    ("knarr-volumes", "pkg/volumes", 3),
    ("knarr-controllers", "pkg/controllers", 3),
    ("knarr-scheduler", "pkg/scheduler", 3),
    ("knarr-policy", "pkg/policy", 3),
    ("knarr-proxy", "pkg/proxy", 3),
    ("knarr-dns", "pkg/dns", 3),
    ("knarr-addons", "pkg/addons", 3),
    ("knarr-overlay", "cni/overlay", 3),
    ("knarr-apiserver", "pkg/apiserver", 4),
    ("knarr-kubelet", "pkg/kubelet", 4),
    ("knarr-agent", "pkg/agent", 5),
    ("knarr-config", "pkg/config", 5),
    ("knarr", "cmd/knarr", 6),
    ("xtask", "cmd/xtask", 6),
];

/// Test-only crates.
const TESTS: &[(&str, &str)] = &[
    ("knarr-bench", "tests/bench"),
    ("knarr-conformance", "conformance"),
    ("knarr-e2e", "tests/e2e"),
    ("knarr-golden", "api-compat/golden"),
    ("knarr-harness", "tests/harness"),
    ("knarr-netns", "tests/netns"),
];

/// Edges that may not be, whatever the levels say: (from, to, why).
const DENY: &[(&str, &str, &str)] = &[
    ("knarr-controllers", "knarr-registry", "components reach state through a client"),
    ("knarr-controllers", "knarr-datastore", "components reach state through a client"),
    ("knarr-scheduler", "knarr-registry", "components reach state through a client"),
    ("knarr-scheduler", "knarr-datastore", "components reach state through a client"),
    ("knarr-kubelet", "knarr-registry", "components reach state through a client"),
    ("knarr-kubelet", "knarr-datastore", "components reach state through a client"),
    ("knarr-policy", "knarr-registry", "components reach state through a client"),
    ("knarr-policy", "knarr-datastore", "components reach state through a client"),
    ("knarr-proxy", "knarr-registry", "components reach state through a client"),
    ("knarr-proxy", "knarr-datastore", "components reach state through a client"),
    ("knarr-dns", "knarr-registry", "components reach state through a client"),
    ("knarr-dns", "knarr-datastore", "components reach state through a client"),
    ("knarr-agent", "knarr-datastore", "an agent needs no access to the datastore"),
    ("knarr-apiserver", "knarr-controllers", "the server does not know who its clients are"),
];

/// What the pure crates may not see.
const PURE_DENY: &[&str] =
    &["tokio", "hyper", "axum", "http", "kube", "tonic", "sqlx", "rustls", "rustix", "nix"];

/// All findings about edges.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for (name, dir, level) in LEVELS {
        let manifest = root.join(dir).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        for dep in dependencies(&text) {
            findings.extend(edge(name, dir, *level, &dep));
        }
    }
    findings.extend(unlisted(root)?);
    Ok(findings)
}

fn edge(name: &str, dir: &str, level: u8, dep: &str) -> Option<String> {
    if let Some((_, _, why)) = DENY.iter().find(|(from, to, _)| *from == name && *to == dep) {
        return Some(format!("{dir}/Cargo.toml: {name} may not depend on {dep}: {why}"));
    }
    if dir.starts_with("api-compat/") && PURE_DENY.contains(&dep) {
        return Some(format!("{dir}/Cargo.toml: {name} is pure and may not depend on {dep}"));
    }
    if TESTS.iter().any(|(test, _)| *test == dep) {
        return Some(format!("{dir}/Cargo.toml: {name} may not depend on the test crate {dep}"));
    }
    let (_, _, below) = LEVELS.iter().find(|(n, _, _)| *n == dep)?;
    (*below >= level).then(|| {
        format!("{dir}/Cargo.toml: {name} (level {level}) may not depend on {dep} (level {below}): edges only go down")
    })
}

/// Workspace members that the table does not know.
fn unlisted(root: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(root.join("Cargo.toml"))?;
    let members = text.split("members = [").nth(1).and_then(|t| t.split(']').next()).unwrap_or_default();
    Ok(members
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|m| !LEVELS.iter().any(|(_, dir, _)| dir == m) && !TESTS.iter().any(|(_, dir)| dir == m))
        .map(|m| format!("Cargo.toml: member {m} has no level in cmd/xtask/src/levels.rs"))
        .collect())
}

/// Names in `[dependencies]` (not dev- or build-dependencies).
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside
            && let Some(name) =
                line.split(['.', '=', ' ']).next().filter(|n| !n.is_empty() && !n.starts_with('#'))
        {
            names.push(name.to_string());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_up_sideways_denied_and_impure_are_found() {
        assert!(edge("knarr-registry", "pkg/registry", 3, "knarr-kinds").is_none());
        assert!(edge("knarr-registry", "pkg/registry", 3, "knarr-auth").is_some());
        assert!(edge("knarr-apiserver", "pkg/apiserver", 4, "knarr-controllers").is_some());
        assert!(edge("knarr-machinery", "api-compat/machinery", 0, "tokio").is_some());
        assert!(edge("knarr-kinds", "api-compat/kinds", 2, "serde_json").is_none());
    }

    #[test]
    fn only_real_dependencies_count() {
        let text = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = \"1\"\n[dev-dependencies]\nc = \"1\"\n";
        assert_eq!(dependencies(text), ["a", "b"]);
    }
}
