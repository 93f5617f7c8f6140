//! The whole kubelet over a real containerd with its own root, state, socket and configuration. Needs root and `KNARR_E2E=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Api, phase, ready};
use knarr_cri::{Containerd, Runtime, pause};
use knarr_kubelet::KubeletConfig;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    fn spawn(dir: &Path) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let config = dir.join("config.toml");
        let mut command = Command::new("containerd");
        command.arg("-c").arg(config).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(self.dir.path());
    }

    fn start() -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let at = |p: &str| dir.path().join(p).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {:?}\n\
             disable_apparmor = true\nrestrict_oom_score_adj = true\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {:?}\nconf_dir = {:?}\n",
            at("root"),
            at("state"),
            at("containerd.sock"),
            pause::IMAGE,
            at("cni/bin"),
            at("cni/conf"),
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        cni(&dir.path().join("cni"));
        let child = Self::spawn(dir.path());
        Self { child, dir }
    }
}

impl Daemon {
    /// Shims outlive their daemon; ours carry our directory in their command line. Their containers end with them.
    fn end_what_a_failed_test_left(&self) {
        let own = self.dir.path().display().to_string();
        let shims: Vec<i32> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                line.contains("containerd-shim") && line.contains(&own)
            })
            .collect();
        // A container's processes are known by the cgroup that this test gave the kubelet.
        let mut own_cgroup = vec![format!("/sys/fs/cgroup/memory/knarr-test-{}", std::process::id()).into()];
        let mut victims = Vec::new();
        while let Some(dir) = own_cgroup.pop() {
            let dir: PathBuf = dir;
            let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            victims.extend(procs.split_whitespace().filter_map(|p| p.parse::<i32>().ok()));
            own_cgroup.extend(std::fs::read_dir(dir).into_iter().flatten().filter_map(|e| {
                let entry = e.ok()?;
                entry.file_type().ok()?.is_dir().then(|| entry.path())
            }));
        }
        for pid in victims.into_iter().chain(shims) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(200));
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut points: Vec<&str> =
            table.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| p.starts_with(&own)).collect();
        points.sort_by_key(|p| std::cmp::Reverse(p.len()));
        for point in points {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// A network plugin that only brings loopback up and invents an address.
fn cni(dir: &Path) {
    std::fs::create_dir_all(dir.join("bin")).unwrap();
    std::fs::create_dir_all(dir.join("conf")).unwrap();
    let result = r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"version":"4","address":"127.0.0.1/8","interface":0}],"dns":{}}"#;
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\ncase $CNI_COMMAND in ADD) /bin/busybox nsenter --net=$CNI_NETNS /bin/busybox ip link set lo up; echo '{result}';; VERSION) echo '{{\"cniVersion\":\"0.4.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\"]}}';; *) ;; esac\n"
    );
    for name in ["loopback", "fake"] {
        let path = dir.join("bin").join(name);
        std::fs::write(&path, &script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::write(
        dir.join("conf/10.conflist"),
        r#"{"cniVersion":"0.4.0","name":"fake","plugins":[{"type":"fake"}]}"#,
    )
    .unwrap();
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            log.lines().filter(|l| !l.contains("level=info")).for_each(|l| eprintln!("{l}"));
        }
        self.end_what_a_failed_test_left();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn archive(dir: &Path) -> PathBuf {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    layer.append_data(&mut header, "bin/busybox", busybox.as_slice()).unwrap();
    for applet in ["sh", "sleep", "echo", "cat", "env", "id", "nc", "ls", "stat"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        knarr_cri::archive::digest(&layer)
    );
    let manifest = r#"[{"Config":"c.json","RepoTags":["demo:1"],"Layers":["l.tar"]}]"#;
    let mut tar = tar::Builder::new(Vec::new());
    for (file, bytes) in
        [("c.json", config.as_bytes()), ("l.tar", &layer), ("manifest.json", manifest.as_bytes())]
    {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, file, bytes).unwrap();
    }
    let path = dir.join("image.tar");
    std::fs::write(&path, tar.into_inner().unwrap()).unwrap();
    path
}

fn log(dir: &Path, pod: &Value, container: &str, n: u32) -> String {
    let m = &pod["metadata"];
    let name = format!(
        "logs/default_{}_{}/{container}/{n}.log",
        m["name"].as_str().unwrap(),
        m["uid"].as_str().unwrap()
    );
    std::fs::read_to_string(dir.join(name)).unwrap_or_default()
}

struct OnlyTester;

#[async_trait::async_trait]
impl knarr_kubelet::Access for OnlyTester {
    async fn allowed(&self, caller: &knarr_kubelet::Caller, _: &str, _: &str) -> Result<bool, String> {
        Ok(caller.name == "tester")
    }

    async fn token(&self, token: &str) -> Result<Option<knarr_kubelet::Caller>, String> {
        Ok((token == "known").then(|| knarr_kubelet::Caller { name: "other".into(), groups: Vec::new() }))
    }
}

/// Logs, exec with input and exit code, port-forward, stats.
async fn endpoint(tls: &tls::Tls, address: std::net::SocketAddr) {
    use knarr_streaming::remotecommand::{Options, dial_over};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    assert_eq!(tls::get(&tls.stranger, address, "/pods").await.0, 401);
    assert_eq!(tls::get(&tls.client, address, "/healthz").await, (200, "ok".to_owned()));
    let (code, body) = tls::get(&tls.client, address, "/containerLogs/default/web/c?tailLines=1").await;
    assert!(code == 200 && body.lines().count() == 1, "{code} {body}");
    let (code, body) = tls::get(&tls.client, address, "/containerLogs/default/web/none").await;
    assert_eq!((code, body.contains("none")), (404, true));
    assert!(tls::get(&tls.client, address, "/pods").await.1.contains("\"web\""));
    let (_, text) = tls::get(&tls.client, address, "/stats/summary").await;
    let summary: Value = serde_json::from_str(&text).unwrap();
    assert!(
        summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"].as_u64().is_some_and(|b| b > 0),
        "{summary}"
    );
    assert!(
        tls::get(&tls.client, address, "/metrics/resource")
            .await
            .1
            .contains("container_cpu_usage_seconds_total{container=\"c\"")
    );

    let options = Options { stdin: true, stdout: true, stderr: true, tty: false };
    let uri = "https://localhost/exec/default/web/c?command=sh&command=-c&command=cat%3B+echo+bad+%3E%262%3B+exit+4&input=1&output=1&error=1";
    let mut remote =
        dial_over(tls::connect(&tls.client, address).await, &uri.parse().unwrap(), options).await.unwrap();
    let (mut stdin, mut stdout, mut stderr) =
        (remote.stdin.take().unwrap(), remote.stdout.take().unwrap(), remote.stderr.take().unwrap());
    let (mut out, mut err) = (String::new(), String::new());
    let work = async {
        stdin.write_all(b"through and through").await.unwrap();
        stdin.shutdown().await.unwrap();
        stdout.read_to_string(&mut out).await.unwrap();
        stderr.read_to_string(&mut err).await.unwrap();
        remote.outcome().await
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), work).await.unwrap();
    assert_eq!((out.as_str(), err.as_str(), outcome.exit_code()), ("through and through", "bad\n", Some(4)));
    port_forward(tls, address).await;
}

async fn port_forward(tls: &tls::Tls, address: std::net::SocketAddr) {
    use knarr_streaming::spdy::{self, Headers};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut io = tls::connect(&tls.client, address).await;
    let request = "POST /portForward/default/web HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n";
    io.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    let (connection, _incoming) = spdy::client(io);
    let headers = |kind| Headers::new([("streamtype", kind), ("port", "8080"), ("requestid", "0")]);
    let mut error = connection.open(headers("error")).await.unwrap();
    let mut data = connection.open(headers("data")).await.unwrap();
    error.shutdown().await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(10), data.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "from inside\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_run_on_real_containerd() {
    if std::env::var_os("KNARR_E2E").is_none() {
        eprintln!("skipped: KNARR_E2E is not set");
        return;
    }
    let mut daemon = Daemon::start();
    let dir = daemon.dir.path().to_owned();
    let runtime = Arc::new(Containerd::new(&dir.join("containerd.sock").display().to_string()).unwrap());
    let (api, stop) = (Api::new(), CancellationToken::new());
    let tls = tls::Tls::new();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = tls.server.clone();
    let config = || KubeletConfig {
        listen: address,
        serving_tls: Some({
            let server = server.clone();
            Arc::new(move || server.clone())
        }),
        access: Some(Arc::new(OnlyTester)),
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        root_dir: dir.join("kubelet"),
        log_dir: dir.join("logs"),
        cgroup_root: format!("/knarr-test-{}", std::process::id()),
        ..KubeletConfig::new("n1")
    };
    let run = |stop: CancellationToken| {
        let (config, client, runtime) = (config(), api.client(), runtime.clone());
        tokio::spawn(async move { knarr_kubelet::run(config, client, runtime, stop).await.unwrap() })
    };
    let first = run(stop.clone());
    api.until("/api/v1/nodes/n1", "ready", ready).await;
    runtime.import_image(&archive(&dir)).await.unwrap();

    api.put(
        "/api/v1/namespaces/default/configmaps/m",
        json!({"metadata": {"name": "m", "namespace": "default"}, "data": {"k": "mapped"}}),
    );
    let script = "cat /v/k; echo; env; id; cat /etc/hosts; echo done > /dev/termination-log; while :; do echo from inside | nc -l -p 8080; done";
    let web = api.pod("web", json!({
        "nodeName": "n1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
        "initContainers": [{"name": "i", "image": "demo:1", "command": ["sh", "-c", "echo init"], "resources": {"limits": {"memory": "32Mi"}}}],
        "containers": [{
            "name": "c", "image": "demo:1", "command": ["sh", "-c", script],
            "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "readinessProbe": {"exec": {"command": ["cat", "/v/k"]}, "periodSeconds": 1},
        }],
        "volumes": [{"name": "v", "configMap": {"name": "m"}}],
    }));
    let began = Instant::now();
    let pod = api.until(&web, "ready", ready).await.unwrap();
    eprintln!("pod with an init container ready after {:?}", began.elapsed());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let text = log(&dir, &pod, "c", 0);
    for wanted in ["mapped", "WHO=127.0.0.1", "uid=1000", "2000", "localhost"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(log(&dir, &pod, "i", 0).contains("init"));
    endpoint(&tls, address).await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let limit = format!(
        "/sys/fs/cgroup/memory/knarr-test-{}/kubepods/burstable/pod{uid}/memory.limit_in_bytes",
        std::process::id()
    );
    if Path::new("/sys/fs/cgroup/memory").exists() {
        assert_eq!(std::fs::read_to_string(&limit).unwrap().trim(), (64 << 20).to_string());
    }

    api.put("/api/v1/namespaces/default/configmaps/kube-root-ca.crt", json!({"metadata": {"name": "kube-root-ca.crt", "namespace": "default"}, "data": {"ca.crt": "authority"}}));
    api.put(
        "/api/v1/namespaces/default/secrets/s",
        json!({"metadata": {"name": "s", "namespace": "default"}, "data": {"user": "YWRtaW4="}}),
    );
    let script = "cd /var/run/secrets/kubernetes.io/serviceaccount; cat token ca.crt namespace /secret/user /one; echo; touch /mem/x /plain/y && echo wrote; cat /shared; trap 'echo told; exit 0' TERM; while :; do sleep 0.1; done";
    let all = api.pod("volumes", json!({
        "nodeName": "n1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 2000},
        "initContainers": [{"name": "side", "image": "demo:1", "restartPolicy": "Always", "command": ["sh", "-c", "echo from the sidecar > /share/file; trap 'exit 0' TERM; while :; do sleep 0.1; done"],
            "volumeMounts": [{"name": "plain", "mountPath": "/share", "subPath": "sub"}],
            "startupProbe": {"exec": {"command": ["cat", "/share/file"]}, "periodSeconds": 1}}],
        "containers": [{
            "name": "c", "image": "demo:1", "command": ["sh", "-c", script],
            "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo hook > /mem/hook"]}}, "preStop": {"exec": {"command": ["sh", "-c", "echo stopping >> /mem/hook"]}}},
            "livenessProbe": {"exec": {"command": ["cat", "/mem/hook"]}, "periodSeconds": 1},
            "volumeMounts": [
                {"name": "access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
                {"name": "secret", "mountPath": "/secret"}, {"name": "secret", "mountPath": "/one", "subPath": "user"},
                {"name": "mem", "mountPath": "/mem"}, {"name": "plain", "mountPath": "/plain"}, {"name": "plain", "mountPath": "/shared", "subPath": "sub/file"}],
        }],
        "volumes": [
            {"name": "access", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}, {"configMap": {"name": "kube-root-ca.crt"}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
            {"name": "secret", "secret": {"secretName": "s", "defaultMode": 256}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "plain", "emptyDir": {}}],
    }));
    let pod = api.until(&all, "ready", ready).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let text = log(&dir, &pod, "c", 0);
    for wanted in ["a-tokenauthoritydefaultadminadmin", "wrote", "from the sidecar"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert_eq!(pod["status"]["initContainerStatuses"][0]["ready"], true);
    api.delete_gracefully(&all, 5);
    let began = Instant::now();
    api.until(&all, "gone", |o| o.is_none()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let uid_dir = dir.join("kubelet/pods").join(pod["metadata"]["uid"].as_str().unwrap());
    assert!(
        !uid_dir.exists()
            && !std::fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains(&uid_dir.display().to_string())
    );

    let job = api.pod("job", json!({"nodeName": "n1", "restartPolicy": "Never", "containers": [{"name": "c", "image": "demo:1", "command": ["sh", "-c", "echo -n said > /dev/termination-log; exit 3"]}]}));
    let pod = api.until(&job, "failed", |o| phase(o) == "Failed").await.unwrap();
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["message"]), (&json!(3), &json!("said")));

    // Another kubelet takes over without touching what runs.
    let id = |api: &Api| api.get(&web).unwrap()["status"]["containerStatuses"][0]["containerID"].clone();
    let before = id(&api);
    stop.cancel();
    first.await.unwrap();
    let stop = CancellationToken::new();
    let second = run(stop.clone());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(id(&api), before);
    assert!(ready(api.get(&web).as_ref()));

    // So does the same kubelet when the runtime itself was away.
    daemon.restart();
    let late = api.pod("late", json!({"nodeName": "n1", "restartPolicy": "Never", "containers": [{"name": "c", "image": "demo:1", "command": ["sh", "-c", "echo a; sleep 1; echo b; echo c"]}]}));
    api.until(&late, "running", |o| phase(o) == "Running").await;
    let followed = tls::get(&tls.client, address, "/containerLogs/default/late/c?follow=true").await;
    assert_eq!(followed, (200, "a\nb\nc\n".to_owned()));
    api.until(&late, "succeeded", |o| phase(o) == "Succeeded").await;
    assert_eq!(id(&api), before);
    api.delete_gracefully(&late, 0);
    api.until(&late, "gone", |o| o.is_none()).await;

    api.delete_gracefully(&web, 1);
    api.delete_gracefully(&job, 0);
    api.until(&web, "gone", |o| o.is_none()).await;
    api.until(&job, "gone", |o| o.is_none()).await;
    assert!(runtime.list_containers(Default::default()).await.unwrap().is_empty());
    assert!(runtime.list_pod_sandboxes(Default::default()).await.unwrap().is_empty());

    // Plain pods, for the time it takes.
    let mut times = Vec::new();
    for n in 0..5 {
        let path = api.pod(&format!("t{n}"), json!({"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "demo:1", "command": ["sleep", "3600"]}]}));
        let began = Instant::now();
        api.until(&path, "running", |o| phase(o) == "Running").await;
        times.push(began.elapsed());
        api.delete_gracefully(&path, 0);
        api.until(&path, "gone", |o| o.is_none()).await;
    }
    times.sort();
    eprintln!("pod seen -> Running: {times:?}");
    stop.cancel();
    second.await.unwrap();
    for controller in
        ["cpu", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "cpuacct", "systemd", "unified"]
    {
        let base = format!("/sys/fs/cgroup/{controller}/knarr-test-{}", std::process::id());
        for dir in ["kubepods/burstable", "kubepods/besteffort", "kubepods", ""] {
            let _ = std::fs::remove_dir(Path::new(&base).join(dir));
        }
    }
}
