//! Upstream: `test/e2e/common/node/sysctl.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::context::Context;
use crate::images::BUSYBOX;
use crate::pods::{command, pod};
use crate::rest::refused;

tests! {
    "[sig-node] Sysctls [LinuxOnly] should support sysctls [Environment:NotInUserNS]" => supported,
    "[sig-node] Sysctls [LinuxOnly] should reject invalid sysctls" => rejected,
}

fn test_pod(c: &Context, sysctls: Value) -> Value {
    let main = command("test-container", BUSYBOX, &["/bin/sysctl", "kernel.shm_rmid_forced"]);
    let mut pod = pod(&c.unique("sysctl"), json!([main]));
    pod["spec"]["securityContext"] = json!({"sysctls": sysctls});
    pod
}

async fn supported(c: Context) -> Result<()> {
    let pod = test_pod(&c, json!([{"name": "kernel.shm_rmid_forced", "value": "1"}]));
    c.output_has(&pod, "test-container", &["kernel.shm_rmid_forced = 1"]).await
}

async fn rejected(c: Context) -> Result<()> {
    let pod = test_pod(
        &c,
        json!([
            {"name": "foo-", "value": "bar"},
            {"name": "kernel.shmmax", "value": "100000000"},
            {"name": "safe-and-unsafe", "value": "100000000"},
            {"name": "bar..", "value": "42"},
        ]),
    );
    let refusal = refused(c.pods().create(&pod).await, 422, "a pod with bad names of sysctls")?;
    let message = refusal.message();
    for bad in ["Invalid value: \"foo-\"", "Invalid value: \"bar..\""] {
        ensure_contains!(message, bad, "the refusal");
    }
    for good in ["safe-and-unsafe", "kernel.shmmax"] {
        anyhow::ensure!(!message.contains(good), "the refusal names the well-formed {good}: {message}");
    }
    Ok(())
}
