//! Upstream: `test/e2e/common/storage/empty_dir.go`.

use std::time::Duration;

use serde_json::{Value, json};

use super::keyed::{mode_text, reader};
use crate::Result;
use crate::context::Context;
use crate::images::BUSYBOX;
use crate::pods::{pod, shell};
use crate::watch::poll;

tests! {
    "[sig-storage] EmptyDir volumes volume on tmpfs should have the correct mode [LinuxOnly]" => |c| volume_mode(c, true),
    "[sig-storage] EmptyDir volumes volume on default medium should have the correct mode [LinuxOnly]" => |c| volume_mode(c, false),
    "[sig-storage] EmptyDir volumes should support (root,0644,tmpfs) [LinuxOnly]" => |c| file(c, None, 0o644, true),
    "[sig-storage] EmptyDir volumes should support (root,0666,tmpfs) [LinuxOnly]" => |c| file(c, None, 0o666, true),
    "[sig-storage] EmptyDir volumes should support (root,0777,tmpfs) [LinuxOnly]" => |c| file(c, None, 0o777, true),
    "[sig-storage] EmptyDir volumes should support (non-root,0644,tmpfs) [LinuxOnly]" => |c| file(c, Some(1001), 0o644, true),
    "[sig-storage] EmptyDir volumes should support (non-root,0666,tmpfs) [LinuxOnly]" => |c| file(c, Some(1001), 0o666, true),
    "[sig-storage] EmptyDir volumes should support (non-root,0777,tmpfs) [LinuxOnly]" => |c| file(c, Some(1001), 0o777, true),
    "[sig-storage] EmptyDir volumes should support (root,0644,default) [LinuxOnly]" => |c| file(c, None, 0o644, false),
    "[sig-storage] EmptyDir volumes should support (root,0666,default) [LinuxOnly]" => |c| file(c, None, 0o666, false),
    "[sig-storage] EmptyDir volumes should support (root,0777,default) [LinuxOnly]" => |c| file(c, None, 0o777, false),
    "[sig-storage] EmptyDir volumes should support (non-root,0644,default) [LinuxOnly]" => |c| file(c, Some(1001), 0o644, false),
    "[sig-storage] EmptyDir volumes should support (non-root,0666,default) [LinuxOnly]" => |c| file(c, Some(1001), 0o666, false),
    "[sig-storage] EmptyDir volumes should support (non-root,0777,default) [LinuxOnly]" => |c| file(c, Some(1001), 0o777, false),
    "[sig-storage] EmptyDir volumes pod should support shared volumes between containers" => shared,
}

fn test_pod(c: &Context, user: Option<i64>, tmpfs: bool, args: &[String]) -> Value {
    let source = if tmpfs { json!({"medium": "Memory"}) } else { json!({}) };
    let volumes = json!([{"name": "test-volume", "emptyDir": source}]);
    let mounts = json!([{"name": "test-volume", "mountPath": "/test-volume"}]);
    let mut pod = reader(&c.unique("pod-emptydir"), volumes, mounts, args);
    if let Some(user) = user {
        pod["spec"]["securityContext"] = json!({"runAsUser": user});
    }
    pod
}

async fn volume_mode(c: Context, tmpfs: bool) -> Result<()> {
    let args = ["--fs_type=/test-volume".to_string(), "--file_perm=/test-volume".to_string()];
    let mut wanted = vec!["perms of file \"/test-volume\": -rwxrwxrwx"];
    if tmpfs {
        wanted.push("mount type of \"/test-volume\": tmpfs");
    }
    c.output_has(&test_pod(&c, None, tmpfs, &args), "agnhost-container", &wanted).await
}

async fn file(c: Context, user: Option<i64>, mode: u32, tmpfs: bool) -> Result<()> {
    let path = "/test-volume/test-file";
    let args = [
        "--fs_type=/test-volume".to_string(),
        format!("--new_file_{mode:04o}={path}"),
        format!("--file_perm={path}"),
    ];
    let perms = format!("perms of file \"{path}\": {}", mode_text(mode));
    let content = format!("content of file \"{path}\": mount-tester new file");
    let mut wanted = vec![perms.as_str(), &content];
    if tmpfs {
        wanted.push("mount type of \"/test-volume\": tmpfs");
    }
    c.output_has(&test_pod(&c, user, tmpfs, &args), "agnhost-container", &wanted).await
}

async fn shared(c: Context) -> Result<()> {
    let text = "Hello from the busy-box sub-container";
    let mounts = json!([{"name": "shared-data", "mountPath": "/usr/share/volumeshare"}]);
    let mut main = shell("busybox-main-container", BUSYBOX, "sleep 100000");
    let mut sub = shell(
        "busybox-sub-container",
        BUSYBOX,
        &format!("echo {text} > /usr/share/volumeshare/shareddata.txt && sleep 10000"),
    );
    main["volumeMounts"] = mounts.clone();
    sub["volumeMounts"] = mounts;
    let name = c.unique("pod-sharedvolume");
    let mut pod = pod(&name, json!([main, sub]));
    pod["spec"]["volumes"] = json!([{"name": "shared-data", "emptyDir": {}}]);
    c.start(&pod).await?;
    poll(
        Duration::from_secs(60),
        Duration::from_secs(1),
        "the file that the other container wrote",
        || async {
            let command = ["cat", "/usr/share/volumeshare/shareddata.txt"];
            let seen = c.exec_ok(&name, "busybox-main-container", &command).await?;
            ensure_eq!(seen, text, "the shared file");
            Ok(Some(()))
        },
    )
    .await
}
