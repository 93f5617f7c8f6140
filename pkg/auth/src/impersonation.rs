//! Acting as somebody else by the `Impersonate-*` headers, as far as the asking user may.

use http::HeaderMap;
use knarr_machinery::{ApiError, UserInfo};

use crate::attributes::{Attributes, Authorizer, ResourceAttributes, authorize};

/// What the headers ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `Impersonate-User`.
    pub user: String,
    /// `Impersonate-Uid`.
    pub uid: String,
    /// `Impersonate-Group`, any number.
    pub groups: Vec<String>,
    /// `Impersonate-Extra-<key>`, keys in lower case.
    pub extra: Vec<(String, String)>,
}

fn decode_key(key: &str) -> String {
    // Percent escapes stand for characters that header names cannot have.
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(b)) => {
                out.push(b);
                i += 3;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).to_lowercase()
}

/// Reads the headers; None when nothing is asked for.
///
/// # Errors
/// Headers without `Impersonate-User`.
pub fn wanted(headers: &HeaderMap) -> Result<Option<Wanted>, ApiError> {
    let one = |name: &str| {
        let v = headers.get(name).and_then(|v| v.to_str().ok());
        v.unwrap_or_default().to_string()
    };
    let mut out = Wanted { user: one("impersonate-user"), uid: one("impersonate-uid"), ..Wanted::default() };
    for (name, value) in headers {
        let Ok(value) = value.to_str() else { continue };
        if name == "impersonate-group" {
            out.groups.push(value.to_string());
        } else if let Some(key) = name.as_str().strip_prefix("impersonate-extra-") {
            out.extra.push((decode_key(key), value.to_string()));
        }
    }
    if out == Wanted::default() {
        return Ok(None);
    }
    if out.user.is_empty() {
        return Err(ApiError::internal("requested impersonation without impersonating a user"));
    }
    Ok(Some(out))
}

/// Checks every part of the impersonation and returns the identity to act as.
///
/// # Errors
/// 403 for the first part that the user may not impersonate.
pub async fn impersonate(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    wanted: &Wanted,
) -> Result<UserInfo, ApiError> {
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Attributes {
        user: user.clone(),
        verb: "impersonate".to_string(),
        resource: Some(ResourceAttributes {
            group: group.to_string(),
            version: "v1".to_string(),
            resource: resource.to_string(),
            subresource: subresource.to_string(),
            namespace: namespace.to_string(),
            name: name.to_string(),
            ..ResourceAttributes::default()
        }),
        path: String::new(),
    };
    let mut target = UserInfo {
        username: wanted.user.clone(),
        uid: wanted.uid.clone(),
        groups: wanted.groups.clone(),
        ..UserInfo::default()
    };
    let account = wanted.user.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':'));
    let first = match account {
        Some((namespace, name)) => {
            if wanted.groups.is_empty() {
                target.groups =
                    vec!["system:serviceaccounts".to_string(), format!("system:serviceaccounts:{namespace}")];
            }
            ask("", "serviceaccounts", "", namespace, name)
        }
        None => ask("", "users", "", "", &wanted.user),
    };
    let auth = "authentication.k8s.io";
    let mut asks = vec![first];
    asks.extend(wanted.groups.iter().map(|g| ask("", "groups", "", "", g)));
    if !wanted.uid.is_empty() {
        asks.push(ask(auth, "uids", "", "", &wanted.uid));
    }
    for (key, value) in &wanted.extra {
        asks.push(ask(auth, "userextras", key, "", value));
        target.extra.entry(key.clone()).or_default().push(value.clone());
    }
    for a in &asks {
        authorize(authorizer, a).await?;
    }
    let group =
        if wanted.user == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !target.in_group("system:unauthenticated") && !target.in_group(group) {
        target.groups.push(group.to_string());
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Decision;
    use async_trait::async_trait;

    struct OnlyUsers;

    #[async_trait]
    impl Authorizer for OnlyUsers {
        async fn authorize(&self, a: &Attributes) -> Decision {
            match a.resource.as_ref().map(|r| r.resource.as_str()) {
                Some("users" | "serviceaccounts") => Decision::Allow(String::new()),
                _ => Decision::NoOpinion(String::new()),
            }
        }
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (k, v) in list {
            h.append(*k, v.parse().unwrap());
        }
        h
    }

    #[tokio::test]
    async fn parts() {
        assert_eq!(wanted(&headers(&[])).unwrap(), None);
        assert_eq!(wanted(&headers(&[("impersonate-group", "g")])).unwrap_err().code, 500);
        let w = wanted(&headers(&[("impersonate-user", "u"), ("impersonate-extra-acme.com%2fproject", "x")]));
        let w = w.unwrap().unwrap();
        assert_eq!(w.extra, [("acme.com/project".to_string(), "x".to_string())]);
        let me = UserInfo::component("me", &[]);
        let e = impersonate(&OnlyUsers, &me, &w).await.unwrap_err();
        assert_eq!(
            e.message,
            "userextras.authentication.k8s.io \"x\" is forbidden: User \"me\" cannot impersonate resource \"userextras/acme.com/project\" in API group \"authentication.k8s.io\" at the cluster scope"
        );
        let w = Wanted { user: "system:serviceaccount:n:a".into(), ..Wanted::default() };
        let user = impersonate(&OnlyUsers, &me, &w).await.unwrap();
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]
        );
        let w = Wanted { user: "u".into(), groups: vec!["g".into()], ..Wanted::default() };
        assert_eq!(impersonate(&OnlyUsers, &me, &w).await.unwrap_err().code, 403);
    }
}
