//! Where volumes get ConfigMaps, Secrets and service-account tokens from.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, Secret, ServiceAccount},
};
use kube::{Api, api::PostParams};
use tokio::sync::Mutex;

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
    /// Forgets what was kept for a pod.
    fn forget(&self, pod_uid: &str);
}

/// [`Source`] over the API. Tokens are kept until they want renewal.
pub struct ApiSource {
    client: kube::Client,
    tokens: Mutex<HashMap<(String, String, i64), Token>>,
}

impl ApiSource {
    /// A source that asks with this client.
    pub fn new(client: kube::Client) -> Self {
        Self { client, tokens: Mutex::default() }
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

    fn forget(&self, pod_uid: &str) {
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
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_at_four_fifths_and_daily() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(refresh_at(at(0), at(3600)), at(2880));
        assert_eq!(refresh_at(at(0), at(31_536_000)), at(86_400));
        assert_eq!(refresh_at(at(50), at(10)), at(50));
    }
}
