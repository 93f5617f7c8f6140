//! Upstream: `test/e2e/common/node/kubelet.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::context::{Context, POD_START};
use crate::images::{AGNHOST, BUSYBOX};
use crate::pods::{command, container, container_status, pod, shell};
use crate::watch::poll;

tests! {
    "[sig-node] Kubelet when scheduling a busybox command in a pod should print the output to logs" => logs,
    "[sig-node] Kubelet when scheduling a busybox command that always fails in a pod should have an terminated reason" => reason,
    "[sig-node] Kubelet when scheduling a busybox command that always fails in a pod should be possible to delete" => deletable,
    "[sig-node] Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts" => aliases,
    "[sig-node] Kubelet when scheduling a read only busybox container should not write to root filesystem [LinuxOnly]" => read_only,
}

async fn logs_are(c: &Context, pod: &Value, wanted: &str) -> Result<()> {
    let made = c.pods().create(pod).await?;
    let name = crate::api::name_of(&made)?;
    c.pods().wait_running(name).await?;
    poll(Duration::from_secs(60), Duration::from_millis(500), "the logs of the container", || async {
        let seen = c.pods().logs(name, "main").await?;
        ensure_eq!(seen, wanted, "logs");
        Ok(Some(()))
    })
    .await
}

async fn logs(c: Context) -> Result<()> {
    let pod = pod(
        &c.unique("busybox-scheduling"),
        json!([shell("main", BUSYBOX, "echo 'Hello World' ; sleep 240")]),
    );
    logs_are(&c, &pod, "Hello World\n").await
}

fn failing(c: &Context) -> Value {
    let mut pod = pod(&c.unique("bin-false"), json!([command("main", BUSYBOX, &["/bin/false"])]));
    pod["spec"]["restartPolicy"] = json!("Always");
    pod
}

async fn reason(c: Context) -> Result<()> {
    let made = c.pods().create(&failing(&c)).await?;
    let name = crate::api::name_of(&made)?;
    c.pods()
        .wait(name, POD_START, "a terminated state with exit code and reason", |p| {
            let Some(p) = p else { return Ok(false) };
            let status = container_status(p, "main");
            let ended = [&status["state"]["terminated"], &status["lastState"]["terminated"]];
            let Some(end) = ended.into_iter().find(|t| t.is_object()) else { return Ok(false) };
            anyhow::ensure!(end["exitCode"].as_i64().is_some_and(|c| c != 0), "exit code in {end}");
            ensure_eq!(end["reason"], json!("Error"), "reason of the end");
            Ok(true)
        })
        .await
        .map(|_| ())
}

async fn deletable(c: Context) -> Result<()> {
    let made = c.pods().create(&failing(&c)).await?;
    let name = crate::api::name_of(&made)?;
    c.pods()
        .wait(name, POD_START, "a first failure", |p| {
            Ok(p.is_some_and(|p| {
                container_status(p, "main")["restartCount"].as_i64().unwrap_or(0) > 0
                    || container_status(p, "main")["state"]["terminated"].is_object()
            }))
        })
        .await?;
    c.remove_pod(name).await
}

async fn aliases(c: Context) -> Result<()> {
    let mut pod = pod(
        &c.unique("agnhost-host-aliases"),
        json!([container("agnhost-container", AGNHOST, &["etc-hosts"])]),
    );
    pod["spec"]["hostAliases"] = json!([{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]);
    c.output_matches(&pod, "agnhost-container", &["(?m)^123\\.45\\.67\\.89\\s+foo\\s+bar$"]).await
}

async fn read_only(c: Context) -> Result<()> {
    let mut main = shell("main", BUSYBOX, "echo test > /file; sleep 240");
    main["securityContext"] = json!({"readOnlyRootFilesystem": true});
    let pod = pod(&c.unique("busybox-readonly-fs"), json!([main]));
    logs_are(&c, &pod, "/bin/sh: can't create /file: Read-only file system\n").await
}
