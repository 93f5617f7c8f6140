//! Who makes a request (`authentication.k8s.io` UserInfo).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The identity that authentication found. In-process components carry it as a request extension.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserInfo {
    /// User name, for example `system:kube-scheduler`.
    #[serde(default)]
    pub username: String,
    /// Stable identifier of the user, may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Groups, for example `system:authenticated`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Further facts given by the authenticator.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A component or test identity; `system:authenticated` is added to its groups.
    pub fn component(username: &str, groups: &[&str]) -> Self {
        let mut all: Vec<String> = groups.iter().map(|g| (*g).to_string()).collect();
        all.push("system:authenticated".to_string());
        Self { username: username.to_string(), groups: all, ..Self::default() }
    }

    /// The anonymous user of upstream.
    pub fn anonymous() -> Self {
        Self {
            username: "system:anonymous".to_string(),
            groups: vec!["system:unauthenticated".to_string()],
            ..Self::default()
        }
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
