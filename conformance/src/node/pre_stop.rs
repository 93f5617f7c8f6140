//! Upstream: `test/e2e/node/pre_stop.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::text;
use crate::context::Context;
use crate::images::{AGNHOST, BUSYBOX};
use crate::pods::{command, container, pod};
use crate::watch::poll;

tests! {
    "[sig-node] PreStop should call prestop when killing a pod" => prestop,
}

async fn prestop(c: Context) -> Result<()> {
    let mut server = container("agnhost-container", AGNHOST, &["nettest"]);
    server["ports"] = json!([{"containerPort": 8080}]);
    let made = c.start(&pod("server", json!([server]))).await?;
    let ip = text(&made, "/status/podIP");
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    let mut tester = command("tester", BUSYBOX, &["sleep", "600"]);
    let hook = ["wget", "-O-", "--post-data={\"Source\": \"prestop\"}", &format!("http://{host}:8080/write")];
    tester["lifecycle"] = json!({"preStop": {"exec": {"command": hook}}});
    let mut pod = pod("tester", json!([tester]));
    pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
    c.start(&pod).await?;
    c.pods().delete("tester").await?;
    let path = c.pods().path_of("server:8080/proxy/read");
    poll(
        Duration::from_secs(60),
        Duration::from_secs(1),
        "the server must hear of the preStop hook",
        || async {
            let seen: Value = serde_json::from_str(&c.rest().text(&path).await?)?;
            let count = seen["Received"]["prestop"].as_i64().unwrap_or(0);
            anyhow::ensure!(count > 0, "the server's state is {seen}");
            Ok(Some(()))
        },
    )
    .await
}
