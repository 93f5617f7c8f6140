//! Upstream: `test/e2e/common/storage/configmap_volume.go`.

use base64::Engine as _;
use serde_json::json;

use super::keyed::{
    Flavour::ConfigMap, PROPAGATION, Variant, consumable, immutable, multiple, optional_updates, updates,
    watcher,
};
use crate::Result;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::CONFIG_MAPS;
use crate::pods::{command, pod};

tests! {
    "[sig-storage] ConfigMap should be consumable from pods in volume" => |c| consumable(c, ConfigMap, PLAIN),
    "[sig-storage] ConfigMap should be consumable from pods in volume as non-root" => |c| consumable(c, ConfigMap, Variant { user: Some(1000), ..PLAIN }),
    "[sig-storage] ConfigMap should be consumable from pods in volume with defaultMode set [LinuxOnly]" => |c| consumable(c, ConfigMap, Variant { default_mode: Some(0o400), ..PLAIN }),
    "[sig-storage] ConfigMap should be consumable from pods in volume with mappings" => |c| consumable(c, ConfigMap, Variant { item: Some(None), ..PLAIN }),
    "[sig-storage] ConfigMap should be consumable from pods in volume with mappings and Item mode set [LinuxOnly]" => |c| consumable(c, ConfigMap, Variant { item: Some(Some(0o400)), ..PLAIN }),
    "[sig-storage] ConfigMap should be consumable from pods in volume with mappings as non-root" => |c| consumable(c, ConfigMap, Variant { item: Some(None), user: Some(1000), ..PLAIN }),
    "[sig-storage] ConfigMap should be consumable in multiple volumes in the same pod" => |c| multiple(c, ConfigMap),
    "[sig-storage] ConfigMap updates should be reflected in volume" => |c| updates(c, ConfigMap),
    "[sig-storage] ConfigMap optional updates should be reflected in volume" => |c| optional_updates(c, ConfigMap),
    "[sig-storage] ConfigMap should be immutable if `immutable` field is set" => |c| immutable(c, ConfigMap),
    "[sig-storage] ConfigMap binary data should be reflected in volume" => binary,
}

const PLAIN: Variant = Variant { item: None, default_mode: None, user: None, group: None };

async fn binary(c: Context) -> Result<()> {
    let bytes = base64::engine::general_purpose::STANDARD.encode([0xde, 0xca, 0xfe, 0xba, 0xd0, 0xfe, 0xff]);
    let name = c.unique("configmap-test-upd");
    let map =
        json!({"metadata": {"name": name}, "data": {"data-1": "value-1"}, "binaryData": {"dump.bin": bytes}});
    c.create(&CONFIG_MAPS, &map).await?;
    let mount = ConfigMap.mount();
    let mut dump = command("dump", AGNHOST, &["hexdump", "-C", "/etc/configmap-volume/dump.bin"]);
    dump["volumeMounts"] = json!([{"name": "volume", "mountPath": mount, "readOnly": true}]);
    let mut pod = pod("pod-configmaps", json!([watcher("text", "volume", mount, "data-1"), dump]));
    pod["spec"]["volumes"] = json!([ConfigMap.volume("volume", &name, &PLAIN, false)]);
    c.pods().create(&pod).await?;
    c.pods().wait_running("pod-configmaps").await?;
    c.logs_until("pod-configmaps", "text", "value-1", PROPAGATION).await?;
    c.logs_until("pod-configmaps", "dump", "de ca fe ba d0 fe ff", PROPAGATION).await.map(|_| ())
}
