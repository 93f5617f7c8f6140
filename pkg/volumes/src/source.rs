//! Where volumes get ConfigMaps, Secrets, trust bundles, certificates and service-account tokens from.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    certificates::v1::ClusterTrustBundle,
    core::v1::{ConfigMap, Pod, PodCertificateProjection, Secret, ServiceAccount},
};
use knarr_client::{informer::Informers, recorder::Recorder};
use kube::{Api, api::PostParams};
use tokio::sync::Mutex;

use crate::certificates::{Certificates, Credentials, Place};

/// How long a volume waits for the first list of trust bundles.
const SYNC_LIMIT: Duration = Duration::from_secs(5);

/// A service-account token and when to renew it.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token itself.
    pub token: String,
    /// When a new one should be asked for.
    pub refresh_at: Timestamp,
}

/// The objects that volumes and environments are made of.
#[async_trait::async_trait]
pub trait Source: Send + Sync + 'static {
    /// A ConfigMap; `None` when there is none.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, String>;
    /// A Secret; `None` when there is none.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, String>;
    /// A token of the pod's service account, bound to the pod.
    async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_seconds: i64,
    ) -> Result<Token, String>;
    /// A trust bundle; `None` when there is none.
    async fn trust_bundle(&self, name: &str) -> Result<Option<Arc<ClusterTrustBundle>>, String>;
    /// All trust bundles of a signer.
    async fn trust_bundles(&self, signer: &str) -> Result<Vec<Arc<ClusterTrustBundle>>, String>;
    /// Key and certificate of a pod, for one source of one of its volumes; asks for them when there are none yet.
    async fn certificate(
        &self,
        pod: &Pod,
        place: Place,
        projection: &PodCertificateProjection,
    ) -> Result<Credentials, String>;
    /// Forgets what was kept for a pod.
    fn forget(&self, pod_uid: &str);
}

/// [`Source`] over the API. Tokens and certificates are kept until they want renewal.
pub struct ApiSource {
    client: kube::Client,
    informers: Arc<Informers>,
    certificates: Certificates,
    tokens: Mutex<HashMap<(String, String, i64), Token>>,
}

impl ApiSource {
    /// A source that asks with this client. Trust bundles are watched from their first use on.
    pub fn new(client: kube::Client, informers: Arc<Informers>, recorder: Recorder) -> Self {
        let certificates = Certificates::new(client.clone(), recorder);
        Self { client, informers, certificates, tokens: Mutex::default() }
    }

    async fn bundles(&self) -> Result<Arc<knarr_client::informer::Store<ClusterTrustBundle>>, String> {
        let store = self.informers.of::<ClusterTrustBundle>();
        match tokio::time::timeout(SYNC_LIMIT, store.synced()).await {
            Ok(()) => Ok(store),
            Err(_) => Err("ClusterTrustBundle informer has not yet synced".to_owned()),
        }
    }
}

fn found<T>(
    kind: &str,
    namespace: &str,
    name: &str,
    answer: kube::Result<Option<T>>,
) -> Result<Option<T>, String> {
    answer.map_err(|e| format!("{kind} {namespace}/{name}: {e}"))
}

#[async_trait::async_trait]
impl Source for ApiSource {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, String> {
        found(
            "configmap",
            namespace,
            name,
            Api::namespaced(self.client.clone(), namespace).get_opt(name).await,
        )
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, String> {
        found("secret", namespace, name, Api::namespaced(self.client.clone(), namespace).get_opt(name).await)
    }

    async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_seconds: i64,
    ) -> Result<Token, String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let key = (uid.clone(), audience.unwrap_or_default().to_owned(), expiration_seconds);
        let mut tokens = self.tokens.lock().await;
        let now = Timestamp::now();
        if let Some(token) = tokens.get(&key).filter(|t| t.refresh_at > now) {
            return Ok(token.clone());
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.as_deref())
            .filter(|n| !n.is_empty())
            .unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|a| vec![a.to_owned()]),
                expiration_seconds: Some(expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: Some(uid),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .map_err(|e| format!("token of serviceaccount {namespace}/{account}: {e}"))?;
        let status = answer.status.ok_or_else(|| {
            format!("token of serviceaccount {namespace}/{account}: the answer has no status")
        })?;
        let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err(format!(
                "token of serviceaccount {namespace}/{account}: the answer lacks the token or its end"
            ));
        };
        let token = Token { token, refresh_at: refresh_at(now, expires.0) };
        tokens.insert(key, token.clone());
        Ok(token)
    }

    async fn trust_bundle(&self, name: &str) -> Result<Option<Arc<ClusterTrustBundle>>, String> {
        Ok(self.bundles().await?.read("", name))
    }

    async fn trust_bundles(&self, signer: &str) -> Result<Vec<Arc<ClusterTrustBundle>>, String> {
        let mut bundles = self.bundles().await?.list();
        bundles.retain(|b| b.spec.signer_name.as_deref().unwrap_or_default() == signer);
        Ok(bundles)
    }

    async fn certificate(
        &self,
        pod: &Pod,
        place: Place,
        projection: &PodCertificateProjection,
    ) -> Result<Credentials, String> {
        self.certificates.get(pod, place, projection).await
    }

    fn forget(&self, pod_uid: &str) {
        self.certificates.forget(pod_uid);
        if let Ok(mut tokens) = self.tokens.try_lock() {
            let now = Timestamp::now();
            tokens.retain(|(uid, ..), token| uid != pod_uid && token.refresh_at > now);
        }
    }
}

/// After four fifths of the life, and after a day at the latest.
fn refresh_at(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.as_second().saturating_sub(now.as_second()).max(0);
    let wait = (life * 4 / 5).min(24 * 3600);
    Timestamp::from_second(now.as_second().saturating_add(wait)).unwrap_or(now)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a test knows; everything else is missing.
    #[derive(Default)]
    pub(crate) struct Known {
        pub(crate) bundles: Vec<Arc<ClusterTrustBundle>>,
        pub(crate) credentials: Option<Credentials>,
    }

    impl Known {
        pub(crate) fn with_bundles(bundles: Vec<ClusterTrustBundle>) -> Self {
            Self { bundles: bundles.into_iter().map(Arc::new).collect(), ..Self::default() }
        }
    }

    #[async_trait::async_trait]
    impl Source for Known {
        async fn config_map(&self, _: &str, _: &str) -> Result<Option<ConfigMap>, String> {
            Ok(None)
        }

        async fn secret(&self, _: &str, _: &str) -> Result<Option<Secret>, String> {
            Ok(None)
        }

        async fn token(&self, _: &Pod, _: Option<&str>, _: i64) -> Result<Token, String> {
            Err("no tokens here".to_owned())
        }

        async fn trust_bundle(&self, name: &str) -> Result<Option<Arc<ClusterTrustBundle>>, String> {
            Ok(self.bundles.iter().find(|b| b.metadata.name.as_deref() == Some(name)).cloned())
        }

        async fn trust_bundles(&self, signer: &str) -> Result<Vec<Arc<ClusterTrustBundle>>, String> {
            let of = |b: &&Arc<ClusterTrustBundle>| b.spec.signer_name.as_deref() == Some(signer);
            Ok(self.bundles.iter().filter(of).cloned().collect())
        }

        async fn certificate(
            &self,
            _: &Pod,
            place: Place,
            _: &PodCertificateProjection,
        ) -> Result<Credentials, String> {
            self.credentials.clone().ok_or_else(|| format!("no certificate for {place:?}"))
        }

        fn forget(&self, _: &str) {}
    }

    #[test]
    fn tokens_are_renewed_at_four_fifths_and_daily() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(refresh_at(at(0), at(3600)), at(2880));
        assert_eq!(refresh_at(at(0), at(31_536_000)), at(86_400));
        assert_eq!(refresh_at(at(50), at(10)), at(50));
    }
}
