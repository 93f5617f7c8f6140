//! The files of one cluster: three authorities, the service-account key and the leaves of the server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;

use crate::file::{read, write_atomic};
use crate::{Ca, CertKey, Error, Leaf};

/// Names under which the API server is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServingNames {
    /// DNS names beyond the cluster's own.
    pub dns: Vec<String>,
    /// Addresses beyond loopback.
    pub ips: Vec<IpAddr>,
    /// Cluster domain, `cluster.local`.
    pub cluster_domain: String,
}

/// The authorities and keys of a cluster, in `<data-dir>/server/tls`.
#[derive(Debug, Clone)]
pub struct ClusterPki {
    /// Where the files are.
    pub dir: PathBuf,
    /// Signs serving certificates.
    pub server_ca: Ca,
    /// Signs client certificates.
    pub client_ca: Ca,
    /// Signs the client certificate that the aggregator shows to extension servers.
    pub request_header_ca: Ca,
    /// Signs service-account tokens: ECDSA P-256, PKCS#8 PEM.
    pub service_account_key_pem: String,
}

impl ClusterPki {
    /// Loads what is there and makes what is not.
    ///
    /// # Errors
    /// Names the file that is damaged or cannot be written.
    pub fn load_or_create(dir: &Path) -> Result<Self, Error> {
        Ok(Self {
            dir: dir.to_path_buf(),
            server_ca: Ca::load_or_create(dir, "server-ca")?,
            client_ca: Ca::load_or_create(dir, "client-ca")?,
            request_header_ca: Ca::load_or_create(dir, "request-header-ca")?,
            service_account_key_pem: load_or_create_key(&dir.join("service.key"))?,
        })
    }

    /// The API server's serving certificate; issued anew when the names change.
    ///
    /// # Errors
    /// As [`Ca::ensure`].
    pub fn serving(&self, names: &ServingNames) -> Result<CertKey, Error> {
        let mut dns: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
                .map(String::from)
                .to_vec();
        dns.push(format!("kubernetes.default.svc.{}", names.cluster_domain));
        dns.extend(names.dns.iter().cloned());
        let mut ips: Vec<IpAddr> = vec![[127, 0, 0, 1].into(), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
        ips.extend(names.ips.iter().copied());
        dedup(&mut dns);
        dedup(&mut ips);
        self.server_ca.ensure(&self.dir, "serving-kube-apiserver", &Leaf::server("kube-apiserver", dns, ips))
    }

    /// A client certificate kept as `client-<name>`.
    ///
    /// # Errors
    /// As [`Ca::ensure`].
    pub fn client(&self, name: &str, user: &str, groups: &[&str]) -> Result<CertKey, Error> {
        self.client_ca.ensure(&self.dir, &format!("client-{name}"), &Leaf::client(user, groups))
    }

    /// The aggregator's client certificate.
    ///
    /// # Errors
    /// As [`Ca::ensure`].
    pub fn auth_proxy(&self) -> Result<CertKey, Error> {
        let leaf = Leaf::client("system:auth-proxy", &[]);
        self.request_header_ca.ensure(&self.dir, "client-auth-proxy", &leaf)
    }

    /// A kubelet's serving certificate, kept in `dir`.
    ///
    /// # Errors
    /// As [`Ca::ensure`].
    pub fn kubelet_serving(&self, dir: &Path, node: &str, ips: Vec<IpAddr>) -> Result<CertKey, Error> {
        let mut all: Vec<IpAddr> = vec![[127, 0, 0, 1].into()];
        all.extend(ips);
        dedup(&mut all);
        let mut dns = vec![node.to_string(), "localhost".to_string()];
        dedup(&mut dns);
        let mut leaf = Leaf::server(&format!("system:node:{node}"), dns, all);
        leaf.organizations = vec!["system:nodes".to_string()];
        self.server_ca.ensure(dir, "serving-kubelet", &leaf)
    }
}

fn dedup<T: PartialEq>(items: &mut Vec<T>) {
    let mut kept: Vec<T> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    *items = kept;
}

fn load_or_create_key(path: &Path) -> Result<String, Error> {
    let bad = |detail: String| Error::Content { path: path.display().to_string(), detail };
    if let Some(text) = read(path)? {
        KeyPair::from_pem(&text).map_err(|e| bad(format!("not a usable private key: {e}")))?;
        return Ok(text);
    }
    let key = KeyPair::generate().map_err(|e| bad(e.to_string()))?;
    let text = key.serialize_pem();
    write_atomic(path, text.as_bytes(), 0o600)?;
    Ok(text)
}
