//! Upstream's service_accounts.go: tokens in pods.

use serde_json::{Value, json};

use super::service_accounts::reviewed;
use crate::Result;
use crate::api::{array, text};
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::{CLUSTER_ROLE_BINDINGS, CONFIG_MAPS, NODES, SERVICE_ACCOUNTS};
use crate::pods::{container, pod};

tests! {
    "[sig-auth] ServiceAccounts should mount an API token into pods" => mounts_token,
    "[sig-auth] ServiceAccounts should allow opting out of API token automount" => opting_out,
    "[sig-auth] ServiceAccounts should mount projected service account token" => projected,
    "[sig-auth] ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer" => discovery,
}

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN: &str = r"[A-Za-z0-9-_=]+\.[A-Za-z0-9-_=]+\.?[A-Za-z0-9-_.+/=]*";

/// The one text of an extra attribute of a reviewed user.
fn extra<'a>(review: &'a Value, key: &str) -> Result<&'a str> {
    let values = review["status"]["user"]["extra"][format!("authentication.kubernetes.io/{key}")].as_array();
    let values = values.map(Vec::as_slice).unwrap_or_default();
    match values {
        [one] => Ok(one.as_str().unwrap_or("")),
        other => anyhow::bail!("extra {key}: expected one value, saw {other:?}"),
    }
}

async fn mounts_token(cx: Context) -> Result<()> {
    let account = "mount-test";
    cx.api(&SERVICE_ACCOUNTS).create(&json!({"metadata": {"name": account}})).await?;
    let name = cx.unique("pod-service-account");
    let mut made = pod(&name, json!([container("test", AGNHOST, &["pause"])]));
    made["spec"]["serviceAccountName"] = json!(account);
    let started = cx.start(&made).await?;
    let node = cx.api(&NODES).get(text(&started, "/spec/nodeName")).await?;
    let mut read = Vec::new();
    for file in ["token", "ca.crt", "namespace"] {
        read.push(cx.exec_ok(&name, "test", &["cat", &format!("{MOUNT}/{file}")]).await?);
    }
    let root = cx.api(&CONFIG_MAPS).get("kube-root-ca.crt").await?;
    ensure_eq!(read[1].trim(), text(&root, "/data/ca.crt").trim(), "mounted root certificates");
    ensure_eq!(read[2].trim(), cx.namespace(), "mounted namespace");
    let review = reviewed(&cx, &read[0], account).await?;
    anyhow::ensure!(
        extra(&review, "credential-id")?.starts_with("JTI="),
        "credential-id does not begin with JTI="
    );
    ensure_eq!(extra(&review, "pod-name")?, name, "pod-name of the token");
    ensure_eq!(extra(&review, "pod-uid")?, text(&started, "/metadata/uid"), "pod-uid of the token");
    ensure_eq!(extra(&review, "node-name")?, text(&node, "/metadata/name"), "node-name of the token");
    ensure_eq!(extra(&review, "node-uid")?, text(&node, "/metadata/uid"), "node-uid of the token");
    Ok(())
}

async fn opting_out(cx: Context) -> Result<()> {
    let accounts = cx.api(&SERVICE_ACCOUNTS);
    for (name, mount) in [("mount", true), ("nomount", false)] {
        accounts.create(&json!({"metadata": {"name": name}, "automountServiceAccountToken": mount})).await?;
    }
    // The pod's word counts before the account's.
    for (account, account_says) in [("default", true), ("mount", true), ("nomount", false)] {
        for pod_says in [None, Some(true), Some(false)] {
            let suffix = match pod_says {
                None => "",
                Some(true) => "-mountspec",
                Some(false) => "-nomountspec",
            };
            let name = format!("pod-service-account-{account}sa{suffix}");
            let mut made = pod(&name, json!([{"name": "token-test", "image": AGNHOST}]));
            made["spec"]["serviceAccountName"] = json!(account);
            if let Some(says) = pod_says {
                made["spec"]["automountServiceAccountToken"] = json!(says);
            }
            let created = cx.pods().create(&made).await?;
            let mounts = array(&created, "/spec/containers/0/volumeMounts");
            let mounted = mounts.iter().any(|m| m["mountPath"] == MOUNT);
            ensure_eq!(mounted, pod_says.unwrap_or(account_says), "{name} has a token volume");
        }
    }
    Ok(())
}

fn token_volume(audience: Option<&str>, seconds: i64) -> Value {
    let mut source = json!({"path": "token", "expirationSeconds": seconds});
    if let Some(audience) = audience {
        source["audience"] = json!(audience);
    }
    json!({"name": "test-volume", "projected": {"sources": [{"serviceAccountToken": source}]}})
}

async fn projected(cx: Context) -> Result<()> {
    let name = cx.unique("test-pod");
    let path = "/test-volume/token";
    let mut server =
        container("agnhost-container", AGNHOST, &["mounttest", &format!("--file_content={path}")]);
    server["volumeMounts"] = json!([{"name": "test-volume", "mountPath": "/test-volume", "readOnly": true}]);
    let mut made = pod(&name, json!([server]));
    made["spec"]["volumes"] = json!([token_volume(None, 3600)]);
    let wanted = format!("content of file \"{path}\": {TOKEN}");
    cx.output_matches(&made, "agnhost-container", &[&wanted]).await
}

async fn discovery(cx: Context) -> Result<()> {
    let binding = json!({
        "metadata": {"name": format!("{}-oidc-discovery", cx.namespace())},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": "system:service-account-issuer-discovery"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": cx.namespace()}],
    });
    cx.create(&CLUSTER_ROLE_BINDINGS, &binding).await?;
    let settings = cx.rest().get("/.well-known/openid-configuration").await?;
    anyhow::ensure!(
        !text(&settings, "/issuer").is_empty(),
        "the discovery document names no issuer: {settings}"
    );
    let name = "oidc-discovery-validator";
    let audience = "oidc-discovery-test";
    let args = [
        "test-service-account-issuer-discovery",
        "--token-path",
        "/var/run/secrets/tokens/token",
        "--audience",
        audience,
    ];
    let mut server = container(name, AGNHOST, &args);
    server["volumeMounts"] =
        json!([{"name": "test-volume", "mountPath": "/var/run/secrets/tokens", "readOnly": true}]);
    let mut made = pod(name, json!([server]));
    made["spec"]["serviceAccountName"] = json!("default");
    made["spec"]["volumes"] = json!([token_volume(Some(audience), 7200)]);
    cx.output(&made, name).await.map(|_| ())
}
