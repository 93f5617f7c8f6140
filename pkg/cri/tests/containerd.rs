//! The trait against a real containerd with its own root, state, socket and configuration. Needs root and `KNARR_E2E=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use futures::StreamExt;
use knarr_cri::{Containerd, EventKind, Runtime, pause, v1};

struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
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
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("containerd")
            .arg("-c")
            .arg(at("config.toml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    fn socket(&self) -> String {
        self.dir.path().join("containerd.sock").display().to_string()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn docker_archive(dir: &Path, name: &str) -> PathBuf {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    layer.append_data(&mut header, "bin/busybox", busybox.as_slice()).unwrap();
    for applet in ["sh", "sleep", "echo", "cat"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let diff = knarr_cri::archive::digest(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{diff}"]}}}}"#
    );
    let manifest = format!(r#"[{{"Config":"c.json","RepoTags":["{name}"],"Layers":["l.tar"]}}]"#);
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

#[tokio::test]
async fn a_container_runs_answers_and_ends_with_an_event() {
    if std::env::var_os("KNARR_E2E").is_none() {
        eprintln!("skipped: KNARR_E2E is not set");
        return;
    }
    let daemon = Daemon::start();
    let runtime = Containerd::new(&daemon.socket()).unwrap();
    for _ in 0..100 {
        if runtime.version().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("{:?}", runtime.version().await.unwrap());
    runtime.ensure_pause_image().await.unwrap();
    runtime.ensure_pause_image().await.unwrap();
    let names = runtime.import_image(&docker_archive(daemon.dir.path(), "demo:1")).await.unwrap();
    assert_eq!(names, ["docker.io/library/demo:1"]);
    runtime.import_image(&docker_archive(daemon.dir.path(), "demo:1")).await.unwrap();
    let image = runtime.image_status("demo:1").await.unwrap().unwrap();
    an_image_is_a_file_system(&runtime, &image).await;
    let mut events = runtime.events().await.unwrap();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let _ = sender.send(event);
        }
    });

    let host = v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() };
    let sandbox_config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "p".into(),
            uid: "u".into(),
            namespace: "n".into(),
            attempt: 0,
        }),
        log_directory: daemon.dir.path().join("logs").display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(host.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    std::fs::create_dir_all(daemon.dir.path().join("logs")).unwrap();
    let sandbox = runtime.run_pod_sandbox(sandbox_config.clone(), "").await.unwrap();
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: image.id, ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), "echo hello; sleep 1; exit 3".into()],
        labels: HashMap::from([("a".into(), "b".into())]),
        log_path: "c/0.log".into(),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(host),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let id = runtime.create_container(&sandbox, config, sandbox_config).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    let out =
        runtime.exec_sync(&id, vec!["echo".into(), "inside".into()], Duration::from_secs(5)).await.unwrap();
    assert_eq!((out.exit_code, out.stdout.as_slice()), (0, b"inside\n".as_slice()));
    let stopped = async {
        while let Some(event) = received.recv().await {
            let event = event.unwrap();
            if event.id == id && event.kind == EventKind::Stopped {
                return;
            }
        }
        panic!("the event stream ended");
    };
    tokio::time::timeout(Duration::from_secs(10), stopped).await.unwrap();
    let status = runtime.container_status(&id).await.unwrap();
    assert_eq!((status.state(), status.exit_code), (v1::ContainerState::ContainerExited, 3));
    assert!(std::fs::read_to_string(&status.log_path).unwrap().contains("hello"));
    for _ in 0..2 {
        runtime.stop_pod_sandbox(&sandbox).await.unwrap();
        runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    }
    assert!(runtime.container_status(&id).await.unwrap_err().is_not_found());
}

/// Before any container has had the image unpacked, and again.
async fn an_image_is_a_file_system(runtime: &Containerd, image: &v1::Image) {
    let archived = runtime.archived_images().await.unwrap();
    assert!(archived.contains("docker.io/library/demo:1") && archived.contains(pause::IMAGE), "{archived:?}");
    let mounts = runtime.image_mounts(image, "uid-1", "v").await.unwrap();
    assert_eq!(runtime.image_mounts(image, "uid-1", "v").await.unwrap(), mounts);
    // The native snapshotter gives a directory.
    let root = Path::new(&mounts[0].source);
    assert!(mounts[0].options.iter().any(|o| o == "ro"), "{mounts:?}");
    assert!(root.join("bin/busybox").exists());
    // The contents outlive the image, for as long as a volume has them.
    let scratch = runtime.image_mounts(image, "uid-2", "v").await.unwrap();
    runtime.release_image_mounts("uid-1").await.unwrap();
    runtime.release_image_mounts("uid-1").await.unwrap();
    assert!(Path::new(&scratch[0].source).join("bin/busybox").exists());
    runtime.release_image_mounts("uid-2").await.unwrap();
}
