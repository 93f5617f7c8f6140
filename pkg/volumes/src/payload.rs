//! Volumes made of API objects: configMap, secret, downwardAPI and projected.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, DownwardAPIVolumeFile, KeyToPath, PodCertificateProjection,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use crate::{
    Context, Mounted, Place, Plugin, Ready, downward, trust,
    writer::{self, File, Payload},
};

const DEFAULT_MODE: i32 = 0o644;
/// What a projected token lives when the volume does not say.
const TOKEN_SECONDS: i64 = 3600;

pub(crate) struct ConfigMap;
pub(crate) struct Secret;
pub(crate) struct Downward;
pub(crate) struct Projected;

fn mode_bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or_default() & 0o777
}

fn file(bytes: Vec<u8>, mode: i32) -> File {
    File { bytes, mode: mode_bits(mode), user: None }
}

/// A path that stays within the volume.
fn checked(path: &str) -> Result<String, String> {
    let inside = !path.is_empty()
        && !path.starts_with('/')
        && !path.starts_with("..")
        && !path.split('/').any(|part| part == "..");
    if inside { Ok(path.trim_end_matches('/').to_owned()) } else { Err(format!("invalid path {path:?}")) }
}

/// The chosen items of an object's data, or all of it.
fn choose(
    what: &str,
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(data.into_iter().map(|(key, bytes)| (key, file(bytes, mode))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                payload.insert(checked(&item.path)?, file(bytes.clone(), item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(format!("{what} references non-existent config key: {}", item.key)),
        }
    }
    Ok(payload)
}

async fn config_map(
    context: &Context<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    match context.source.config_map(context.namespace(), name).await? {
        Some(object) => {
            let binary = object.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0));
            let data = object
                .data
                .unwrap_or_default()
                .into_iter()
                .map(|(k, v)| (k, v.into_bytes()))
                .chain(binary)
                .collect();
            choose("configmap", data, items, mode, optional)
        }
        None if optional => Ok(Payload::new()),
        None => Err(format!("configmap {name:?} not found")),
    }
}

async fn secret(
    context: &Context<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    match context.source.secret(context.namespace(), name).await? {
        Some(object) => {
            let data = object.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect();
            choose("secret", data, items, mode, optional)
        }
        None if optional => Ok(Payload::new()),
        None => Err(format!("secret {name:?} not found")),
    }
}

fn downward_files(
    context: &Context<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            downward::field(context.pod, &field.field_path)?
                .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path))?
        } else if let Some(selector) = &item.resource_field_ref {
            let wanted = selector.container_name.as_deref().unwrap_or_default();
            let spec = context.pod.spec.as_ref().ok_or("the pod has no spec")?;
            let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let container = containers
                .find(|c| c.name == wanted)
                .ok_or_else(|| format!("container {wanted} not found"))?;
            downward::resource(container, selector, context.allocatable)?
        } else {
            return Err(format!(
                "downwardAPI item {:?} has neither fieldRef nor resourceFieldRef",
                item.path
            ));
        };
        payload.insert(checked(&item.path)?, file(text.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(payload)
}

async fn token(
    context: &Context<'_>,
    projection: &ServiceAccountTokenProjection,
    mode: i32,
) -> Result<(Payload, Timestamp), String> {
    let token = context
        .source
        .token(
            context.pod,
            projection.audience.as_deref(),
            projection.expiration_seconds.unwrap_or(TOKEN_SECONDS),
        )
        .await?;
    let file = private(context, token.token.into_bytes(), mode);
    Ok((Payload::from([(checked(&projection.path)?, file)]), token.refresh_at))
}

/// A file for the pod's user alone, where it is known who that is.
fn private(context: &Context<'_>, bytes: Vec<u8>, mode: i32) -> File {
    let user = common_user(context);
    let mode = if user.is_some() || context.fs_group().is_some() { 0o600 } else { mode };
    File { bytes, mode: mode_bits(mode), user }
}

async fn trust_bundle(
    context: &Context<'_>,
    projection: &ClusterTrustBundleProjection,
    mode: i32,
) -> Result<Payload, String> {
    let anchors = trust::anchors(context.source, projection).await?;
    Ok(Payload::from([(checked(&projection.path)?, private(context, anchors, mode))]))
}

async fn certificate(
    context: &Context<'_>,
    projection: &PodCertificateProjection,
    index: usize,
    mode: i32,
) -> Result<(Payload, Timestamp), String> {
    let place = Place { volume: context.volume.name.clone(), source: index };
    let found = context.source.certificate(context.pod, place, projection).await?;
    let bundle = format!("{}{}", found.key_pem, found.chain_pem);
    let mut payload = Payload::new();
    for (path, text) in [
        (&projection.credential_bundle_path, bundle),
        (&projection.key_path, found.key_pem),
        (&projection.certificate_chain_path, found.chain_pem),
    ] {
        if let Some(path) = path.as_deref().filter(|p| !p.is_empty()) {
            payload.insert(checked(path)?, private(context, text.into_bytes(), mode));
        }
    }
    Ok((payload, found.refresh_at))
}

/// The user that all containers run as, when they agree on one: it may own the token then.
fn common_user(context: &Context<'_>) -> Option<u32> {
    let spec = context.pod.spec.as_ref()?;
    let pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let users: Option<Vec<i64>> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(pod))
        .collect();
    let users = users?;
    let first = *users.first()?;
    users.iter().all(|u| *u == first).then(|| u32::try_from(first).ok()).flatten()
}

async fn project(
    context: &Context<'_>,
    source: &VolumeProjection,
    index: usize,
    mode: i32,
) -> Result<(Payload, Option<Timestamp>), String> {
    if let Some(s) = &source.config_map {
        return Ok((
            config_map(context, &s.name, s.items.as_deref(), mode, s.optional == Some(true)).await?,
            None,
        ));
    }
    if let Some(s) = &source.secret {
        return Ok((
            secret(context, &s.name, s.items.as_deref(), mode, s.optional == Some(true)).await?,
            None,
        ));
    }
    if let Some(s) = &source.downward_api {
        return Ok((downward_files(context, s.items.as_deref().unwrap_or_default(), mode)?, None));
    }
    if let Some(s) = &source.service_account_token {
        return token(context, s, mode).await.map(|(payload, at)| (payload, Some(at)));
    }
    if let Some(s) = &source.cluster_trust_bundle {
        return Ok((trust_bundle(context, s, mode).await?, None));
    }
    if let Some(s) = &source.pod_certificate {
        return certificate(context, s, index, mode).await.map(|(payload, at)| (payload, Some(at)));
    }
    Err(format!("source {index} of the projected volume is of no kind that this node has"))
}

/// Writes the payload off the executor's threads.
async fn publish(
    context: &Context<'_>,
    payload: Payload,
    refresh_at: Option<Timestamp>,
) -> Result<Ready, String> {
    let (dir, group) = (context.dir.clone(), context.fs_group().and_then(|g| u32::try_from(g).ok()));
    let shown = dir.display().to_string();
    tokio::task::spawn_blocking(move || writer::write(&dir, &payload, group))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| format!("writing {shown}: {e}"))?;
    Ok(Ready {
        mounted: Mounted { host_path: context.dir.clone(), read_only: true, owned: true },
        refresh_at,
    })
}

#[async_trait::async_trait]
impl Plugin for ConfigMap {
    fn name(&self) -> &'static str {
        "configmap"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    async fn set_up(&self, context: &Context<'_>) -> Result<Ready, String> {
        let s = context.volume.config_map.clone().unwrap_or_default();
        let mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        let payload =
            config_map(context, &s.name, s.items.as_deref(), mode, s.optional == Some(true)).await?;
        publish(context, payload, None).await
    }
}

#[async_trait::async_trait]
impl Plugin for Secret {
    fn name(&self) -> &'static str {
        "secret"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    async fn set_up(&self, context: &Context<'_>) -> Result<Ready, String> {
        let s = context.volume.secret.clone().unwrap_or_default();
        let name = s.secret_name.clone().unwrap_or_default();
        let mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        let payload = secret(context, &name, s.items.as_deref(), mode, s.optional == Some(true)).await?;
        crate::local::memory(&context.dir, None)?;
        publish(context, payload, None).await
    }
}

#[async_trait::async_trait]
impl Plugin for Downward {
    fn name(&self) -> &'static str {
        "downward-api"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    async fn set_up(&self, context: &Context<'_>) -> Result<Ready, String> {
        let s = context.volume.downward_api.clone().unwrap_or_default();
        let payload = downward_files(
            context,
            s.items.as_deref().unwrap_or_default(),
            s.default_mode.unwrap_or(DEFAULT_MODE),
        )?;
        publish(context, payload, None).await
    }
}

#[async_trait::async_trait]
impl Plugin for Projected {
    fn name(&self) -> &'static str {
        "projected"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    async fn set_up(&self, context: &Context<'_>) -> Result<Ready, String> {
        let s = context.volume.projected.clone().unwrap_or_default();
        let mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        let (mut payload, mut refresh_at) = (Payload::new(), None);
        for (index, source) in s.sources.iter().flatten().enumerate() {
            let (files, at) = project(context, source, index, mode).await?;
            payload.extend(files);
            refresh_at = [refresh_at, at].into_iter().flatten().min();
        }
        crate::local::memory(&context.dir, None)?;
        publish(context, payload, refresh_at).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Credentials, source::tests::Known};
    use serde_json::json;

    #[tokio::test]
    async fn a_certificate_is_written_as_bundle_key_and_chain() {
        let pod = serde_json::from_value(
            json!({"spec": {"containers": [{"name": "c", "securityContext": {"runAsUser": 7}}]}}),
        )
        .unwrap();
        let volume = serde_json::from_value(json!({"name": "v", "projected": {}})).unwrap();
        let credentials = Credentials {
            key_pem: "KEY\n".into(),
            chain_pem: "CHAIN\n".into(),
            refresh_at: Timestamp::UNIX_EPOCH,
        };
        let source = Known { credentials: Some(credentials), ..Known::default() };
        let context = Context {
            pod: &pod,
            volume: &volume,
            dir: "/nowhere".into(),
            source: &source,
            allocatable: &BTreeMap::new(),
        };
        let projection = json!({"podCertificate": {"signerName": "a/b", "keyType": "ED25519", "credentialBundlePath": "all.pem", "keyPath": "key.pem", "certificateChainPath": "d/chain.pem"}});
        let source = serde_json::from_value(projection).unwrap();
        let (files, at) = project(&context, &source, 0, 0o644).await.unwrap();
        assert_eq!(at, Some(Timestamp::UNIX_EPOCH));
        let shown: Vec<_> = files
            .iter()
            .map(|(path, f)| (path.as_str(), String::from_utf8_lossy(&f.bytes).into_owned(), f.mode, f.user))
            .collect();
        assert_eq!(
            shown,
            [
                ("all.pem", "KEY\nCHAIN\n".to_owned(), 0o600, Some(7)),
                ("d/chain.pem", "CHAIN\n".to_owned(), 0o600, Some(7)),
                ("key.pem", "KEY\n".to_owned(), 0o600, Some(7)),
            ]
        );
    }
}
