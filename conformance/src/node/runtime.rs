//! Upstream: `test/e2e/common/node/runtime.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::api::text;
use crate::context::{Context, POD_GONE, POD_START};
use crate::images::BUSYBOX;
use crate::pods::{container_status, phase, pod, shell};

tests! {
    "[sig-node] Container Runtime blackbox test when starting a container that exits should run with the expected status" => expected_status,
    "[sig-node] Container Runtime blackbox test on terminated container should report termination message if TerminationMessagePath is set as non-root user and at a non-default path" => custom_path,
    "[sig-node] Container Runtime blackbox test on terminated container should report termination message from log output if TerminationMessagePolicy FallbackToLogsOnError is set" => from_log,
    "[sig-node] Container Runtime blackbox test on terminated container should report termination message as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set" => empty,
    "[sig-node] Container Runtime blackbox test on terminated container should report termination message from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set" => from_file,
}

struct Case {
    name: &'static str,
    policy: &'static str,
    phase: &'static str,
    state: &'static str,
    restarts: i64,
    ready: bool,
}

/// The container fails at first, then succeeds, then runs for ever; how far it gets depends on the restart policy.
async fn expected_status(c: Context) -> Result<()> {
    let case =
        |name, policy, phase, state, restarts, ready| Case { name, policy, phase, state, restarts, ready };
    let cases = [
        case("terminate-cmd-rpa", "Always", "Running", "running", 2, true),
        case("terminate-cmd-rpof", "OnFailure", "Succeeded", "terminated", 1, false),
        case("terminate-cmd-rpn", "Never", "Failed", "terminated", 0, false),
    ];
    for case in cases {
        let line = "f=/restart-count/restartCount; echo hello >> $f; count=$(wc -l < $f)
            if [ $count -eq 1 ]; then exit 1; fi
            if [ $count -eq 2 ]; then exit 0; fi
            while true; do sleep 1; done";
        let mut main = shell(case.name, BUSYBOX, line);
        main["volumeMounts"] = json!([{"name": "restart-count", "mountPath": "/restart-count"}]);
        let mut pod = pod(case.name, json!([main]));
        pod["spec"]["restartPolicy"] = json!(case.policy);
        pod["spec"]["volumes"] = json!([{"name": "restart-count", "emptyDir": {"medium": "Memory"}}]);
        c.pods().create(&pod).await?;
        let what = format!(
            "{}: restarts {}, phase {}, ready {}, state {}",
            case.policy, case.restarts, case.phase, case.ready, case.state
        );
        c.pods()
            .wait(case.name, POD_START, &what, |p| {
                let Some(p) = p else { return Ok(false) };
                let status = container_status(p, case.name);
                Ok(status["restartCount"] == case.restarts
                    && phase(p) == case.phase
                    && (status["ready"] == true) == case.ready
                    && status["state"][case.state].is_object())
            })
            .await?;
        c.pods().delete(case.name).await?;
        c.pods().wait_gone(case.name, POD_GONE).await?;
    }
    Ok(())
}

async fn message(c: Context, main: Value, end: &str, wanted: &str) -> Result<()> {
    let name = c.unique("termination-message");
    let mut main = main;
    main["name"] = json!("termination-message-container");
    c.pods().create(&pod(&name, json!([main]))).await?;
    let pod = c.pods().wait_phase(&name, end).await?;
    let status = container_status(&pod, "termination-message-container");
    anyhow::ensure!(status["state"]["terminated"].is_object(), "the container must be terminated: {status}");
    ensure_eq!(text(status, "/state/terminated/message"), wanted, "termination message");
    c.remove_pod(&name).await
}

async fn custom_path(c: Context) -> Result<()> {
    let mut main = shell("", BUSYBOX, "/bin/echo -n DONE > /dev/termination-custom-log");
    main["terminationMessagePath"] = json!("/dev/termination-custom-log");
    main["securityContext"] = json!({"runAsUser": 1000});
    message(c, main, "Succeeded", "DONE").await
}

fn fallback(line: &str) -> Value {
    let mut main = shell("", BUSYBOX, line);
    main["terminationMessagePath"] = json!("/dev/termination-log");
    main["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    main
}

async fn from_log(c: Context) -> Result<()> {
    message(c, fallback("/bin/echo -n DONE; /bin/false"), "Failed", "DONE").await
}

async fn empty(c: Context) -> Result<()> {
    message(c, fallback("/bin/echo -n DONE; /bin/true"), "Succeeded", "").await
}

async fn from_file(c: Context) -> Result<()> {
    message(
        c,
        fallback("/bin/echo -n OK > /dev/termination-log; /bin/echo DONE; /bin/true"),
        "Succeeded",
        "OK",
    )
    .await
}
