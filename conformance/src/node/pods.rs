//! Upstream: `test/e2e/common/node/pods.go`.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::Result;
use crate::api::{text, version_of};
use crate::context::{Context, POD_GONE, POD_START, random};
use crate::images::{AGNHOST, BUSYBOX, NGINX, PAUSE};
use crate::kinds::SERVICES;
use crate::pods::{command, container, phase, pod, shell};
use crate::rest::Rest;
use crate::watch::poll;

tests! {
    "[sig-node] Pods should get a host IP" => host_ip,
    "[sig-node] Pods should be submitted and removed" => submitted,
    "[sig-node] Pods should be updated" => updated,
    "[sig-node] Pods should allow activeDeadlineSeconds to be updated" => deadline,
    "[sig-node] Pods should contain environment variables for services" => services,
    "[sig-node] Pods should support remote command execution over websockets" => exec_socket,
    "[sig-node] Pods should support retrieving logs from the container over websockets" => log_socket,
    "[sig-node] Pods should delete a collection of pods" => collection,
}

async fn host_ip(c: Context) -> Result<()> {
    let made = c.pods().create(&pod(&c.unique("pod-hostip"), json!([container("test", PAUSE, &[])]))).await?;
    let name = crate::api::name_of(&made)?;
    let seen = c.pods().wait_running(name).await?;
    let ip = text(&seen, "/status/hostIP");
    anyhow::ensure!(ip.parse::<std::net::IpAddr>().is_ok(), "hostIP {ip:?}");
    ensure_eq!(text(&seen, "/status/hostIPs/0/ip"), ip, "the first of hostIPs");
    Ok(())
}

async fn submitted(c: Context) -> Result<()> {
    let value = random(10);
    let selector = format!("time={value}");
    let query = [("labelSelector", selector.as_str())];
    let list = c.pods().list(&query).await?;
    ensure_eq!(crate::api::array(&list, "/items").len(), 0, "pods before the submission");
    let mut watch = c.pods().watch(&[query[0], ("resourceVersion", version_of(&list))]).await?;
    let name = c.unique("pod-submit-remove");
    let mut pod = pod(&name, json!([container("agnhost", AGNHOST, &["pause"])]));
    pod["metadata"]["labels"] = json!({"name": "foo", "time": value});
    pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
    c.pods().create(&pod).await?;
    let limit = Duration::from_secs(60);
    let first = watch.within(limit, "the new pod").await?;
    ensure_eq!(first.kind, "ADDED", "the first event of the pod");
    ensure_eq!(c.pods().items(&query).await?.len(), 1, "pods with the label");
    c.pods().wait_running(&name).await?;
    let last = c.pods().delete(&name).await?;
    anyhow::ensure!(
        last["metadata"]["deletionTimestamp"].is_string(),
        "deletion without a timestamp: {last}"
    );
    ensure_eq!(last["metadata"]["deletionGracePeriodSeconds"], json!(30), "grace period of the deletion");
    let gone = watch.until(POD_GONE, "the pod's removal", |e| e.kind == "DELETED").await?;
    anyhow::ensure!(
        gone.object["metadata"]["deletionTimestamp"].is_string(),
        "the removed pod has no deletion timestamp"
    );
    ensure_eq!(
        gone.object["spec"]["terminationGracePeriodSeconds"],
        json!(30),
        "grace period of the removed pod"
    );
    ensure_eq!(c.pods().items(&query).await?.len(), 0, "pods after the removal");
    Ok(())
}

/// A running web server with a label, and the selector of that label.
async fn labelled(c: &Context, base: &str) -> Result<(String, String)> {
    let (name, value) = (c.unique(base), random(10));
    let mut pod = pod(&name, json!([container("nginx", NGINX, &[])]));
    pod["metadata"]["labels"] = json!({"name": "foo", "time": value});
    c.start(&pod).await?;
    let selector = format!("time={value}");
    ensure_eq!(c.pods().labelled(&selector).await?.len(), 1, "pods with the label");
    Ok((name, selector))
}

async fn updated(c: Context) -> Result<()> {
    let (name, before) = labelled(&c, "pod-update").await?;
    let value = random(10);
    c.pods().modify(&name, |p| p["metadata"]["labels"]["time"] = json!(value)).await?;
    c.pods().wait_running(&name).await?;
    ensure_eq!(c.pods().labelled(&format!("time={value}")).await?.len(), 1, "pods with the new label");
    ensure_eq!(c.pods().labelled(&before).await?.len(), 0, "pods with the label before the update");
    Ok(())
}

async fn deadline(c: Context) -> Result<()> {
    let (name, _) = labelled(&c, "pod-update-activedeadlineseconds").await?;
    c.pods().modify(&name, |p| p["spec"]["activeDeadlineSeconds"] = json!(5)).await?;
    let end = c.pods().wait_phase(&name, "Failed").await?;
    ensure_eq!(text(&end, "/status/reason"), "DeadlineExceeded", "why the pod failed");
    Ok(())
}

async fn services(c: Context) -> Result<()> {
    let server = c.unique("server-envvars");
    let mut main = container("srv", AGNHOST, &["serve-hostname"]);
    main["ports"] = json!([{"containerPort": 9376}]);
    c.start(&pod(&server, json!([main]))).await?;
    let service = json!({
        "metadata": {"name": "fooservice", "labels": {"name": "fooservice"}},
        "spec": {"ports": [{"port": 8765, "targetPort": 8080}], "selector": {"name": server}},
    });
    let made = c.create(&SERVICES, &service).await?;
    let ip = text(&made, "/spec/clusterIP").to_string();
    let wanted = [
        format!("FOOSERVICE_SERVICE_HOST={ip}\n"),
        "FOOSERVICE_SERVICE_PORT=8765\n".to_string(),
        format!("FOOSERVICE_PORT=tcp://{ip}:8765\n"),
        "FOOSERVICE_PORT_8765_TCP_PORT=8765\n".to_string(),
        "FOOSERVICE_PORT_8765_TCP_PROTO=tcp\n".to_string(),
        format!("FOOSERVICE_PORT_8765_TCP=tcp://{ip}:8765\n"),
        format!("FOOSERVICE_PORT_8765_TCP_ADDR={ip}\n"),
    ];
    // The kubelet may not know of the service yet: upstream tries three pods.
    let mut last = Ok(());
    for _ in 0..3 {
        let client =
            pod(&c.unique("client-envvars"), json!([command("env3cont", BUSYBOX, &["sh", "-c", "env"])]));
        let texts: Vec<&str> = wanted.iter().map(String::as_str).collect();
        last = c.output_has(&client, "env3cont", &texts).await;
        if last.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    last
}

/// All frames of a WebSocket; an end without a closing handshake counts as one too.
async fn frames(c: &Context, uri: &str, protocol: &str) -> Result<Vec<Vec<u8>>> {
    let mut socket = c.rest().websocket(uri, protocol).await?;
    ensure_eq!(socket.protocol, protocol, "the subprotocol of the server's answer");
    let mut out = Vec::new();
    while let Some(message) = socket.stream.next().await {
        match message {
            Ok(Message::Binary(data)) => out.push(data.to_vec()),
            Ok(Message::Text(text)) => out.push(text.as_bytes().to_vec()),
            Ok(Message::Close(_)) => break,
            Ok(_) => {}
            Err(e) if out.is_empty() => return Err(e.into()),
            Err(_) => break,
        }
    }
    Ok(out)
}

async fn exec_socket(c: Context) -> Result<()> {
    let name = c.unique("pod-exec-websocket");
    c.start(&pod(&name, json!([shell("main", BUSYBOX, "echo container is alive; sleep 600")]))).await?;
    let query = [
        ("stderr", "1"),
        ("stdout", "1"),
        ("container", "main"),
        ("command", "echo"),
        ("command", "remote execution test"),
    ];
    let uri = Rest::uri(&c.pods().path_of(&format!("{name}/exec")), &query);
    poll(Duration::from_secs(60), Duration::from_secs(10), "the output over a WebSocket", || async {
        let mut stdout = Vec::new();
        for frame in frames(&c, &uri, "channel.k8s.io").await? {
            match frame.split_first() {
                None => {}
                Some((1, data)) => stdout.extend_from_slice(data),
                Some((_, [])) => {}
                Some((channel, data)) => {
                    anyhow::bail!(
                        "a frame of channel {channel} instead of 1: {:?}",
                        String::from_utf8_lossy(data)
                    )
                }
            }
        }
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        ensure_contains!(stdout, "remote execution test", "standard output");
        Ok(Some(()))
    })
    .await
}

async fn log_socket(c: Context) -> Result<()> {
    let name = c.unique("pod-logs-websocket");
    c.start(&pod(&name, json!([shell("main", BUSYBOX, "echo container is alive; sleep 10000")]))).await?;
    let uri = Rest::uri(&c.pods().path_of(&format!("{name}/log")), &[("container", "main")]);
    poll(Duration::from_secs(30), Duration::from_secs(1), "the logs over a WebSocket", || async {
        let all = frames(&c, &uri, "binary.k8s.io").await?;
        let kept = all.into_iter().filter(|f| !f.trim_ascii().is_empty()).collect::<Vec<_>>().concat();
        ensure_eq!(String::from_utf8_lossy(&kept), "container is alive\n", "the frames together");
        Ok(Some(()))
    })
    .await
}

async fn collection(c: Context) -> Result<()> {
    for n in 1..4 {
        let mut pod = pod(&format!("test-pod-{n}"), json!([container("token-test", AGNHOST, &[])]));
        pod["metadata"]["labels"] = json!({"type": "Testing"});
        c.pods().create(&pod).await?;
    }
    let query = [("labelSelector", "type=Testing")];
    let what = "three running pods";
    c.pods()
        .wait_set(&query, POD_START, what, |l| {
            Ok((l.iter().filter(|p| phase(p) == "Running").count() == 3).then_some(()))
        })
        .await?;
    c.pods().delete_collection(&query).await?;
    c.pods().wait_set(&query, POD_GONE, "no pod left", |l| Ok(l.is_empty().then_some(()))).await
}
