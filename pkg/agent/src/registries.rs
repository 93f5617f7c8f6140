//! `registries.yaml`: where images of which registry are pulled from, in the form that k3s users know.
//!
//! Entry points: [`Registries::read`], [`Registries::write_hosts`] (containerd's `certs.d`, read at each pull) and
//! [`Registries::credentials`] (the part that belongs in containerd's own configuration). What containerd as it is
//! published cannot do is refused by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Error;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    /// By registry name as in image names; "*" is every registry that has no entry of its own.
    #[serde(default)]
    pub mirrors: BTreeMap<String, Mirror>,
    /// Credentials and TLS, by registry or endpoint host.
    #[serde(default)]
    pub configs: BTreeMap<String, Host>,
}

/// Where images of a registry are also to be had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// URLs, asked in order before the registry itself.
    #[serde(default)]
    pub endpoint: Vec<String>,
    /// Patterns for names.
    #[serde(default)]
    pub rewrite: BTreeMap<String, String>,
}

/// How to speak to one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Credentials.
    pub auth: Option<Auth>,
    /// TLS.
    pub tls: Option<Tls>,
}

/// Credentials of a registry.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// User.
    #[serde(default)]
    pub username: String,
    /// Password.
    #[serde(default)]
    pub password: String,
    /// Base64 of `user:password`.
    #[serde(default)]
    pub auth: String,
    /// Identity token.
    #[serde(default)]
    pub token: String,
}

// Secrets do not belong in logs.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// TLS towards a registry; paths of PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Authority.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Believe anybody.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// The host part of a URL or registry name.
fn host_of(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Where a registry is by itself.
fn origin(registry: &str) -> String {
    match registry {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        other => format!("https://{other}"),
    }
}

impl Registries {
    /// Reads the file; none is there, none is meant.
    ///
    /// # Errors
    /// It cannot be read, has an unknown key, or asks for what containerd cannot do.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                return Err(Error::File { operation: "read", path: path.display().to_string(), source });
            }
        };
        Self::parse(&text).map_err(|detail| Error::Registries { path: path.display().to_string(), detail })
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let all: Self = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        for (registry, mirror) in &all.mirrors {
            if !mirror.rewrite.is_empty() {
                return Err(format!(
                    "mirrors.{registry}.rewrite: containerd has no rewriting of image names"
                ));
            }
            let valid = !registry.is_empty()
                && registry.bytes().all(|b| b.is_ascii_alphanumeric() || b"*.-:[]_".contains(&b));
            if !valid {
                return Err(format!(
                    "mirrors.{registry}: not a registry: a host with an optional port, or \"*\""
                ));
            }
            for endpoint in &mirror.endpoint {
                if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
                    return Err(format!(
                        "mirrors.{registry}.endpoint: {endpoint:?} is not an http or https URL"
                    ));
                }
            }
        }
        Ok(all)
    }

    /// `certs.d/<registry>/hosts.toml` for each mirror: `local` (the URL of this node's own registry) first, then the
    /// endpoints, then the registry itself.
    pub fn hosts(&self, local: Option<&str>) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let configured = self.configs.keys().filter(|k| !self.mirrors.contains_key(*k));
        for registry in self.mirrors.keys().chain(configured) {
            let mut text = "# Written by knarr from registries.yaml; changes are lost.\n".to_owned();
            if registry != "*" {
                let _infallible = writeln!(text, "server = {:?}", origin(registry));
            }
            let mirror = self.mirrors.get(registry);
            let own = local.filter(|_| mirror.is_some());
            let endpoints =
                own.into_iter().chain(mirror.into_iter().flat_map(|m| m.endpoint.iter().map(String::as_str)));
            for endpoint in endpoints {
                self.host(&mut text, endpoint, host_of(endpoint));
            }
            if registry != "*" && self.configs.contains_key(registry) {
                self.host(&mut text, &origin(registry), registry);
            }
            let directory = if registry == "*" { "_default" } else { registry };
            files.insert(directory.to_owned(), text);
        }
        files
    }

    fn host(&self, text: &mut String, url: &str, name: &str) {
        let _infallible = writeln!(text, "\n[host.{url:?}]\n  capabilities = [\"pull\", \"resolve\"]");
        let Some(tls) = self.configs.get(name).and_then(|h| h.tls.as_ref()) else { return };
        if tls.insecure_skip_verify {
            text.push_str("  skip_verify = true\n");
        }
        if let Some(ca) = &tls.ca_file {
            let _infallible = writeln!(text, "  ca = {:?}", ca.display().to_string());
        }
        if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
            let (cert, key) = (cert.display().to_string(), key.display().to_string());
            let _infallible = writeln!(text, "  client = [[{cert:?}, {key:?}]]");
        }
    }

    /// Writes [`Registries::hosts`] below `directory` and removes what an earlier version of the file asked for.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_hosts(&self, directory: &Path, local: Option<&str>) -> Result<(), Error> {
        let file = |operation, path: &Path| {
            let path = path.display().to_string();
            move |source| Error::File { operation, path, source }
        };
        match fs::remove_dir_all(directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(file("remove", directory)(e));
            }
            _ => {}
        }
        fs::create_dir_all(directory).map_err(file("create directory", directory))?;
        for (registry, text) in self.hosts(local) {
            let own = directory.join(registry);
            fs::create_dir_all(&own).map_err(file("create directory", &own))?;
            let path = own.join("hosts.toml");
            fs::write(&path, text).map_err(file("write", &path))?;
        }
        Ok(())
    }

    /// The credentials as containerd's CRI configuration wants them (TOML).
    pub fn credentials(&self) -> String {
        let mut text = String::new();
        for (host, config) in &self.configs {
            let Some(auth) = &config.auth else { continue };
            let table = format!("[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.{host:?}.auth]");
            let _infallible = writeln!(text, "\n  {table}");
            let fields = [
                ("username", &auth.username),
                ("password", &auth.password),
                ("auth", &auth.auth),
                ("identitytoken", &auth.token),
            ];
            for (name, value) in fields.into_iter().filter(|(_, v)| !v.is_empty()) {
                let _infallible = writeln!(text, "    {name} = {value:?}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.example:5000", "http://10.0.0.1/v2"]
  registry.k8s.io: {}
  "*": {}
configs:
  "mirror.example:5000":
    auth: {username: me, password: 'se"cret'}
    tls: {ca_file: /etc/ca.pem, cert_file: /etc/c.pem, key_file: /etc/k.pem}
  private.example:
    tls: {insecure_skip_verify: true}
"#;

    #[test]
    fn files_of_containerd() {
        let all = Registries::parse(FILE).unwrap();
        let hosts = all.hosts(Some("http://127.0.0.1:5005"));
        assert_eq!(
            hosts.keys().collect::<Vec<_>>(),
            ["_default", "docker.io", "mirror.example:5000", "private.example", "registry.k8s.io"]
        );
        let docker = &hosts["docker.io"];
        let order: Vec<_> =
            docker.lines().filter(|l| l.starts_with("[host") || l.starts_with("server")).collect();
        assert_eq!(
            order,
            [
                "server = \"https://registry-1.docker.io\"",
                "[host.\"http://127.0.0.1:5005\"]",
                "[host.\"https://mirror.example:5000\"]",
                "[host.\"http://10.0.0.1/v2\"]"
            ]
        );
        assert!(
            docker.contains("ca = \"/etc/ca.pem\"\n  client = [[\"/etc/c.pem\", \"/etc/k.pem\"]]"),
            "{docker}"
        );
        assert!(!hosts["_default"].contains("server ="));
        assert!(
            hosts["private.example"].contains("[host.\"https://private.example\"]")
                && hosts["private.example"].contains("skip_verify = true")
        );
        assert!(!hosts["private.example"].contains("5005"), "not a mirror: {}", hosts["private.example"]);
        assert!(!all.hosts(None)["registry.k8s.io"].contains("[host"));
        let credentials = all.credentials();
        assert!(
            credentials.contains("configs.\"mirror.example:5000\".auth]")
                && credentials.contains(r#"password = "se\"cret""#),
            "{credentials}"
        );
        assert!(!format!("{all:?}").contains("cret"));
    }

    #[test]
    fn refused_by_name() {
        for (text, part) in [
            (
                "mirrors: {a.example: {rewrite: {x: y}}}",
                "mirrors.a.example.rewrite: containerd has no rewriting",
            ),
            ("mirrors: {a.example: {endpoint: [ftp://x]}}", "\"ftp://x\" is not an http"),
            ("mirrors: {'a/b': {}}", "mirrors.a/b: not a registry"),
            ("mirror: {}", "mirror"),
        ] {
            let error = Registries::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!(Registries::parse("# nothing\n"), Ok(Registries::default()));
    }
}
