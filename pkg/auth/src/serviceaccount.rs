//! Tokens of service accounts: issue (TokenRequest), check against the objects they are bound to, legacy secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use knarr_machinery::{ApiError, FieldError, GroupKind, GroupResource, Path, UserInfo, meta};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api::Api;
use crate::authn::AuthError;
use crate::jwt::{SigningKey, VerifyingKey, unverified_claims, verified_claims};

/// Seconds by which clocks may differ.
const LEEWAY: i64 = 60;
/// What kubelets ask for; such tokens live longer for clients that do not reload them.
const KUBELET_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;
/// Most verified tokens that are remembered.
const CACHE_MAX: usize = 4096;
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// Reads the objects that tokens are bound to.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// The object of `kind` (ServiceAccount, Pod, Node, Secret), or None.
    ///
    /// # Errors
    /// The look-up itself failed.
    async fn find(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>, ApiError>;
}

/// A look-up through the API.
pub struct ClientLookup {
    api: Api,
}

impl ClientLookup {
    /// The client must be allowed to get these objects.
    pub fn new(client: kube::Client) -> Self {
        Self { api: Api::new(client) }
    }
}

#[async_trait]
impl Lookup for ClientLookup {
    async fn find(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
        let path = match kind {
            "ServiceAccount" => format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}"),
            "Pod" => format!("/api/v1/namespaces/{namespace}/pods/{name}"),
            "Secret" => format!("/api/v1/namespaces/{namespace}/secrets/{name}"),
            "Node" => format!("/api/v1/nodes/{name}"),
            other => return Err(ApiError::internal(format!("tokens cannot be bound to a {other}"))),
        };
        self.api.get(&path).await
    }
}

/// Issues and checks tokens.
pub struct Tokens {
    signer: SigningKey,
    keys: Vec<VerifyingKey>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    lookup: Arc<dyn Lookup>,
    verified: Mutex<BTreeMap<[u8; 32], Arc<Value>>>,
}

/// A token that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Authenticated {
    /// The service account's identity, without `system:authenticated`.
    pub user: UserInfo,
    /// The audiences that token and verifier share.
    pub audiences: Vec<String>,
}

fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v[field].as_str().unwrap_or_default()
}

impl Tokens {
    /// `issuers`: the first one issues, all are accepted. `audiences` are those of this API server. `others` are
    /// keys that also verify (earlier ones).
    pub fn new(
        signer: SigningKey,
        others: Vec<VerifyingKey>,
        issuers: Vec<String>,
        audiences: Vec<String>,
        lookup: Arc<dyn Lookup>,
    ) -> Self {
        let keys = std::iter::once(signer.public().clone()).chain(others).collect();
        Self { signer, keys, issuers, audiences, lookup, verified: Mutex::new(BTreeMap::new()) }
    }

    /// Keys that verify.
    pub fn keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    /// The audiences of this API server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Carries out a TokenRequest for a service account: the document with its status filled.
    ///
    /// # Errors
    /// 404 for a missing account or bound object, 409 for another UID, 422 for a bad duration, 400 for bindings
    /// that do not fit.
    pub async fn request(&self, namespace: &str, name: &str, mut document: Value) -> Result<Value, ApiError> {
        let account = self.must_find("ServiceAccount", namespace, name).await?;
        let spec = &document["spec"];
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
        check_duration(name, seconds)?;
        let mut audiences = strings(&spec["audiences"]);
        if audiences.is_empty() {
            audiences.clone_from(&self.audiences);
        }
        let (bound, pod_bound) = self.bind(namespace, name, &spec["boundObjectRef"]).await?;
        let now = now_seconds();
        let mut private = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": meta::uid(&account)},
        });
        for (k, v) in bound {
            private[k] = v;
        }
        let mut expires = now + seconds;
        let ours = audiences.iter().all(|a| self.audiences.contains(a));
        if seconds == KUBELET_SECONDS && pod_bound && ours {
            private["warnafter"] = expires.into();
            expires = now + EXTENDED_SECONDS;
        }
        let claims = json!({
            "iss": self.issuers.first().cloned().unwrap_or_default(),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "aud": audiences,
            "iat": now,
            "nbf": now,
            "exp": expires,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": private,
        });
        let token = self.signer.sign(&claims).map_err(ApiError::internal)?;
        if !document.is_object() {
            document = json!({});
        }
        meta::set_str(&mut document, "name", name);
        meta::set_str(&mut document, "namespace", namespace);
        meta::set_at(&mut document, "spec.expirationSeconds", seconds.into());
        meta::set_at(&mut document, "spec.audiences", audiences.into());
        let until = jiff::Timestamp::from_second(now + seconds).map(knarr_machinery::time::rfc3339);
        let until = until.map_err(ApiError::internal)?;
        document["status"] = json!({"token": token, "expirationTimestamp": until});
        Ok(document)
    }

    async fn must_find(&self, kind: &str, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let plural = format!("{}s", kind.to_lowercase());
        let found = self.lookup.find(kind, namespace, name).await?;
        found.ok_or_else(|| ApiError::not_found(&GroupResource::new("", plural), name))
    }

    /// Claims of the bound object; and whether it is a Pod.
    async fn bind(
        &self,
        namespace: &str,
        account: &str,
        reference: &Value,
    ) -> Result<(Vec<(&'static str, Value)>, bool), ApiError> {
        if reference.is_null() {
            return Ok((Vec::new(), false));
        }
        let (kind, name) = (text(reference, "kind"), text(reference, "name"));
        let version = text(reference, "apiVersion");
        if version != "v1" || !matches!(kind, "Pod" | "Secret" | "Node") {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {version}, Kind={kind}"
            )));
        }
        let object = self.must_find(kind, namespace, name).await?;
        let uid = text(reference, "uid");
        if !uid.is_empty() && uid != meta::uid(&object) {
            let cause = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            let plural = format!("{}s", kind.to_lowercase());
            return Err(ApiError::conflict(&GroupResource::new("", plural), name, &cause));
        }
        let claim = |o: &Value| json!({"name": meta::name(o), "uid": meta::uid(o)});
        match kind {
            "Secret" => Ok((vec![("secret", claim(&object))], false)),
            "Node" => Ok((vec![("node", claim(&object))], false)),
            _ => {
                if text(&object["spec"], "serviceAccountName") != account {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                    )));
                }
                let mut claims = vec![("pod", claim(&object))];
                let node = text(&object["spec"], "nodeName");
                if !node.is_empty() {
                    // A node that is not registered (any more) is told by name alone.
                    let found = self.lookup.find("Node", "", node).await?;
                    claims.push(("node", found.map_or_else(|| json!({"name": node}), |n| claim(&n))));
                }
                Ok((claims, true))
            }
        }
    }

    /// Whether the token claims to be one of ours, so that a failure is an error and not "somebody else's".
    fn is_ours(&self, token: &str) -> bool {
        unverified_claims(token).is_some_and(|c| {
            let issuer = text(&c, "iss");
            issuer == LEGACY_ISSUER || self.issuers.iter().any(|i| i == issuer)
        })
    }

    fn claims(&self, token: &str) -> Result<Arc<Value>, AuthError> {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let key: [u8; 32] = digest.as_ref().try_into().unwrap_or_default();
        if let Some(known) = self.verified.lock().get(&key) {
            return Ok(known.clone());
        }
        let claims = verified_claims(token, &self.keys)
            .ok_or_else(|| AuthError("the token's signature is of no known key".to_string()))?;
        let claims = Arc::new(claims);
        let mut verified = self.verified.lock();
        if verified.len() >= CACHE_MAX {
            verified.clear();
        }
        verified.insert(key, claims.clone());
        Ok(claims)
    }

    /// Checks a token for one of the wanted audiences. None when the token is not of our issuers.
    ///
    /// # Errors
    /// Why the token is not valid.
    pub async fn authenticate(
        &self,
        token: &str,
        wanted: &[String],
    ) -> Result<Option<Authenticated>, AuthError> {
        if !self.is_ours(token) {
            return Ok(None);
        }
        let claims = self.claims(token)?;
        if text(&claims, "iss") == LEGACY_ISSUER {
            return self.authenticate_legacy(token, &claims).await.map(Some);
        }
        let now = now_seconds();
        let audiences = match &claims["aud"] {
            Value::String(one) => vec![one.clone()],
            list => strings(list),
        };
        let shared: Vec<String> = audiences.iter().filter(|a| wanted.contains(a)).cloned().collect();
        if shared.is_empty() {
            let text =
                format!("token audiences {audiences:?} is invalid for the target audiences {wanted:?}");
            return Err(AuthError(text));
        }
        check_times(&claims, now)?;
        let user = self.check_objects(&claims, now).await?;
        Ok(Some(Authenticated { user, audiences: shared }))
    }

    async fn living(&self, kind: &str, namespace: &str, claim: &Value, now: i64) -> Result<Value, AuthError> {
        let name = text(claim, "name");
        let what = kind.to_lowercase();
        let found = self.lookup.find(kind, namespace, name).await;
        let object = found.map_err(|e| AuthError(format!("{what} {name}: {e}")))?.ok_or_else(|| {
            AuthError(format!("service account token has been invalidated: {what} {name} is gone"))
        })?;
        if meta::uid(&object) != text(claim, "uid") {
            return Err(AuthError(format!("the UID of {what} {name} is not the one in the token")));
        }
        let deleted = meta::deletion_timestamp(&object).and_then(knarr_machinery::time::parse);
        if deleted.is_some_and(|t| t.as_second() < now - LEEWAY) {
            return Err(AuthError(format!(
                "service account token has been invalidated: {what} {name} is being deleted"
            )));
        }
        Ok(object)
    }

    async fn check_objects(&self, claims: &Value, now: i64) -> Result<UserInfo, AuthError> {
        let private = &claims["kubernetes.io"];
        let namespace = text(private, "namespace");
        let name = text(&private["serviceaccount"], "name");
        if text(claims, "sub") != format!("system:serviceaccount:{namespace}:{name}") {
            return Err(AuthError("the token's subject is not its service account".to_string()));
        }
        let account = self.living("ServiceAccount", namespace, &private["serviceaccount"], now).await?;
        let mut user = account_user(namespace, name, meta::uid(&account));
        let mut extra = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_string()]);
            }
        };
        let jti = text(claims, "jti");
        if !jti.is_empty() {
            extra("credential-id", &format!("JTI={jti}"));
        }
        if private.get("secret").is_some() {
            self.living("Secret", namespace, &private["secret"], now).await?;
        }
        let node = &private["node"];
        if private.get("pod").is_some() {
            self.living("Pod", namespace, &private["pod"], now).await?;
            extra("pod-name", text(&private["pod"], "name"));
            extra("pod-uid", text(&private["pod"], "uid"));
        } else if !node.is_null() {
            self.living("Node", "", node, now).await?;
        }
        extra("node-name", text(node, "name"));
        extra("node-uid", text(node, "uid"));
        Ok(user)
    }

    /// Tokens that live in secrets of type `kubernetes.io/service-account-token`.
    async fn authenticate_legacy(&self, token: &str, claims: &Value) -> Result<Authenticated, AuthError> {
        let claim = |f: &str| text(claims, &format!("kubernetes.io/serviceaccount/{f}")).to_string();
        let (namespace, secret, name) =
            (claim("namespace"), claim("secret.name"), claim("service-account.name"));
        let uid = claim("service-account.uid");
        let now = now_seconds();
        let found = self.lookup.find("Secret", &namespace, &secret).await;
        let found = found.map_err(|e| AuthError(format!("secret {namespace}/{secret}: {e}")))?;
        let stored = found.as_ref().map_or("", |s| text(&s["data"], "token"));
        use base64::Engine as _;
        let same =
            base64::engine::general_purpose::STANDARD.decode(stored).is_ok_and(|t| t == token.as_bytes());
        if !same || found.as_ref().is_none_or(|s| meta::deletion_timestamp(s).is_some()) {
            return Err(AuthError(format!("the token is not in secret {namespace}/{secret} (any more)")));
        }
        self.living("ServiceAccount", &namespace, &json!({"name": name, "uid": uid}), now).await?;
        Ok(Authenticated { user: account_user(&namespace, &name, &uid), audiences: self.audiences.clone() })
    }

    /// A token for a secret of type `kubernetes.io/service-account-token`.
    ///
    /// # Errors
    /// The random source failed.
    pub fn legacy_token(&self, account: &Value, secret: &str) -> Result<String, ApiError> {
        let (namespace, name) = (meta::namespace(account), meta::name(account));
        let claims = json!({
            "iss": LEGACY_ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": name,
            "kubernetes.io/serviceaccount/service-account.uid": meta::uid(account),
        });
        self.signer.sign(&claims).map_err(ApiError::internal)
    }
}

/// The identity of a service account.
pub fn account_user(namespace: &str, name: &str, uid: &str) -> UserInfo {
    UserInfo {
        username: format!("system:serviceaccount:{namespace}:{name}"),
        uid: uid.to_string(),
        groups: vec!["system:serviceaccounts".to_string(), format!("system:serviceaccounts:{namespace}")],
        extra: BTreeMap::new(),
    }
}

fn strings(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_string)).collect()
}

fn check_duration(name: &str, seconds: i64) -> Result<(), ApiError> {
    let detail = if seconds < 600 {
        "may not specify a duration less than 10 minutes"
    } else if seconds > 1 << 32 {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let path = Path::new("spec").child("expirationSeconds");
    let gk = GroupKind::new("authentication.k8s.io", "TokenRequest");
    Err(ApiError::invalid(&gk, name, &[FieldError::invalid(&path, seconds, detail)]))
}

fn check_times(claims: &Value, now: i64) -> Result<(), AuthError> {
    let at = |f: &str| claims[f].as_f64();
    #[allow(clippy::cast_precision_loss)]
    let now = now as f64;
    #[allow(clippy::cast_precision_loss)]
    let leeway = LEEWAY as f64;
    if at("exp").is_none_or(|t| now - leeway > t) {
        return Err(AuthError("service account token has expired".to_string()));
    }
    if at("nbf").is_some_and(|t| now + leeway < t) {
        return Err(AuthError("service account token is not valid yet".to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::tests::test_key;

    struct Objects(Mutex<BTreeMap<(String, String, String), Value>>);

    #[async_trait]
    impl Lookup for Objects {
        async fn find(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
            Ok(self.0.lock().get(&(kind.to_string(), namespace.to_string(), name.to_string())).cloned())
        }
    }

    impl Objects {
        fn put(&self, kind: &str, namespace: &str, name: &str, uid: &str, spec: Value) {
            let v = json!({"metadata": {"name": name, "namespace": namespace, "uid": uid}, "spec": spec});
            self.0.lock().insert((kind.into(), namespace.into(), name.into()), v);
        }
    }

    fn setup() -> (Arc<Objects>, Tokens) {
        let objects = Arc::new(Objects(Mutex::default()));
        objects.put("ServiceAccount", "n", "sa", "u1", Value::Null);
        objects.put("Pod", "n", "p", "u2", json!({"serviceAccountName": "sa", "nodeName": "node"}));
        objects.put("Node", "", "node", "u3", Value::Null);
        let tokens = Tokens::new(
            test_key(),
            vec![],
            vec!["https://me".into()],
            vec!["https://me".into()],
            objects.clone(),
        );
        (objects, tokens)
    }

    fn mine() -> Vec<String> {
        vec!["https://me".to_string()]
    }

    #[tokio::test]
    async fn issue_and_check() {
        let (objects, tokens) = setup();
        let ask = json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u2"}}});
        let out = tokens.request("n", "sa", ask).await.unwrap();
        let token = out["status"]["token"].as_str().unwrap().to_string();
        let claims = unverified_claims(&token).unwrap();
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), EXTENDED_SECONDS);
        assert_eq!(claims["kubernetes.io"]["node"], json!({"name": "node", "uid": "u3"}));
        let found = tokens.authenticate(&token, &mine()).await.unwrap().unwrap();
        assert_eq!(found.user.username, "system:serviceaccount:n:sa");
        assert_eq!(found.user.groups, ["system:serviceaccounts", "system:serviceaccounts:n"]);
        assert_eq!(found.user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert!(tokens.authenticate(&token, &["other".to_string()]).await.is_err());
        // The pod is made anew: another UID.
        objects.put("Pod", "n", "p", "u9", json!({"serviceAccountName": "sa"}));
        assert!(tokens.authenticate(&token, &mine()).await.unwrap_err().0.contains("UID of pod p"));
        objects.0.lock().clear();
        assert!(tokens.authenticate(&token, &mine()).await.is_err());
    }

    #[tokio::test]
    async fn refused_requests() {
        let (_, tokens) = setup();
        let e = tokens.request("n", "none", json!({})).await.unwrap_err();
        assert_eq!(e.message, "serviceaccounts \"none\" not found");
        let e = tokens.request("n", "sa", json!({"spec": {"expirationSeconds": 5}})).await.unwrap_err();
        assert_eq!(
            e.message,
            "TokenRequest.authentication.k8s.io \"sa\" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"
        );
        let bound = |kind: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": "p", "uid": uid}}});
        assert_eq!(tokens.request("n", "sa", bound("Pod", "x")).await.unwrap_err().code, 409);
        assert_eq!(tokens.request("n", "sa", bound("ConfigMap", "")).await.unwrap_err().code, 400);
        assert_eq!(tokens.request("n", "sa", bound("Secret", "")).await.unwrap_err().code, 404);
    }

    #[tokio::test]
    async fn foreign_and_forged() {
        let (_, tokens) = setup();
        assert_eq!(tokens.authenticate("opaque", &mine()).await.unwrap(), None);
        let other = test_key().sign(&json!({"iss": "https://elsewhere"})).unwrap();
        assert_eq!(tokens.authenticate(&other, &mine()).await.unwrap(), None);
        let forged = test_key().sign(&json!({"iss": "https://me", "aud": ["https://me"]})).unwrap();
        assert!(tokens.authenticate(&forged, &mine()).await.is_err());
        let old =
            tokens.signer.sign(&json!({"iss": "https://me", "aud": "https://me", "exp": 1000})).unwrap();
        assert_eq!(
            tokens.authenticate(&old, &mine()).await.unwrap_err().0,
            "service account token has expired"
        );
    }

    #[tokio::test]
    async fn legacy_secrets() {
        let (objects, tokens) = setup();
        let account = objects.find("ServiceAccount", "n", "sa").await.unwrap().unwrap();
        let token = tokens.legacy_token(&account, "s").unwrap();
        assert!(tokens.authenticate(&token, &mine()).await.is_err());
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(&token);
        let secret = json!({"metadata": {"name": "s"}, "data": {"token": data}});
        objects.0.lock().insert(("Secret".into(), "n".into(), "s".into()), secret);
        let found = tokens.authenticate(&token, &mine()).await.unwrap().unwrap();
        assert_eq!(found.user.username, "system:serviceaccount:n:sa");
    }
}
