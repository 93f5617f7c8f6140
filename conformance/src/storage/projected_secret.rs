//! Upstream: `test/e2e/common/storage/projected_secret.go`.

use super::keyed::{Flavour::ProjectedSecret, Variant, consumable, multiple, optional_updates};

tests! {
    "[sig-storage] Projected secret should be consumable from pods in volume" => |c| consumable(c, ProjectedSecret, PLAIN),
    "[sig-storage] Projected secret should be consumable from pods in volume with defaultMode set [LinuxOnly]" => |c| consumable(c, ProjectedSecret, Variant { default_mode: Some(0o400), ..PLAIN }),
    "[sig-storage] Projected secret should be consumable from pods in volume as non-root with defaultMode and fsGroup set [LinuxOnly]" => |c| consumable(c, ProjectedSecret, Variant { default_mode: Some(0o440), user: Some(1000), group: Some(1001), ..PLAIN }),
    "[sig-storage] Projected secret should be consumable from pods in volume with mappings" => |c| consumable(c, ProjectedSecret, Variant { item: Some(None), ..PLAIN }),
    "[sig-storage] Projected secret should be consumable from pods in volume with mappings and Item Mode set [LinuxOnly]" => |c| consumable(c, ProjectedSecret, Variant { item: Some(Some(0o400)), ..PLAIN }),
    "[sig-storage] Projected secret should be consumable in multiple volumes in a pod" => |c| multiple(c, ProjectedSecret),
    "[sig-storage] Projected secret optional updates should be reflected in volume" => |c| optional_updates(c, ProjectedSecret),
}

const PLAIN: Variant = Variant { item: None, default_mode: None, user: None, group: None };
