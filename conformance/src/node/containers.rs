//! Upstream: `test/e2e/common/node/containers.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::pods::pod;

tests! {
    "[sig-node] Containers should use the image defaults if command and args are blank" => blank,
    "[sig-node] Containers should be able to override the image's default arguments (container cmd)" => arguments,
    "[sig-node] Containers should be able to override the image's default command (container entrypoint)" => entrypoint,
    "[sig-node] Containers should be able to override the image's default command and arguments" => both,
}

fn test_pod(c: &Context, fields: Value) -> Value {
    let mut container = json!({"name": "agnhost-container", "image": AGNHOST});
    if let (Some(to), Some(from)) = (container.as_object_mut(), fields.as_object()) {
        to.extend(from.clone());
    }
    pod(&c.unique("client-containers"), json!([container]))
}

async fn blank(c: Context) -> Result<()> {
    let pod = test_pod(&c, json!({}));
    let made = c.pods().create(&pod).await?;
    let name = crate::api::name_of(&made)?;
    c.pods().wait_running(name).await?;
    c.logs_until(name, "agnhost-container", "Paused", crate::context::POD_START).await.map(|_| ())
}

async fn arguments(c: Context) -> Result<()> {
    let pod = test_pod(&c, json!({"args": ["entrypoint-tester", "override", "arguments"]}));
    c.output_has(&pod, "agnhost-container", &["[/agnhost entrypoint-tester override arguments]"]).await
}

async fn entrypoint(c: Context) -> Result<()> {
    let pod = test_pod(&c, json!({"command": ["/agnhost-2", "entrypoint-tester"]}));
    c.output_has(&pod, "agnhost-container", &["[/agnhost-2 entrypoint-tester]"]).await
}

async fn both(c: Context) -> Result<()> {
    let pod = test_pod(
        &c,
        json!({"command": ["/agnhost-2"], "args": ["entrypoint-tester", "override", "arguments"]}),
    );
    c.output_has(&pod, "agnhost-container", &["[/agnhost-2 entrypoint-tester override arguments]"]).await
}
