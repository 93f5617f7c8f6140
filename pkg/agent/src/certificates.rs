//! Certificates of a node, asked for with CertificateSigningRequests and renewed at two thirds of their life.
//! Entry points: [`Kept::load_or_obtain`] and [`keep`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use knarr_pki::file::{read, write_atomic};
use knarr_pki::{CertKey, Leaf, Rotating, Usage, request, rotating};
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use crate::Error;

/// How long approval and signing may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Pauses after a failed renewal.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Clocks jump: the age is looked at this often at least.
const LOOK: Duration = Duration::from_secs(3600);
/// A certificate that is due at once is not renewed more often than this.
const BREATH: Duration = Duration::from_secs(10);

/// A certificate that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the files, without ending.
    pub name: String,
    /// Who signs.
    pub signer: &'static str,
    /// Subject and names.
    pub leaf: Leaf,
}

impl Wanted {
    /// The kubelet's client certificate.
    pub fn kubelet_client(node: &str) -> Self {
        Self {
            name: "client-kubelet".to_string(),
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            leaf: Leaf::client(&format!("system:node:{node}"), &["system:nodes"]),
        }
    }

    /// The kubelet's serving certificate, for names that the node registered with.
    pub fn kubelet_serving(node: &str, dns: Vec<String>, ips: Vec<std::net::IpAddr>) -> Self {
        let mut leaf = Leaf::server(&format!("system:node:{node}"), dns, ips);
        leaf.organizations = vec!["system:nodes".to_string()];
        Self { name: "serving-kubelet".to_string(), signer: "kubernetes.io/kubelet-serving", leaf }
    }

    /// The client certificate of another part of the node.
    pub fn component(name: &str, user: &str) -> Self {
        Self {
            name: format!("client-{name}"),
            signer: "knarr.io/node-component",
            leaf: Leaf::client(user, &[]),
        }
    }

    fn usages(&self) -> Vec<String> {
        let purpose = match self.leaf.usage {
            Usage::Server => "server auth",
            Usage::Client => "client auth",
        };
        vec!["digital signature".to_string(), purpose.to_string()]
    }
}

/// Asks for a certificate and waits until it is signed.
///
/// # Errors
/// The request was denied, failed, or was not signed in a minute; the text names it.
pub async fn obtain(client: &Client, wanted: &Wanted) -> Result<CertKey, Error> {
    let (pem, key_pem) = request::make(&wanted.leaf)?;
    let mut csr = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            signer_name: wanted.signer.to_string(),
            request: ByteString(pem.into_bytes()),
            usages: Some(wanted.usages()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    csr.metadata.generate_name = Some("csr-".to_string());
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let fail = |detail: String| Error::Certificate { name: wanted.leaf.common_name.clone(), detail };
    let made = api
        .create(&PostParams::default(), &csr)
        .await
        .map_err(|e| fail(format!("create certificate request: {}", told(&e))))?;
    let name = made.name_any();
    match tokio::time::timeout(LIMIT, signed(api, &name)).await {
        Ok(Ok(cert_pem)) => Ok(CertKey { cert_pem, key_pem }),
        Ok(Err(detail)) => Err(fail(format!("certificate request {name}: {detail}"))),
        Err(_) => {
            let seconds = LIMIT.as_secs();
            Err(fail(format!("certificate request {name} was not approved and signed in {seconds} s")))
        }
    }
}

fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => crate::remote::causes(other),
    }
}

async fn signed(api: Api<CertificateSigningRequest>, name: &str) -> Result<String, String> {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(watcher(api, only));
    while let Some(event) = events.next().await {
        let object = match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => object,
            Ok(watcher::Event::Delete(_)) => return Err("was deleted".to_string()),
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "watch of a certificate request, trying again");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let status = object.status.unwrap_or_default();
        if let Some(certificate) = status.certificate.filter(|c| !c.0.is_empty()) {
            return String::from_utf8(certificate.0).map_err(|e| e.to_string());
        }
        for condition in status.conditions.unwrap_or_default() {
            if matches!(condition.type_.as_str(), "Denied" | "Failed") {
                let message = condition.message.unwrap_or_default();
                return Err(format!("{}: {message}", condition.type_.to_lowercase()));
            }
        }
    }
    Err("the watch ended".to_string())
}

/// A certificate on disk and in use.
#[derive(Clone)]
pub struct Kept {
    /// Where it is kept.
    pub dir: PathBuf,
    /// What it is.
    pub wanted: Wanted,
    /// What listeners and clients use.
    pub current: Arc<Rotating>,
}

impl Kept {
    /// Nothing yet.
    pub fn new(dir: &Path, wanted: Wanted) -> Self {
        Self { dir: dir.to_path_buf(), wanted, current: Arc::default() }
    }

    fn paths(&self) -> (PathBuf, PathBuf) {
        let file = |end: &str| self.dir.join(format!("{}.{end}", self.wanted.name));
        (file("crt"), file("key"))
    }

    /// Puts the certificate of an earlier run to use, if it is alive and names the same.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn load(&self) -> Result<Option<CertKey>, Error> {
        let (cert, key) = self.paths();
        let (Some(cert_pem), Some(key_pem)) = (read(&cert)?, read(&key)?) else { return Ok(None) };
        if !rotating::is_alive(&cert_pem) || !knarr_pki::leaf::carries(&cert_pem, &self.wanted.leaf) {
            return Ok(None);
        }
        let pair = CertKey { cert_pem, key_pem };
        self.current.set(&pair)?;
        Ok(Some(pair))
    }

    /// Stores a certificate and puts it to use.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn store(&self, pair: &CertKey) -> Result<(), Error> {
        let (cert, key) = self.paths();
        write_atomic(&key, pair.key_pem.as_bytes(), 0o600)?;
        write_atomic(&cert, pair.cert_pem.as_bytes(), 0o644)?;
        Ok(self.current.set(pair)?)
    }

    /// The certificate of an earlier run, or a new one.
    ///
    /// # Errors
    /// As [`obtain`].
    pub async fn load_or_obtain(&self, client: &Client) -> Result<CertKey, Error> {
        if let Some(pair) = self.load()? {
            return Ok(pair);
        }
        let pair = obtain(client, &self.wanted).await?;
        self.store(&pair)?;
        Ok(pair)
    }
}

/// Renews a certificate at two thirds of its life, for as long as `shutdown` is not; `changed` is called after each.
pub async fn keep(
    kept: Kept,
    mut pair: CertKey,
    client: Client,
    changed: impl Fn() + Send,
    shutdown: CancellationToken,
) {
    let mut pause = BACKOFF.0;
    loop {
        let due = rotating::renewal_in(&pair.cert_pem);
        let wait = if due.is_zero() { Duration::ZERO } else { due.min(LOOK) };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
        if !rotating::renewal_in(&pair.cert_pem).is_zero() {
            continue;
        }
        let wait = match renew(&kept, &client).await {
            Ok(fresh) => {
                tracing::info!(certificate = kept.wanted.name, "certificate renewed");
                pair = fresh;
                pause = BACKOFF.0;
                changed();
                BREATH
            }
            Err(error) => {
                tracing::warn!(certificate = kept.wanted.name, %error, "certificate not renewed, trying again");
                let now = pause;
                pause = (pause * 2).min(BACKOFF.1);
                now
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn renew(kept: &Kept, client: &Client) -> Result<CertKey, Error> {
    let pair = obtain(client, &kept.wanted).await?;
    kept.store(&pair)?;
    Ok(pair)
}
