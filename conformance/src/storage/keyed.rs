//! What volumes of keys have in common: ConfigMap and Secret, plain and projected.

use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind};
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::{CONFIG_MAPS, SECRETS};
use crate::pods::{container, pod};

/// How long a change may take to reach a volume (upstream waits for the kubelet's sync period and its cache).
pub const PROPAGATION: Duration = Duration::from_secs(240);

/// Which volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `configMap`.
    ConfigMap,
    /// `secret`.
    Secret,
    /// `projected` with a `configMap`.
    ProjectedConfigMap,
    /// `projected` with a `secret`.
    ProjectedSecret,
}

use Flavour::{ConfigMap, ProjectedConfigMap, ProjectedSecret, Secret};

/// What a test varies.
#[derive(Clone, Copy, Default)]
pub struct Variant {
    /// `items` of the volume: one key under another path, with a mode of its own.
    pub item: Option<Option<u32>>,
    /// `defaultMode`.
    pub default_mode: Option<u32>,
    /// `runAsUser` of the pod.
    pub user: Option<i64>,
    /// `fsGroup` of the pod.
    pub group: Option<i64>,
}

impl Flavour {
    /// The kind of the source object.
    pub fn kind(self) -> &'static Kind {
        const MAPS: &Kind = &CONFIG_MAPS;
        const SECRET: &Kind = &SECRETS;
        match self {
            ConfigMap | ProjectedConfigMap => MAPS,
            Secret | ProjectedSecret => SECRET,
        }
    }

    /// Where upstream mounts it.
    pub fn mount(self) -> &'static str {
        match self {
            ConfigMap => "/etc/configmap-volume",
            Secret => "/etc/secret-volume",
            ProjectedConfigMap => "/etc/projected-configmap-volume",
            ProjectedSecret => "/etc/projected-secret-volume",
        }
    }

    fn base(self) -> &'static str {
        match self {
            ConfigMap => "configmap-test-volume",
            Secret => "secret-test",
            ProjectedConfigMap => "projected-configmap-test-volume",
            ProjectedSecret => "projected-secret-test",
        }
    }

    fn is_secret(self) -> bool {
        matches!(self, Secret | ProjectedSecret)
    }

    /// A source object with these texts.
    pub fn object(self, name: &str, data: &[(&str, &str)]) -> Value {
        json!({"metadata": {"name": name}, "data": self.data(data)})
    }

    /// `data` with these texts.
    pub fn data(self, data: &[(&str, &str)]) -> Value {
        let encode = |v: &str| base64::engine::general_purpose::STANDARD.encode(v);
        data.iter()
            .map(|(k, v)| ((*k).to_string(), if self.is_secret() { json!(encode(v)) } else { json!(v) }))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// The key that a variant maps, the path it gets, and the text that is there.
    fn mapping(self) -> (&'static str, &'static str, &'static str) {
        match self.is_secret() {
            true => ("data-1", "new-path-data-1", "value-1"),
            false => ("data-2", "path/to/data-2", "value-2"),
        }
    }

    /// A volume of the source object.
    pub fn volume(self, volume: &str, name: &str, v: &Variant, optional: bool) -> Value {
        let mut source = json!({});
        source[if self == Secret { "secretName" } else { "name" }] = json!(name);
        if optional {
            source["optional"] = json!(true);
        }
        if let Some(mode) = v.item {
            let (key, path, _) = self.mapping();
            source["items"] = json!([{"key": key, "path": path, "mode": mode}]);
        }
        let plain = if self.is_secret() { "secret" } else { "configMap" };
        let mut out = json!({"name": volume});
        if matches!(self, ConfigMap | Secret) {
            source["defaultMode"] = json!(v.default_mode);
            out[plain] = source;
        } else {
            out["projected"] = json!({"defaultMode": v.default_mode, "sources": [{plain: source}]});
        }
        out
    }

    async fn make(self, c: &Context) -> Result<String> {
        let name = c.unique(self.base());
        let end = if self.is_secret() { "\n" } else { "" };
        let values: Vec<String> = (1..4).map(|n| format!("value-{n}{end}")).collect();
        let data = [("data-1", values[0].as_str()), ("data-2", &values[1]), ("data-3", &values[2])];
        c.create(self.kind(), &self.object(&name, &data)).await?;
        Ok(name)
    }
}

/// `-rw-r--r--` of 0o644.
pub fn mode_text(mode: u32) -> String {
    let bits = |n: u32| {
        let one = |bit, c| if n & bit != 0 { c } else { '-' };
        [one(4, 'r'), one(2, 'w'), one(1, 'x')]
    };
    let all = [bits(mode >> 6), bits(mode >> 3), bits(mode)];
    std::iter::once('-').chain(all.into_iter().flatten()).collect()
}

/// A pod that runs mounttest over a volume.
pub fn reader(name: &str, volumes: Value, mounts: Value, args: &[String]) -> Value {
    let args: Vec<&str> = std::iter::once("mounttest").chain(args.iter().map(String::as_str)).collect();
    let mut reader = container("agnhost-container", AGNHOST, &args);
    reader["volumeMounts"] = mounts;
    let mut pod = pod(name, json!([reader]));
    pod["spec"]["volumes"] = volumes;
    pod
}

/// The volume shows the key, with its content, mode and readability for the user.
pub async fn consumable(c: Context, flavour: Flavour, v: Variant) -> Result<()> {
    let name = flavour.make(&c).await?;
    consume(&c, flavour, &name, v).await
}

/// The volume of an object that exists shows the key.
pub async fn consume(c: &Context, flavour: Flavour, name: &str, v: Variant) -> Result<()> {
    let (path, text) = match v.item {
        Some(_) => (flavour.mapping().1, flavour.mapping().2),
        None => ("data-1", "value-1"),
    };
    let file = format!("{}/{path}", flavour.mount());
    let args = [format!("--file_content={file}"), format!("--file_mode={file}")];
    let mounts = json!([{"name": "volume", "mountPath": flavour.mount(), "readOnly": true}]);
    let mut pod = reader(&c.unique("pod"), json!([flavour.volume("volume", name, &v, false)]), mounts, &args);
    let mut security = json!({});
    if let Some(user) = v.user {
        security["runAsUser"] = json!(user);
    }
    if let Some(group) = v.group {
        security["fsGroup"] = json!(group);
    }
    pod["spec"]["securityContext"] = security;
    let mode = v.item.flatten().or(v.default_mode).unwrap_or(0o644);
    let content = format!("content of file \"{file}\": {text}");
    let mode = format!("mode of file \"{file}\": {}", mode_text(mode));
    c.output_has(&pod, "agnhost-container", &[&content, &mode]).await
}

/// One object in two volumes of a pod.
pub async fn multiple(c: Context, flavour: Flavour) -> Result<()> {
    let name = flavour.make(&c).await?;
    let second = format!("{}-2", flavour.mount());
    let v = Variant::default();
    let volumes = json!([flavour.volume("one", &name, &v, false), flavour.volume("two", &name, &v, false)]);
    let mounts = json!([
        {"name": "one", "mountPath": flavour.mount(), "readOnly": true},
        {"name": "two", "mountPath": second, "readOnly": true},
    ]);
    for mount in [flavour.mount(), &second] {
        let file = format!("{mount}/data-1");
        let args = [format!("--file_content={file}"), format!("--file_mode={file}")];
        let pod = reader(&c.unique("pod"), volumes.clone(), mounts.clone(), &args);
        let content = format!("content of file \"{file}\": value-1");
        let mode = format!("mode of file \"{file}\": -rw-r--r--");
        c.output_has(&pod, "agnhost-container", &[&content, &mode]).await?;
    }
    Ok(())
}

/// A container that prints a file again and again.
pub fn watcher(name: &str, volume: &str, mount: &str, file: &str) -> Value {
    let file = format!("--file_content_in_loop={mount}/{file}");
    let args = ["mounttest", "--break_on_expected_content=false", "--retry_time=1200", &file];
    let mut c = container(name, AGNHOST, &args);
    c["volumeMounts"] = json!([{"name": volume, "mountPath": mount, "readOnly": true}]);
    c
}

/// A changed value reaches the volume of a running pod.
pub async fn updates(c: Context, flavour: Flavour) -> Result<()> {
    let name = c.unique("upd");
    c.create(flavour.kind(), &flavour.object(&name, &[("data-1", "value-1")])).await?;
    let mut pod = pod(&c.unique("pod"), json!([watcher("watcher", "volume", flavour.mount(), "data-1")]));
    pod["spec"]["volumes"] = json!([flavour.volume("volume", &name, &Variant::default(), false)]);
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default().to_string();
    c.start(&pod).await?;
    c.logs_until(&pod_name, "watcher", "value-1", PROPAGATION).await?;
    let data = flavour.data(&[("data-1", "value-2")]);
    c.api(flavour.kind()).modify(&name, |o| o["data"] = data.clone()).await?;
    c.logs_until(&pod_name, "watcher", "value-2", PROPAGATION).await.map(|_| ())
}

/// Optional sources: one is deleted, one gets another key, one comes to be, while the pod runs.
pub async fn optional_updates(c: Context, flavour: Flavour) -> Result<()> {
    let names: Vec<String> = ["del", "upd", "create"].iter().map(|n| c.unique(&format!("opt-{n}"))).collect();
    let api: Api = c.api(flavour.kind());
    api.create(&flavour.object(&names[0], &[("data-1", "value-1")])).await?;
    api.create(&flavour.object(&names[1], &[("data-1", "value-1")])).await?;
    let root = format!("{}s", flavour.mount());
    let (del, upd, new) = (format!("{root}/delete"), format!("{root}/update"), format!("{root}/create"));
    let containers = json!([
        watcher("deleted", "deletes", &del, "data-1"),
        watcher("updated", "updates", &upd, "data-3"),
        watcher("created", "creates", &new, "data-1"),
    ]);
    let name = c.unique("pod");
    let mut pod = pod(&name, containers);
    let v = Variant::default();
    pod["spec"]["volumes"] = json!([
        flavour.volume("deletes", &names[0], &v, true),
        flavour.volume("updates", &names[1], &v, true),
        flavour.volume("creates", &names[2], &v, true),
    ]);
    c.start(&pod).await?;
    c.logs_until(&name, "created", &format!("Error reading file {new}/data-1"), PROPAGATION).await?;
    c.logs_until(&name, "updated", &format!("Error reading file {upd}/data-3"), PROPAGATION).await?;
    c.logs_until(&name, "deleted", "value-1", PROPAGATION).await?;
    api.delete(&names[0]).await?;
    let data = flavour.data(&[("data-3", "value-3")]);
    api.modify(&names[1], |o| o["data"] = data.clone()).await?;
    api.create(&flavour.object(&names[2], &[("data-1", "value-1")])).await?;
    c.logs_until(&name, "created", "value-1", PROPAGATION).await?;
    c.logs_until(&name, "updated", "value-3", PROPAGATION).await?;
    c.logs_until(&name, "deleted", &format!("Error reading file {del}/data-1"), PROPAGATION).await.map(|_| ())
}

/// An immutable object: data and the mark itself cannot change, metadata can, and it can be deleted.
pub async fn immutable(c: Context, flavour: Flavour) -> Result<()> {
    let (api, name) = (c.api(flavour.kind()), "immutable");
    let data = |text: &str| flavour.data(&[("data-1", "value-1"), ("data-2", "value-2"), ("data-3", text)]);
    let mut object = api.create(&json!({"metadata": {"name": name}, "data": data("value-3")})).await?;
    object["data"] = data("value-4");
    let mut object = api.update(&object).await?;
    object["immutable"] = json!(true);
    let object = api.update(&object).await?;
    ensure_eq!(object["immutable"], json!(true), "the mark after its update");
    let mut changed = object.clone();
    changed["data"] = data("value-5");
    crate::rest::refused(api.update(&changed).await, 422, "a change of immutable data")?;
    let mut changed = object.clone();
    changed["immutable"] = json!(false);
    crate::rest::refused(api.update(&changed).await, 422, "taking the mark back")?;
    let mut changed = object.clone();
    if let Some(fields) = changed.as_object_mut() {
        fields.remove("immutable");
    }
    crate::rest::refused(api.update(&changed).await, 422, "removing the mark")?;
    let mut changed = object;
    changed["metadata"]["labels"] = json!({"label1": "value1"});
    let changed = api.update(&changed).await?;
    ensure_eq!(changed["metadata"]["labels"]["label1"], json!("value1"), "a label of the immutable object");
    ensure_eq!(changed["data"], data("value-4"), "its data");
    api.delete(name).await?;
    api.wait_gone(name, Duration::from_secs(60)).await
}
