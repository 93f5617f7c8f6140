//! Upstream: `test/e2e/common/node/security_context.go` and `test/e2e/node/security_context.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::context::Context;
use crate::images::{BUSYBOX, NONEWPRIVS};
use crate::pods::{command, pod, shell};

tests! {
    "[sig-node] Security Context When creating a container with runAsUser should run the container with uid 65534 [LinuxOnly]" => user,
    "[sig-node] Security Context When creating a pod with privileged should run the container as unprivileged when false [LinuxOnly]" => unprivileged,
    "[sig-node] Security Context When creating a pod with readOnlyRootFilesystem should run the container with writable rootfs when readOnlyRootFilesystem=false" => writable,
    "[sig-node] Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false [LinuxOnly]" => no_escalation,
    "[sig-node] Security Context should support pod.Spec.SecurityContext.RunAsUser And pod.Spec.SecurityContext.RunAsGroup [LinuxOnly]" => |c| ids(c, true),
    "[sig-node] Security Context should support container.SecurityContext.RunAsUser And container.SecurityContext.RunAsGroup [LinuxOnly]" => |c| ids(c, false),
}

fn secured(c: &Context, mut main: Value, context: Value) -> Value {
    main["securityContext"] = context;
    pod(&c.unique("security-context"), json!([main]))
}

async fn user(c: Context) -> Result<()> {
    let main = shell("main", BUSYBOX, "test $(id -u) -eq 65534");
    c.output(&secured(&c, main, json!({"runAsUser": 65534})), "main").await.map(|_| ())
}

async fn unprivileged(c: Context) -> Result<()> {
    let main = shell("main", BUSYBOX, "ip link add dummy0 type dummy || true");
    let logs = c.output(&secured(&c, main, json!({"privileged": false})), "main").await?;
    let refused = logs.contains("Operation not permitted") || logs.contains("not supported");
    anyhow::ensure!(
        refused,
        "an unprivileged container must not add a network device, its logs are {logs:?}"
    );
    Ok(())
}

async fn writable(c: Context) -> Result<()> {
    let main = shell("main", BUSYBOX, "touch checkfile");
    c.output(&secured(&c, main, json!({"readOnlyRootFilesystem": false})), "main").await.map(|_| ())
}

async fn no_escalation(c: Context) -> Result<()> {
    let main = json!({"name": "main", "image": NONEWPRIVS});
    let context = json!({"allowPrivilegeEscalation": false, "runAsUser": 1000});
    c.output_has(&secured(&c, main, context), "main", &["Effective uid: 1000"]).await
}

async fn ids(c: Context, of_pod: bool) -> Result<()> {
    let context = json!({"runAsUser": 1001, "runAsGroup": 2002});
    let main = command("test-container", BUSYBOX, &["sh", "-c", "id"]);
    let pod = if of_pod {
        let mut pod = pod(&c.unique("security-context"), json!([main]));
        pod["spec"]["securityContext"] = context;
        pod
    } else {
        let mut pod = secured(&c, main, context);
        // The container's values win over the pod's.
        pod["spec"]["securityContext"] = json!({"runAsUser": 3003, "runAsGroup": 4004});
        pod
    };
    c.output_matches(&pod, "test-container", &["uid=1001\\b", "gid=2002\\b"]).await
}
