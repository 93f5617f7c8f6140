//! Certificates of pods: for each `podCertificate` source a key, a PodCertificateRequest, and its renewal.
//!
//! Entry point: [`Certificates::get`]. Nothing survives a restart of the node agent: what a pod has is then asked
//! for anew. Whoever follows the requests has the volume set up again when one of them is answered.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec},
        core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use knarr_client::recorder::Recorder;
use kube::{Api, api::PostParams};
use parking_lot::Mutex;
use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};

use crate::trust;

/// Renewals of many pods are spread over this.
const JITTER: Duration = Duration::from_secs(5 * 60);
/// A certificate that wants renewal for so long is worth a warning.
const OVERDUE: Duration = Duration::from_secs(10 * 60);
/// How often an open or failed renewal is looked at again.
const RETRY: Duration = Duration::from_secs(60);

/// One source of one projected volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The volume's name.
    pub volume: String,
    /// The index of the source in it.
    pub source: usize,
}

/// What a pod gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The private key, PKCS#8 as PEM.
    pub key_pem: String,
    /// The certificate and its intermediates as PEM.
    pub chain_pem: String,
    /// When to ask again.
    pub refresh_at: Timestamp,
}

/// A certificate with its key.
#[derive(Clone)]
struct Pair {
    key_pem: String,
    chain_pem: String,
    begin_refresh_at: Timestamp,
    not_after: Timestamp,
    said_overdue: bool,
    said_expired: bool,
}

/// A request on its way, with the key it is for.
#[derive(Clone)]
struct Asked {
    key_pem: String,
    name: String,
}

/// How one place stands.
#[derive(Clone)]
enum State {
    Initial,
    Waiting(Asked),
    Fresh(Pair),
    Renewing(Pair, Asked),
    /// Denied or failed, for good.
    Over {
        verdict: &'static str,
        reason: String,
        message: String,
    },
}

type Record = Arc<tokio::sync::Mutex<State>>;

/// All certificates of a node's pods.
pub struct Certificates {
    client: kube::Client,
    recorder: Recorder,
    records: Mutex<HashMap<(String, Place), Record>>,
}

impl Certificates {
    /// None yet.
    pub fn new(client: kube::Client, recorder: Recorder) -> Self {
        Self { client, recorder, records: Mutex::default() }
    }

    /// Forgets everything of a pod.
    pub fn forget(&self, pod_uid: &str) {
        self.records.lock().retain(|(uid, _), _| uid != pod_uid);
    }

    /// The credentials of a pod for one place, as far as they have been issued; asks for what is missing or due.
    pub async fn get(
        &self,
        pod: &Pod,
        place: Place,
        projection: &PodCertificateProjection,
    ) -> Result<Credentials, String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let record = self.records.lock().entry((uid, place)).or_insert_with(initial).clone();
        let mut state = record.lock().await;
        let now = Timestamp::now();
        if let State::Waiting(asked) | State::Renewing(_, asked) = &*state {
            match self.look(pod, &asked.name).await {
                Ok(request) => {
                    let jitter = JITTER.mul_f64(rand::random());
                    *state = judge(state.clone(), request.as_ref(), jitter)?;
                    self.tell(pod, &state, request.as_ref());
                }
                Err(error) if matches!(*state, State::Waiting(_)) => return Err(error),
                Err(error) => tracing::warn!(%error, "looking at the renewal of a pod's certificate"),
            }
        }
        match &*state {
            State::Initial => *state = State::Waiting(self.ask(pod, projection).await?),
            State::Fresh(pair) if pair.begin_refresh_at <= now => match self.ask(pod, projection).await {
                Ok(asked) => *state = State::Renewing(pair.clone(), asked),
                Err(error) => tracing::warn!(%error, "asking for the renewal of a pod's certificate"),
            },
            _ => {}
        }
        self.warn(pod, &mut state, now);
        credentials(&state, now)
    }

    async fn look(&self, pod: &Pod, name: &str) -> Result<Option<PodCertificateRequest>, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<PodCertificateRequest> = Api::namespaced(self.client.clone(), namespace);
        let failed =
            |e: kube::Error| format!("while getting PodCertificateRequest \"{namespace}/{name}\": {e}");
        api.get_opt(name).await.map_err(failed)
    }

    /// Makes a key and asks for a certificate of it.
    async fn ask(&self, pod: &Pod, projection: &PodCertificateProjection) -> Result<Asked, String> {
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let (pod_name, pod_uid) = (text(pod.metadata.name.as_ref()), text(pod.metadata.uid.as_ref()));
        let namespace = text(pod.metadata.namespace.as_ref());
        let account_name = spec.service_account_name.filter(|n| !n.is_empty()).unwrap_or("default".into());
        let node_name = spec.node_name.unwrap_or_default();
        let account = Api::<ServiceAccount>::namespaced(self.client.clone(), &namespace)
            .get(&account_name)
            .await
            .map_err(|e| format!("while fetching service account {namespace}/{account_name}: {e}"))?;
        let node = Api::<Node>::all(self.client.clone())
            .get(&node_name)
            .await
            .map_err(|e| format!("while getting node {node_name}: {e}"))?;
        let key_type = projection.key_type.clone();
        let (key_pem, request) = tokio::task::spawn_blocking(move || key_and_request(&key_type))
            .await
            .map_err(|e| format!("while generating a key: {e}"))??;
        let mut object = PodCertificateRequest {
            spec: PodCertificateRequestSpec {
                max_expiration_seconds: projection.max_expiration_seconds,
                node_name,
                node_uid: node.metadata.uid.unwrap_or_default(),
                pod_name: pod_name.clone(),
                pod_uid: pod_uid.clone(),
                service_account_name: account_name,
                service_account_uid: account.metadata.uid.unwrap_or_default(),
                signer_name: projection.signer_name.clone(),
                stub_pkc_s10_request: ByteString(request),
                unverified_user_annotations: projection.user_annotations.clone(),
            },
            ..Default::default()
        };
        object.metadata.generate_name = Some("req-".to_owned());
        object.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod_name,
            uid: pod_uid,
            ..Default::default()
        }]);
        let made = Api::<PodCertificateRequest>::namespaced(self.client.clone(), &namespace)
            .create(&PostParams::default(), &object)
            .await
            .map_err(|e| format!("while creating a PodCertificateRequest in {namespace}: {e}"))?;
        Ok(Asked { key_pem, name: text(made.metadata.name.as_ref()) })
    }

    /// An event for a refusal.
    fn tell(&self, pod: &Pod, state: &State, request: Option<&PodCertificateRequest>) {
        let (State::Over { verdict, reason, message }, Some(request)) = (state, request) else { return };
        let meta = &request.metadata;
        let name = format!(
            "{}/{}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        );
        let (event, verb) =
            if *verdict == "denied" { ("Denied", "was denied") } else { ("Failed", "failed") };
        let text = format!("PodCertificateRequest {name} {verb}, reason={reason:?}, message={message:?}");
        self.recorder.about(pod, "Warning", event, &text);
    }

    /// Events for a certificate that was not renewed in time, each once.
    fn warn(&self, pod: &Pod, state: &mut State, now: Timestamp) {
        let (State::Fresh(pair) | State::Renewing(pair, _)) = state else { return };
        if !pair.said_overdue && now > pair.begin_refresh_at + OVERDUE {
            pair.said_overdue = true;
            let text = "PodCertificate refresh overdue";
            self.recorder.about(pod, "Warning", "CertificateOverdueForRefresh", text);
        }
        if !pair.said_expired && now > pair.not_after {
            pair.said_expired = true;
            self.recorder.about(pod, "Warning", "CertificateExpired", "PodCertificate expired");
        }
    }
}

fn initial() -> Record {
    Arc::new(tokio::sync::Mutex::new(State::Initial))
}

/// The state after a look at the request that was made last; `None` is one that somebody removed.
fn judge(state: State, request: Option<&PodCertificateRequest>, jitter: Duration) -> Result<State, String> {
    let (asked, before) = match &state {
        State::Waiting(asked) => (asked, None),
        State::Renewing(pair, asked) => (asked, Some(pair)),
        _ => return Ok(state),
    };
    let Some(request) = request else {
        return Ok(before.map_or(State::Initial, |pair| State::Fresh(pair.clone())));
    };
    let status = request.status.clone().unwrap_or_default();
    let verdict = status.conditions.iter().flatten().find_map(|c| match c.type_.as_str() {
        "Denied" => Some(("denied", c)),
        "Failed" => Some(("failed", c)),
        "Issued" => Some(("issued", c)),
        _ => None,
    });
    match verdict {
        None => Ok(state),
        Some(("issued", _)) => {
            let named =
                |what: &str| format!("PodCertificateRequest {} was issued without {what}", asked.name);
            let (Some(begin), Some(end)) = (&status.begin_refresh_at, &status.not_after) else {
                return Err(named("status.beginRefreshAt or status.notAfter"));
            };
            let chain = status.certificate_chain.as_deref().unwrap_or_default();
            let blocks = pem::parse_many(chain).map_err(|e| named(&format!("a readable chain: {e}")))?;
            Ok(State::Fresh(Pair {
                key_pem: asked.key_pem.clone(),
                chain_pem: blocks.into_iter().map(|b| trust::certificate(b.into_contents())).collect(),
                begin_refresh_at: begin.0 + jitter,
                not_after: end.0,
                said_overdue: false,
                said_expired: false,
            }))
        }
        Some((verdict, c)) => {
            Ok(State::Over { verdict, reason: c.reason.clone(), message: c.message.clone() })
        }
    }
}

fn credentials(state: &State, now: Timestamp) -> Result<Credentials, String> {
    let (pair, refresh_at) = match state {
        State::Initial | State::Waiting(_) => {
            return Err("credential bundle is not issued yet".to_owned());
        }
        State::Over { verdict, reason, message } => {
            return Err(format!(
                "PodCertificateRequest was permanently {verdict}: reason={reason:?} message={message:?}"
            ));
        }
        State::Fresh(pair) if pair.begin_refresh_at > now => (pair, pair.begin_refresh_at),
        State::Fresh(pair) | State::Renewing(pair, _) => (pair, now + RETRY),
    };
    Ok(Credentials { key_pem: pair.key_pem.clone(), chain_pem: pair.chain_pem.clone(), refresh_at })
}

fn algorithm(key_type: &str) -> Result<&'static SignatureAlgorithm, String> {
    match key_type {
        "ECDSAP256" => Ok(&rcgen::PKCS_ECDSA_P256_SHA256),
        "ECDSAP384" => Ok(&rcgen::PKCS_ECDSA_P384_SHA384),
        "ED25519" => Ok(&rcgen::PKCS_ED25519),
        other => Err(format!(
            "keyType {other:?} cannot be generated by this node, which has ECDSAP256, ECDSAP384 and ED25519"
        )),
    }
}

/// A new private key as PKCS#8 PEM, and an empty PKCS#10 request signed with it, as DER.
fn key_and_request(key_type: &str) -> Result<(String, Vec<u8>), String> {
    let failed = |e: rcgen::Error| format!("while generating a {key_type} key: {e}");
    let key = KeyPair::generate_for(algorithm(key_type)?).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(failed)?;
    let der = plain_pkcs8(key.serialize_der());
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    Ok((pem::encode_config(&Pem::new("PRIVATE KEY", der), config), request.der().to_vec()))
}

/// Ed25519 keys come with their public key (version 2 of the form), which many programs do not read: without it,
/// then. Others stay.
fn plain_pkcs8(der: Vec<u8>) -> Vec<u8> {
    const PREFIX: [u8; 16] =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    match der.get(5..48) {
        // From the algorithm on both forms are the same up to the end of the seed.
        Some(rest) if rest.starts_with(&PREFIX[5..]) => [&PREFIX[..5], rest].concat(),
        _ => der,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn asked(key: &str) -> Asked {
        Asked { key_pem: key.into(), name: "req-1".into() }
    }

    fn pair() -> Pair {
        Pair {
            key_pem: "old".into(),
            chain_pem: "chain".into(),
            begin_refresh_at: at(100),
            not_after: at(1000),
            said_overdue: false,
            said_expired: false,
        }
    }

    fn request(condition: &str, more: Value) -> PodCertificateRequest {
        let mut status = json!({"conditions": [{"type": condition, "status": "True", "reason": "R", "message": "M", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec = json!({"nodeName": "n", "nodeUID": "u", "podName": "p", "podUID": "u", "serviceAccountName": "s", "serviceAccountUID": "u", "signerName": "a/b", "stubPKCS10Request": ""});
        serde_json::from_value(json!({"metadata": {"name": "req-1"}, "spec": spec, "status": status}))
            .unwrap()
    }

    fn line(state: &State) -> String {
        match state {
            State::Initial => "initial".into(),
            State::Waiting(a) => format!("waiting for {}", a.name),
            State::Fresh(p) => format!("fresh {} until {}", p.key_pem, p.begin_refresh_at.as_second()),
            State::Renewing(p, a) => format!("renewing {} with {}", p.key_pem, a.key_pem),
            State::Over { verdict, reason, .. } => format!("{verdict} {reason}"),
        }
    }

    #[test]
    fn requests_are_followed_to_their_end() {
        let issued = || {
            let chain = trust::certificate(vec![1, 2, 3]);
            request(
                "Issued",
                json!({"certificateChain": format!("noise\n{chain}"), "notBefore": "1970-01-01T00:00:00Z", "beginRefreshAt": "1970-01-01T00:10:00Z", "notAfter": "1970-01-01T01:00:00Z"}),
            )
        };
        let waiting = || State::Waiting(asked("new"));
        let renewing = || State::Renewing(pair(), asked("new"));
        for (state, request, want) in [
            (waiting(), None, "initial"),
            (waiting(), Some(request("Other", json!({}))), "waiting for req-1"),
            (waiting(), Some(issued()), "fresh new until 602"),
            (waiting(), Some(request("Denied", json!({}))), "denied R"),
            (renewing(), None, "fresh old until 100"),
            (renewing(), Some(request("Other", json!({}))), "renewing old with new"),
            (renewing(), Some(issued()), "fresh new until 602"),
            (renewing(), Some(request("Failed", json!({}))), "failed R"),
        ] {
            let next = judge(state, request.as_ref(), Duration::from_secs(2)).unwrap();
            assert_eq!(line(&next), want);
            if let State::Fresh(p) = next
                && p.key_pem == "new"
            {
                assert_eq!(p.chain_pem, trust::certificate(vec![1, 2, 3]));
            }
        }
        assert!(judge(waiting(), Some(&request("Issued", json!({}))), Duration::ZERO).is_err());
    }

    #[test]
    fn what_is_given_out() {
        let given = |state: State, now: i64| {
            credentials(&state, at(now)).map(|c| (c.key_pem, c.refresh_at.as_second()))
        };
        assert_eq!(given(State::Waiting(asked("k")), 0).unwrap_err(), "credential bundle is not issued yet");
        assert_eq!(given(State::Fresh(pair()), 50), Ok(("old".into(), 100)));
        assert_eq!(given(State::Fresh(pair()), 200), Ok(("old".into(), 260)));
        assert_eq!(given(State::Renewing(pair(), asked("k")), 200), Ok(("old".into(), 260)));
        let over = State::Over { verdict: "denied", reason: "R".into(), message: "M".into() };
        assert_eq!(
            given(over, 0).unwrap_err(),
            "PodCertificateRequest was permanently denied: reason=\"R\" message=\"M\""
        );
    }

    #[test]
    fn keys_of_every_type_that_can_be_made() {
        use x509_parser::prelude::{FromDer, X509CertificationRequest};
        for key_type in ["ECDSAP256", "ECDSAP384", "ED25519"] {
            let (key, request) = key_and_request(key_type).unwrap();
            assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{key}");
            let pair = KeyPair::from_pem(&key).unwrap();
            let (_, request) = X509CertificationRequest::from_der(&request).unwrap();
            let info = request.certification_request_info;
            assert_eq!(info.subject.iter().count(), 0, "{key_type}: the subject is empty");
            assert_eq!(info.subject_pki.subject_public_key.data, pair.public_key_raw());
            if key_type == "ED25519" {
                let der = pem::parse(&key).unwrap().into_contents();
                assert_eq!((der.len(), der[4]), (48, 0), "version 1, without the public key");
            }
        }
        for key_type in ["RSA3072", "RSA4096", "ECDSAP521", "x"] {
            assert!(key_and_request(key_type).unwrap_err().contains(key_type));
        }
    }
}
