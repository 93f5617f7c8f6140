//! ServiceAccount: every pod has an account, and its token, the cluster's CA and its namespace mounted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ServiceAccount;
use knarr_client::Store;
use knarr_machinery::{ApiError, meta};
use rand::Rng as _;
use serde_json::{Value, json};

use crate::Plugin;
use crate::limits::containers;
use crate::request::{Operation, Request};
use crate::state::{Api, Context};

const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
/// Letters of generated names, without vowels and without what looks alike.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The plugin.
pub(crate) struct ServiceAccountPlugin {
    accounts: Arc<Store<ServiceAccount>>,
    api: Api,
}

impl ServiceAccountPlugin {
    pub(crate) fn new(context: &Context) -> Self {
        Self { accounts: context.informers.of(), api: context.api.clone() }
    }

    async fn find(&self, request: &Request<'_>, name: &str) -> Result<Value, ApiError> {
        let namespace = request.namespace;
        self.accounts.synced().await;
        if let Some(found) = self.accounts.get(namespace, name) {
            return serde_json::to_value(found.as_ref()).map_err(ApiError::internal);
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}");
        // A controller makes the default account of a new namespace in a moment.
        let attempts = if name == "default" { 10 } else { 1 };
        let pause = Duration::from_millis(rand::rng().random_range(100..200));
        for attempt in 0..attempts {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
            }
            if let Some(found) = self.api.get(&path).await? {
                return Ok(found);
            }
        }
        Err(request.forbidden(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        )))
    }
}

fn is_mirror(pod: &Value) -> bool {
    meta::annotation(pod, MIRROR).is_some()
}

fn account_name(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"].as_str().unwrap_or_default()
}

/// Whether the token is mounted: the pod's word counts, then the account's, else yes.
fn mounts_token(pod: &Value, account: &Value) -> bool {
    let field = "automountServiceAccountToken";
    pod["spec"][field].as_bool().or_else(|| account[field].as_bool()).unwrap_or(true)
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn generated_name() -> String {
    let mut rng = rand::rng();
    let suffix: String = (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect();
    format!("{VOLUME}{suffix}")
}

/// Mounts the token volume into every container that has nothing at its place.
fn mount(pod: &mut Value) {
    let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    let named = |v: &Value| v["name"].as_str().unwrap_or_default().to_string();
    let present = volumes.iter().map(named).find(|n| n.starts_with(VOLUME));
    let name = present.clone().unwrap_or_else(|| {
        std::iter::repeat_with(generated_name)
            .find(|n| !volumes.iter().any(|v| named(v) == *n))
            .unwrap_or_default()
    });
    let mut needed = false;
    for field in ["initContainers", "containers"] {
        for c in pod["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(c) = c.as_object_mut() else { continue };
            let mounts = c.entry("volumeMounts").or_insert(Value::Null);
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if !mounts.iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                mounts.push(json!({"name": name, "mountPath": MOUNT_PATH, "readOnly": true}));
                needed = true;
            }
        }
    }
    if needed && present.is_none() {
        let mut volumes = volumes;
        volumes.push(token_volume(&name));
        pod["spec"]["volumes"] = volumes.into();
    }
}

/// What a mirror pod must not refer to: what it names needs permissions its node may not have.
fn mirror_error(pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let refers = |what: &str| Some(format!("a mirror pod may not reference {what}"));
    if !account_name(pod).is_empty() {
        return refers("service accounts");
    }
    for v in spec["volumes"].as_array().into_iter().flatten() {
        if !v["secret"].is_null() {
            return refers("secrets");
        }
        let token = |s: &Value| !s["serviceAccountToken"].is_null();
        if v["projected"]["sources"].as_array().into_iter().flatten().any(token) {
            return Some("a mirror pod may not use ServiceAccountToken volume projections".to_string());
        }
    }
    None
}

/// What an account with enforced secrets does not allow.
fn secrets_error(pod: &Value, account: &Value) -> Option<String> {
    let name = meta::name(account);
    let listed = |field: &str, secret: &str| {
        account[field].as_array().into_iter().flatten().any(|s| s["name"] == secret)
    };
    let spec = &pod["spec"];
    for v in spec["volumes"].as_array().into_iter().flatten() {
        let secret = v["secret"]["secretName"].as_str();
        if let Some(s) = secret.filter(|s| !listed("secrets", s)) {
            return Some(format!(
                "volume with secret.secretName={s:?} is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    for (field, what) in [("initContainers", "init container"), ("containers", "container")] {
        for c in containers(spec, field) {
            let container = c["name"].as_str().unwrap_or_default();
            for e in c["env"].as_array().into_iter().flatten() {
                let secret = e["valueFrom"]["secretKeyRef"]["name"].as_str();
                if let Some(s) = secret.filter(|s| !listed("secrets", s)) {
                    let env = e["name"].as_str().unwrap_or_default();
                    return Some(format!(
                        "{what} {container} with envVar {env} referencing secret.secretName={s:?} is not allowed because service account {name} does not reference that secret"
                    ));
                }
            }
            for e in c["envFrom"].as_array().into_iter().flatten() {
                if let Some(s) = e["secretRef"]["name"].as_str().filter(|s| !listed("secrets", s)) {
                    return Some(format!(
                        "{what} {container} with envFrom referencing secret.secretName={s:?} is not allowed because service account {name} does not reference that secret"
                    ));
                }
            }
        }
    }
    for (i, s) in spec["imagePullSecrets"].as_array().into_iter().flatten().enumerate() {
        let s = s["name"].as_str().unwrap_or_default();
        if !listed("imagePullSecrets", s) {
            return Some(format!(
                "imagePullSecrets[{i}].name={s:?} is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    None
}

#[async_trait]
impl Plugin for ServiceAccountPlugin {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        if !request.is_main("", "pods") || is_mirror(request.new_object()) {
            return Ok(());
        }
        let name = match account_name(request.new_object()) {
            "" => "default".to_string(),
            name => name.to_string(),
        };
        let account = self.find(request, &name).await?;
        let Some(pod) = request.object.as_mut() else { return Ok(()) };
        pod["spec"]["serviceAccountName"] = name.clone().into();
        pod["spec"]["serviceAccount"] = name.into();
        if mounts_token(pod, &account) {
            mount(pod);
        }
        let none = pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty);
        if let Some(secrets) = account["imagePullSecrets"].as_array().filter(|s| none && !s.is_empty()) {
            pod["spec"]["imagePullSecrets"] = secrets.clone().into();
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        if !request.is_main("", "pods") {
            return Ok(());
        }
        let pod = request.new_object();
        if is_mirror(pod) {
            return mirror_error(pod).map_or(Ok(()), |e| Err(request.forbidden(e)));
        }
        let account = self.find(request, account_name(pod)).await?;
        if matches!(meta::annotation(&account, ENFORCE), Some("true" | "TRUE" | "True" | "1" | "t" | "T"))
            && let Some(e) = secrets_error(pod, &account)
        {
            return Err(request.forbidden(e));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounting() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
            "initContainers": [{"name": "i"}]}});
        mount(&mut pod);
        let name = pod["spec"]["volumes"][0]["name"].as_str().unwrap().to_string();
        assert!(name.starts_with(VOLUME) && name.len() == VOLUME.len() + 5);
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"][0],
            json!({"name": name, "mountPath": MOUNT_PATH, "readOnly": true})
        );
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"][0]["name"], name.as_str());
        let mut plain = json!({"spec": {"containers": [{"name": "a"}]}});
        mount(&mut plain);
        assert!(plain["spec"].get("initContainers").is_none());
        let once = pod.clone();
        mount(&mut pod);
        assert_eq!(pod, once);
    }

    #[test]
    fn automount() {
        for (pod, account, want) in [
            (json!({}), json!({}), true),
            (json!({}), json!({"automountServiceAccountToken": false}), false),
            (
                json!({"spec": {"automountServiceAccountToken": true}}),
                json!({"automountServiceAccountToken": false}),
                true,
            ),
            (json!({"spec": {"automountServiceAccountToken": false}}), json!({}), false),
        ] {
            assert_eq!(mounts_token(&pod, &account), want);
        }
    }

    #[test]
    fn secrets() {
        let account = json!({"metadata": {"name": "sa"}, "secrets": [{"name": "ok"}]});
        let pod = json!({"spec": {"volumes": [{"secret": {"secretName": "ok"}}], "containers": [
            {"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]}]}});
        assert_eq!(
            secrets_error(&pod, &account).unwrap(),
            "container c with envFrom referencing secret.secretName=\"no\" is not allowed because service account sa does not reference that secret"
        );
        assert_eq!(
            mirror_error(&json!({"spec": {"serviceAccountName": "x"}})).unwrap(),
            "a mirror pod may not reference service accounts"
        );
    }
}
