//! CNI's protocol: versions, environment, error documents.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

/// Versions of the specification we speak.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// An error document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// Code of the specification; from 100 on our own.
    pub code: u32,
    /// What went wrong, with the object.
    pub message: String,
}

impl CniError {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The configuration's version is not spoken.
    pub fn version(found: &str) -> Self {
        Self::new(
            1,
            format!("cniVersion {found:?} is not supported; supported are {}", SUPPORTED_VERSIONS.join(", ")),
        )
    }

    /// A field has a value that we do not support.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(2, message)
    }

    /// The environment is wrong.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(4, message)
    }

    /// Reading or writing failed.
    pub fn io(operation: &str, detail: impl std::fmt::Display) -> Self {
        Self::new(5, format!("{operation}: {detail}"))
    }

    /// Standard input is not the JSON it should be.
    pub fn decode(detail: impl std::fmt::Display) -> Self {
        Self::new(6, format!("decode network configuration: {detail}"))
    }

    /// The network configuration is wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(7, message)
    }

    /// Not ready to attach containers.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(50, message)
    }

    /// The kernel refused.
    pub fn kernel(e: &knarr_netlink::Error) -> Self {
        Self::new(100, e.to_string())
    }

    /// No address to be had.
    pub fn address(e: &knarr_ipam::Error) -> Self {
        Self::new(101, e.to_string())
    }

    /// What CHECK found wrong.
    pub fn check(message: impl Into<String>) -> Self {
        Self::new(102, message)
    }

    /// As JSON.
    pub fn document(&self, version: String) -> String {
        json!({"cniVersion": version, "code": self.code, "msg": self.message}).to_string()
    }
}

impl From<knarr_netlink::Error> for CniError {
    fn from(e: knarr_netlink::Error) -> Self {
        Self::kernel(&e)
    }
}

impl From<knarr_ipam::Error> for CniError {
    fn from(e: knarr_ipam::Error) -> Self {
        Self::address(&e)
    }
}

/// The version the caller speaks; the newest common one if it cannot be read.
pub fn requested_version(input: &[u8]) -> String {
    let version = serde_json::from_slice::<Value>(input)
        .ok()
        .and_then(|v| v.get("cniVersion").and_then(Value::as_str).map(str::to_owned));
    version.unwrap_or_else(|| "1.0.0".to_owned())
}

/// Whether CNI_NETNS must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// It must.
    Required,
    /// The sandbox may be gone already.
    Optional,
}

/// The attachment an invocation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_NETNS.
    pub netns: Option<PathBuf>,
    /// CNI_IFNAME.
    pub interface: String,
    /// CNI_ARGS.
    pub args: BTreeMap<String, String>,
}

impl Invocation {
    /// Reads and checks the environment.
    pub fn attachment(env: &BTreeMap<String, String>, sandbox: Sandbox) -> Result<Self, CniError> {
        let get = |name: &str| env.get(name).filter(|v| !v.is_empty()).cloned();
        let need = |name: &str| get(name).ok_or_else(|| CniError::environment(format!("{name} is not set")));
        let container = need("CNI_CONTAINERID")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !container.chars().all(plain) || !container.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(CniError::environment(format!(
                "CNI_CONTAINERID {container:?} has other than letters, digits, '_', '.', '-'"
            )));
        }
        let interface = need("CNI_IFNAME")?;
        let odd = interface.len() > 15
            || interface == "."
            || interface == ".."
            || interface.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if odd {
            return Err(CniError::environment(format!("CNI_IFNAME {interface:?} is not an interface name")));
        }
        let netns = get("CNI_NETNS").map(PathBuf::from);
        if netns.is_none() && sandbox == Sandbox::Required {
            return Err(CniError::environment("CNI_NETNS is not set"));
        }
        let args = get("CNI_ARGS").unwrap_or_default();
        let args = args
            .split(';')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        Ok(Self { container, netns, interface, args })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_is_checked() {
        let env =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        for (pairs, sandbox, want) in [
            (
                &[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/x")][..],
                Sandbox::Required,
                None,
            ),
            (&[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")], Sandbox::Optional, None),
            (
                &[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")],
                Sandbox::Required,
                Some("CNI_NETNS is not set"),
            ),
            (&[("CNI_IFNAME", "eth0")], Sandbox::Optional, Some("CNI_CONTAINERID is not set")),
            (
                &[("CNI_CONTAINERID", "a/b"), ("CNI_IFNAME", "eth0")],
                Sandbox::Optional,
                Some("CNI_CONTAINERID \"a/b\""),
            ),
            (
                &[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "a b")],
                Sandbox::Optional,
                Some("CNI_IFNAME \"a b\""),
            ),
        ] {
            let got = Invocation::attachment(&env(pairs), sandbox);
            match want {
                None => assert!(got.is_ok(), "{got:?}"),
                Some(text) => {
                    let e = got.unwrap_err();
                    assert!(e.message.starts_with(text) && e.code == 4, "{e:?}");
                }
            }
        }
    }
}
