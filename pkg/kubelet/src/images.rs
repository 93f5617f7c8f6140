//! Images: pull policy, credentials and the wording of failures. Pure but for [`credentials`].

use k8s_openapi::api::core::v1::Pod;
use knarr_cri::{archive, v1};
use knarr_volumes::Source;

/// What to do about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Use what is here.
    Present,
    /// Fetch it.
    Pull,
    /// It may not be fetched and is not here.
    Never,
}

/// Decides by policy.
pub fn step(image: &str, policy: Option<&str>, present: bool) -> Step {
    let policy = match policy {
        Some(policy) if !policy.is_empty() => policy,
        _ if archive::normalize(image).ends_with(":latest") => "Always",
        _ => "IfNotPresent",
    };
    match (policy, present) {
        ("Always", _) | ("IfNotPresent", false) => Step::Pull,
        ("Never", false) => Step::Never,
        _ => Step::Present,
    }
}

/// Why a name is no image name, if so.
pub fn invalid(image: &str) -> Option<String> {
    let reason = "invalid reference format";
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let (path, tag) = match last.rsplit_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    let part = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
    };
    let host = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".:-[]".contains(c))
    };
    let mut parts = path.split('/').peekable();
    let first = parts.next().unwrap_or_default();
    let good = (if parts.peek().is_some() { part(first) || host(first) } else { part(first) })
        && parts.all(part)
        && tag.is_none_or(|t| {
            !t.is_empty()
                && t.len() <= 128
                && t.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        })
        && digest.is_none_or(|d| {
            d.split_once(':').is_some_and(|(a, h)| {
                !a.is_empty() && h.len() >= 32 && h.chars().all(|c| c.is_ascii_hexdigit())
            })
        });
    (!good).then(|| {
        format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {reason}")
    })
}

/// The registry of an image, and the path below it.
fn registry(image: &str) -> (String, String) {
    let full = archive::normalize(image);
    full.split_once('/').map(|(r, p)| (r.to_owned(), p.to_owned())).unwrap_or_default()
}

/// Credentials from the pod's registry secrets that fit the image, best first.
pub async fn credentials(pod: &Pod, image: &str, source: &dyn Source) -> Result<Vec<v1::AuthConfig>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        let Some(secret) = source.secret(namespace, &reference.name).await? else {
            tracing::warn!(
                pod = crate::spec::title(pod),
                secret = reference.name,
                "image pull secret not found"
            );
            continue;
        };
        let data = secret.data.unwrap_or_default();
        if let Some(document) = data.get(".dockerconfigjson") {
            found.extend(matching(&document.0, true, image));
        } else if let Some(document) = data.get(".dockercfg") {
            found.extend(matching(&document.0, false, image));
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    Ok(found.into_iter().map(|(_, auth)| auth).collect())
}

fn matching(document: &[u8], nested: bool, image: &str) -> Vec<(usize, v1::AuthConfig)> {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(document) else { return Vec::new() };
    let entries = if nested { value.get("auths").cloned().unwrap_or_default() } else { value };
    let (registry, path) = registry(image);
    let text = |entry: &serde_json::Value, key: &str| {
        entry.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
    };
    let entries = entries.as_object().cloned().unwrap_or_default();
    entries
        .iter()
        .filter(|(server, _)| fits(server, &registry, &path))
        .map(|(server, entry)| {
            let auth = v1::AuthConfig {
                username: text(entry, "username"),
                password: text(entry, "password"),
                auth: text(entry, "auth"),
                identity_token: text(entry, "identitytoken"),
                registry_token: text(entry, "registrytoken"),
                ..Default::default()
            };
            (server.len(), auth)
        })
        .collect()
}

fn fits(server: &str, registry: &str, path: &str) -> bool {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let server = server.trim_end_matches("/v1").trim_end_matches("/v2");
    let (host, prefix) = server.split_once('/').unwrap_or((server, ""));
    let hub = |h: &str| matches!(h, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let same = if hub(registry) { hub(host) } else { glob(host, registry) };
    same && path.starts_with(prefix)
}

/// `*` stands for one part of a host name.
fn glob(pattern: &str, host: &str) -> bool {
    let (pattern, host): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern.len() == host.len() && pattern.iter().zip(&host).all(|(p, h)| *p == "*" || p == h)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        assert_eq!(step("a", None, true), Step::Pull);
        assert_eq!(step("a:1", None, true), Step::Present);
        assert_eq!(step("a:1", None, false), Step::Pull);
        assert_eq!(step("a:1", Some("Never"), false), Step::Never);
        assert_eq!(step("a:1", Some("Always"), true), Step::Pull);
    }

    #[test]
    fn names() {
        for good in [
            "a",
            "a:1",
            "r.io:5000/a/b:v1",
            "localhost/a",
            "a@sha256:0123456789012345678901234567890123456789012345678901234567890123",
        ] {
            assert_eq!(invalid(good), None, "{good}");
        }
        for bad in ["", "A", "a b", "a:", "r/a:x y", "/a", "a@x"] {
            assert!(invalid(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn credentials_fit_by_registry() {
        let document = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"hub"},"*.example.com":{"auth":"any"},"r.example.com/team":{"auth":"team"}}}"#;
        let auths = |image: &str| {
            matching(document, true, image).into_iter().map(|(_, a)| a.auth).collect::<Vec<_>>()
        };
        assert_eq!(auths("busybox"), ["hub"]);
        assert_eq!(auths("r.example.com/team/x"), ["any", "team"]);
        assert!(auths("other.io/x").is_empty());
    }
}
