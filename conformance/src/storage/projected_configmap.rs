//! Upstream: `test/e2e/common/storage/projected_configmap.go`.

use super::keyed::{Flavour::ProjectedConfigMap, Variant, consumable, multiple, optional_updates, updates};

tests! {
    "[sig-storage] Projected configMap should be consumable from pods in volume" => |c| consumable(c, ProjectedConfigMap, PLAIN),
    "[sig-storage] Projected configMap should be consumable from pods in volume as non-root" => |c| consumable(c, ProjectedConfigMap, Variant { user: Some(1000), ..PLAIN }),
    "[sig-storage] Projected configMap should be consumable from pods in volume with defaultMode set [LinuxOnly]" => |c| consumable(c, ProjectedConfigMap, Variant { default_mode: Some(0o400), ..PLAIN }),
    "[sig-storage] Projected configMap should be consumable from pods in volume with mappings" => |c| consumable(c, ProjectedConfigMap, Variant { item: Some(None), ..PLAIN }),
    "[sig-storage] Projected configMap should be consumable from pods in volume with mappings and Item mode set [LinuxOnly]" => |c| consumable(c, ProjectedConfigMap, Variant { item: Some(Some(0o400)), ..PLAIN }),
    "[sig-storage] Projected configMap should be consumable from pods in volume with mappings as non-root" => |c| consumable(c, ProjectedConfigMap, Variant { item: Some(None), user: Some(1000), ..PLAIN }),
    "[sig-storage] Projected configMap should be consumable in multiple volumes in the same pod" => |c| multiple(c, ProjectedConfigMap),
    "[sig-storage] Projected configMap updates should be reflected in volume" => |c| updates(c, ProjectedConfigMap),
    "[sig-storage] Projected configMap optional updates should be reflected in volume" => |c| optional_updates(c, ProjectedConfigMap),
}

const PLAIN: Variant = Variant { item: None, default_mode: None, user: None, group: None };
