//! Upstream: `test/e2e/common/node/expansion.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::text;
use crate::context::{Context, POD_START};
use crate::images::BUSYBOX;
use crate::pods::{command, container_status, phase, pod};

tests! {
    "[sig-node] Variable Expansion should allow composing env vars into new env vars" => composing,
    "[sig-node] Variable Expansion should allow substituting values in a container's command" => in_command,
    "[sig-node] Variable Expansion should allow substituting values in a container's args" => in_args,
    "[sig-node] Variable Expansion should allow substituting values in a volume subpath" => in_subpath,
    "[sig-node] Variable Expansion should fail substituting values in a volume subpath with backticks" => |c| bad_subpath(c, ".."),
    "[sig-node] Variable Expansion should fail substituting values in a volume subpath with absolute path" => |c| bad_subpath(c, "/tmp"),
    "[sig-node] Variable Expansion should verify that a failing subpath expansion can be modified during the lifecycle of a container [Slow]" => mended,
    "[sig-node] Variable Expansion should succeed in writing subpaths in container" => writing,
}

const NAME: &str = "dapi-container";

fn test_pod(c: &Context, line: &[&str], env: Value) -> Value {
    let mut main = command(NAME, BUSYBOX, line);
    main["env"] = env;
    pod(&c.unique("var-expansion"), json!([main]))
}

async fn composing(c: Context) -> Result<()> {
    let env = json!([
        {"name": "FOO", "value": "foo-value"},
        {"name": "BAR", "value": "bar-value"},
        {"name": "FOOBAR", "value": "$(FOO);;$(BAR)"},
    ]);
    let wanted = ["FOO=foo-value\n", "BAR=bar-value\n", "FOOBAR=foo-value;;bar-value\n"];
    c.output_has(&test_pod(&c, &["sh", "-c", "env"], env), NAME, &wanted).await
}

async fn in_command(c: Context) -> Result<()> {
    let env = json!([{"name": "TEST_VAR", "value": "test-value"}]);
    let line = "TEST_VAR=wrong echo \"$(TEST_VAR)\"";
    c.output_has(&test_pod(&c, &["sh", "-c", line], env), NAME, &["test-value"]).await
}

async fn in_args(c: Context) -> Result<()> {
    let env = json!([{"name": "TEST_VAR", "value": "test-value"}]);
    let mut pod = test_pod(&c, &["sh", "-c"], env);
    pod["spec"]["containers"][0]["args"] = json!(["TEST_VAR=wrong echo \"$(TEST_VAR)\""]);
    c.output_has(&pod, NAME, &["test-value"]).await
}

fn with_subpath(pod: &mut Value, mount: &str, expression: &str, whole: Option<&str>) {
    let mut mounts = vec![json!({"name": "workdir1", "mountPath": mount, "subPathExpr": expression})];
    mounts.extend(whole.map(|path| json!({"name": "workdir1", "mountPath": path})));
    pod["spec"]["containers"][0]["volumeMounts"] = json!(mounts);
    pod["spec"]["volumes"] = json!([{"name": "workdir1", "emptyDir": {}}]);
}

async fn in_subpath(c: Context) -> Result<()> {
    let mut pod = test_pod(&c, &[], json!([]));
    let name = text(&pod, "/metadata/name").to_string();
    let line = format!("test -d /testcontainer/{name};echo $?");
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", line]);
    pod["spec"]["containers"][0]["env"] = json!([{"name": "POD_NAME", "value": name}]);
    with_subpath(&mut pod, "/logscontainer", "$(POD_NAME)", Some("/testcontainer"));
    c.output_matches(&pod, NAME, &["^0\\s*$"]).await
}

async fn bad_subpath(c: Context, value: &str) -> Result<()> {
    let mut pod = test_pod(&c, &["sleep", "600"], json!([{"name": "POD_NAME", "value": value}]));
    with_subpath(&mut pod, "/logscontainer", "$(POD_NAME)", None);
    let name = text(&pod, "/metadata/name").to_string();
    c.pods().create(&pod).await?;
    fails_to_configure(&c, &name).await?;
    c.remove_pod(&name).await
}

async fn fails_to_configure(c: &Context, name: &str) -> Result<Value> {
    c.pods()
        .wait(name, POD_START, "the container must fail with CreateContainerConfigError", |p| {
            let Some(p) = p else { return Ok(false) };
            anyhow::ensure!(phase(p) != "Running", "the pod runs");
            Ok(container_status(p, NAME)["state"]["waiting"]["reason"] == "CreateContainerConfigError")
        })
        .await
}

fn annotated(c: &Context, annotations: Value) -> Value {
    let env = json!([
        {"name": "POD_NAME", "value": "foo"},
        {"name": "ANNOTATION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['mysubpath']"}}},
    ]);
    let mut pod = test_pod(c, &["sh", "-c", "tail -f /dev/null"], env);
    pod["metadata"]["annotations"] = annotations;
    with_subpath(&mut pod, "/subpath_mount", "$(ANNOTATION)/$(POD_NAME)", Some("/volume_mount"));
    pod
}

async fn mended(c: Context) -> Result<()> {
    let pod = annotated(&c, json!({"notmysubpath": "mypath"}));
    let name = text(&pod, "/metadata/name").to_string();
    c.pods().create(&pod).await?;
    fails_to_configure(&c, &name).await?;
    // Upstream waits two minutes for the pod not to run; the failure must last over some attempts.
    let what = "the pod runs although its subpath cannot be expanded";
    c.pods()
        .never(&name, Duration::from_secs(30), what, |p| p.is_some_and(|p| phase(p) == "Running"))
        .await?;
    c.pods().modify(&name, |p| p["metadata"]["annotations"]["mysubpath"] = json!("mypath")).await?;
    c.pods().wait_running(&name).await?;
    c.remove_pod(&name).await
}

async fn writing(c: Context) -> Result<()> {
    let pod = annotated(&c, json!({"mysubpath": "mypath"}));
    let name = text(&pod, "/metadata/name").to_string();
    c.pods().create(&pod).await?;
    c.pods().wait_running(&name).await?;
    c.shell(&name, NAME, "touch /volume_mount/mypath/foo/test.log").await?;
    c.shell(&name, NAME, "test -f /subpath_mount/test.log").await?;
    c.pods().modify(&name, |p| p["metadata"]["annotations"]["mysubpath"] = json!("mynewpath")).await?;
    c.pods().wait_running(&name).await?;
    c.remove_pod(&name).await
}
