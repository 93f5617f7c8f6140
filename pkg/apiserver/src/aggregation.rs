//! APIServices that a service of the cluster answers for: who they are, whether they answer, what they serve.
//!
//! Entry points: [`start`], which follows the objects, and [`Aggregation::find`], which a request asks. Resources of
//! others join the kind table as kinds without storage, so that discovery knows them like its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use knarr_kinds::{Kind, KindInfo, Scope, Subresource, Verb};
use knarr_machinery::types::{Type, TypeRef, TypeSet};
use knarr_machinery::{ApiError, GroupVersionKind, GroupVersionResource, UserInfo};
use knarr_registry::registry::now;
use knarr_registry::update::Change;
use knarr_registry::{AllowAll, EventType, ListOptions, WatchOptions, Watched, WriteContext, obj};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::aggregated;
use crate::info::RequestInfo;
use crate::server::Inner;

/// How often a service that answers is looked at again.
const RESYNC: Duration = Duration::from_secs(30);
/// How soon one that does not is; doubled each time.
const RETRY: Duration = Duration::from_millis(500);

/// A group and version that a service answers for.
pub(crate) struct Remote {
    /// Name of the APIService.
    pub name: String,
    pub group: String,
    pub version: String,
    /// Namespace, name and port of the service.
    pub service: (String, String, u16),
    /// TLS to it.
    pub tls: Result<Arc<rustls::ClientConfig>, String>,
    pub available: AtomicBool,
    end: CancellationToken,
}

type Remotes = BTreeMap<(String, String), Arc<Remote>>;

/// All of them.
#[derive(Default)]
pub(crate) struct Aggregation {
    /// None while there are none: one load tells.
    remotes: ArcSwapOption<Remotes>,
    kinds: Mutex<BTreeMap<String, Vec<Kind>>>,
}

impl Aggregation {
    /// Who answers a request, when it is not this server.
    pub(crate) fn find(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        let remotes = remotes.as_ref()?;
        let mut parts = info.path.trim_start_matches('/').split('/');
        if parts.next() != Some("apis") {
            return None;
        }
        let key = (parts.next()?.to_string(), parts.next()?.to_string());
        remotes.get(&key).cloned()
    }

    fn change(&self, change: impl FnOnce(&mut Remotes)) {
        let mut remotes = self.remotes.load_full().map(|r| (*r).clone()).unwrap_or_default();
        change(&mut remotes);
        self.remotes.store((!remotes.is_empty()).then(|| Arc::new(remotes)));
    }

    /// What a remote serves joins the table; `None` leaves it.
    fn serve(&self, server: &Inner, name: &str, remote: Option<(&Remote, Vec<Kind>)>) {
        let mut known = self.kinds.lock();
        // One that is forgotten meanwhile has nothing to say any more.
        if remote.as_ref().is_some_and(|(remote, _)| remote.end.is_cancelled()) {
            return;
        }
        let kinds = remote.map(|(_, kinds)| kinds);
        let names =
            |kinds: &[Kind]| -> Vec<String> { kinds.iter().map(|k| format!("{:?}", k.info)).collect() };
        let before = known.get(name).map(|k| names(k));
        if before == kinds.as_deref().map(names) {
            return;
        }
        match kinds {
            Some(kinds) => known.insert(name.to_string(), kinds),
            None => known.remove(name),
        };
        server.registry.kinds().set_remote(known.values().flatten().cloned().collect());
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

impl Remote {
    /// None for what this server answers itself.
    fn new(server: &Inner, service: &Value) -> Option<Self> {
        let reference = service.pointer("/spec/service").filter(|s| s.is_object())?;
        let (group, version) = (text(service, "/spec/group"), text(service, "/spec/version"));
        let built_in = |k: &Kind| k.info.gvk.group == group && k.info.gvk.version == version;
        if knarr_kinds::builtins().iter().any(built_in) {
            tracing::warn!(group, version, "an APIService for a group of Kubernetes itself is not obeyed");
            return None;
        }
        let port = reference.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
        let insecure =
            service.pointer("/spec/insecureSkipTLSVerify").and_then(Value::as_bool).unwrap_or(false);
        Some(Self {
            name: obj::name(service).to_string(),
            group: group.to_string(),
            version: version.to_string(),
            service: (
                text(reference, "/namespace").to_string(),
                text(reference, "/name").to_string(),
                port.unwrap_or(443),
            ),
            tls: aggregated::tls(server, text(service, "/spec/caBundle"), insecure),
            available: AtomicBool::new(false),
            end: CancellationToken::new(),
        })
    }

    /// `/apis/group/version`.
    pub(crate) fn root(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }
}

/// Follows APIServices until the server ends.
///
/// # Errors
/// When they cannot be read.
pub(crate) async fn start(server: Arc<Inner>) -> Result<(), ApiError> {
    let gvr = GroupVersionResource::new("apiregistration.k8s.io", "v1", "apiservices");
    let kind = server.registry.kinds().load().find(&gvr).cloned().ok_or_else(ApiError::path_not_found)?;
    let mut follower = Follower { server: server.clone(), kind, known: BTreeMap::new() };
    let from = follower.take_all().await?;
    tokio::spawn(async move {
        tokio::select! {
            () = follower.follow(from) => {}
            () = server.shutdown.cancelled() => {}
        }
    });
    Ok(())
}

struct Follower {
    server: Arc<Inner>,
    kind: Kind,
    /// By the APIService's name: its spec, and the key of its remote.
    known: BTreeMap<String, (Value, (String, String))>,
}

impl Follower {
    async fn take_all(&mut self) -> Result<i64, ApiError> {
        let page = self.server.registry.list(&self.kind, "", &ListOptions::default()).await?;
        let gone: Vec<String> = self
            .known
            .keys()
            .filter(|name| !page.entries.iter().any(|e| *e.name == **name))
            .cloned()
            .collect();
        gone.iter().for_each(|name| self.forget(name));
        for entry in &page.entries {
            self.learn(&entry.value()?);
        }
        Ok(page.revision)
    }

    async fn follow(&mut self, mut from: i64) {
        loop {
            let options = WatchOptions { resource_version: from.to_string(), ..WatchOptions::default() };
            if let Ok(mut watch) = self.server.registry.watch(&self.kind, "", options).await {
                while let Some(events) = watch.next().await {
                    for event in events {
                        self.take(event);
                    }
                }
            }
            from = match self.take_all().await {
                Ok(revision) => revision,
                Err(error) => {
                    tracing::error!(%error, "cannot read APIServices; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
        }
    }

    fn take(&mut self, event: Watched) {
        let Watched::Event { event, entry, .. } = event else { return };
        if event == EventType::Deleted {
            return self.forget(&entry.name);
        }
        match entry.value() {
            Ok(service) => self.learn(&service),
            Err(error) => tracing::error!(%error, name = %entry.name, "APIService is damaged"),
        }
    }

    fn learn(&mut self, service: &Value) {
        let name = obj::name(service).to_string();
        let spec = service.get("spec").cloned().unwrap_or_default();
        if self.known.get(&name).is_some_and(|(known, _)| *known == spec) {
            return;
        }
        self.forget(&name);
        let Some(remote) = Remote::new(&self.server, service).map(Arc::new) else { return };
        let key = (remote.group.clone(), remote.version.clone());
        self.known.insert(name, (spec, key.clone()));
        self.server.aggregation.change(|all| drop(all.insert(key, remote.clone())));
        tokio::spawn(watch_over(self.server.clone(), self.kind.clone(), remote));
    }

    fn forget(&mut self, name: &str) {
        let Some((_, key)) = self.known.remove(name) else { return };
        let aggregation = &self.server.aggregation;
        aggregation.change(|all| {
            if let Some(remote) = all.remove(&key) {
                remote.end.cancel();
            }
        });
        aggregation.serve(&self.server, name, None);
    }
}

/// Looks whether a remote answers, tells so in its status, and learns what it serves.
async fn watch_over(server: Arc<Inner>, kind: Kind, remote: Arc<Remote>) {
    let mut wait = RETRY;
    loop {
        let looked = aggregated::look(&server, &remote).await;
        if remote.end.is_cancelled() {
            return;
        }
        remote.available.store(looked.is_ok(), Ordering::Release);
        let told = match &looked {
            Ok(_) => ("True", "Passed", "all checks passed".to_string()),
            Err((reason, message)) => ("False", *reason, message.clone()),
        };
        if let Ok(list) = &looked {
            let kinds = kinds_of(&remote, list);
            server.aggregation.serve(&server, &remote.name, Some((&remote, kinds)));
        }
        match tell(&server, &kind, &remote.name, told).await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(%error, name = remote.name, "cannot write the status of an APIService");
            }
            _ => {}
        }
        wait = if looked.is_ok() { RESYNC } else { (wait * 2).min(RESYNC) };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = remote.end.cancelled() => return,
            () = server.shutdown.cancelled() => return,
        }
    }
}

async fn tell(
    server: &Inner,
    kind: &Kind,
    name: &str,
    (status, reason, message): (&str, &str, String),
) -> Result<(), ApiError> {
    let stamp = now();
    let edit = |old: &Value| {
        let mut service = old.clone();
        let parts = obj::map_mut(obj::map_mut(&mut service).entry("status").or_insert_with(|| json!({})));
        let conditions = parts.entry("conditions").or_insert_with(|| json!([]));
        let Some(list) = conditions.as_array_mut() else { return Ok(service) };
        let mut condition = json!({"type": "Available", "status": status, "reason": reason,
            "message": message, "lastTransitionTime": stamp});
        match list.iter_mut().find(|c| c["type"] == "Available") {
            Some(before) => {
                if before["status"] == status {
                    condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
                }
                *before = condition;
            }
            None => list.push(condition),
        }
        Ok(service)
    };
    let (user, options) = (UserInfo::component("system:apiserver", &["system:masters"]), json!({}));
    let context = WriteContext {
        kind,
        namespace: "",
        name,
        subresource: Some("status"),
        user: &user,
        manager: "kube-apiserver",
        dry_run: false,
        options: &options,
        hooks: &AllowAll,
    };
    server.registry.change(&context, Change::Edit(&edit)).await.map(|_| ())
}

fn verb(name: &str) -> Option<Verb> {
    Some(match name {
        "create" => Verb::Create,
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        "get" => Verb::Get,
        "list" => Verb::List,
        "patch" => Verb::Patch,
        "update" => Verb::Update,
        "watch" => Verb::Watch,
        _ => return None,
    })
}

/// The kinds of an APIResourceList.
fn kinds_of(remote: &Remote, list: &Value) -> Vec<Kind> {
    let resources = list.get("resources").and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |r: &Value| text(r, "/name").to_string();
    let verbs = |r: &Value| -> Vec<Verb> {
        let mut verbs: Vec<Verb> = obj::strings(r.get("verbs")).iter().filter_map(|v| verb(v)).collect();
        verbs.sort_unstable();
        verbs
    };
    let gvk = |r: &Value| {
        let or = |given: &str, own: &str| if given.is_empty() { own.to_string() } else { given.to_string() };
        GroupVersionKind::new(
            or(text(r, "/group"), &remote.group),
            or(text(r, "/version"), &remote.version),
            text(r, "/kind").to_string(),
        )
    };
    let owned = |list: Vec<String>| list.into_iter().map(Into::into).collect();
    let one = |r: &Value| {
        let plural = name(r);
        let prefix = format!("{plural}/");
        let mut subresources: Vec<Subresource> = resources
            .iter()
            .filter_map(|s| {
                let sub = name(s).strip_prefix(&prefix)?.to_string();
                Some(Subresource { name: sub.into(), gvk: gvk(s), verbs: verbs(s) })
            })
            .collect();
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
        let kind = text(r, "/kind").to_string();
        let info = KindInfo {
            gvk: GroupVersionKind::new(remote.group.clone(), remote.version.clone(), kind.clone()),
            list_kind: format!("{kind}List").into(),
            plural: plural.into(),
            singular: text(r, "/singularName").to_string().into(),
            scope: if r["namespaced"] == true { Scope::Namespaced } else { Scope::Cluster },
            short_names: owned(obj::strings(r.get("shortNames"))),
            categories: owned(obj::strings(r.get("categories"))),
            verbs: verbs(r),
            subresources,
            storage: None,
            types: TypeRef { set: Arc::new(TypeSet::default()), root: Type::Any },
            definition: String::new().into(),
            has_generation: false,
            columns: Vec::new(),
            selectable_fields: Vec::new(),
            custom: false,
        };
        Kind { info: Arc::new(info), rules: knarr_kinds::plain_rules() }
    };
    resources.iter().filter(|r| !name(r).contains('/')).map(one).collect()
}
