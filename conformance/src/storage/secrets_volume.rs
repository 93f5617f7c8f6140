//! Upstream: `test/e2e/common/storage/secrets_volume.go`.

use super::keyed::{Flavour::Secret, Variant, consumable, consume, immutable, multiple, optional_updates};
use crate::Result;
use crate::context::Context;
use crate::kinds::SECRETS;

tests! {
    "[sig-storage] Secrets should be consumable from pods in volume" => |c| consumable(c, Secret, PLAIN),
    "[sig-storage] Secrets should be consumable from pods in volume with defaultMode set [LinuxOnly]" => |c| consumable(c, Secret, Variant { default_mode: Some(0o400), ..PLAIN }),
    "[sig-storage] Secrets should be consumable from pods in volume as non-root with defaultMode and fsGroup set [LinuxOnly]" => |c| consumable(c, Secret, Variant { default_mode: Some(0o440), user: Some(1000), group: Some(1001), ..PLAIN }),
    "[sig-storage] Secrets should be consumable from pods in volume with mappings" => |c| consumable(c, Secret, Variant { item: Some(None), ..PLAIN }),
    "[sig-storage] Secrets should be consumable from pods in volume with mappings and Item Mode set [LinuxOnly]" => |c| consumable(c, Secret, Variant { item: Some(Some(0o400)), ..PLAIN }),
    "[sig-storage] Secrets should be consumable in multiple volumes in a pod" => |c| multiple(c, Secret),
    "[sig-storage] Secrets optional updates should be reflected in volume" => |c| optional_updates(c, Secret),
    "[sig-storage] Secrets should be immutable if `immutable` field is set" => |c| immutable(c, Secret),
    "[sig-storage] Secrets should be able to mount in a volume regardless of a different secret existing with same name in different namespace" => same_name,
}

const PLAIN: Variant = Variant { item: None, default_mode: None, user: None, group: None };

async fn same_name(c: Context) -> Result<()> {
    let other = c.new_namespace("secret-namespace").await?;
    let name = c.unique("secret-test");
    let key = "this_should_not_match_content_of_other_secret";
    let secret = Secret.object(&name, &[(key, "similarly_this_should_not_match_content_of_other_secret\n")]);
    c.api_in(&SECRETS, &other).create(&secret).await?;
    c.create(&SECRETS, &Secret.object(&name, &[("data-1", "value-1\n"), ("data-2", "value-2\n")])).await?;
    consume(&c, Secret, &name, PLAIN).await
}
