//! Upstream's projected_clustertrustbundle.go.

use std::time::Duration;

use serde_json::{Value, json};

use super::pki::Authority;
use crate::Result;
use crate::api::{condition, name_of, text};
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::TRUST_BUNDLES;
use crate::pods::{container, phase};

tests! {
    "[sig-auth] ClusterTrustBundleProjection should be able to mount a single ClusterTrustBundle by name [MinimumKubeletVersion:1.37]" => by_name,
    "[sig-auth] ClusterTrustBundleProjection should be able to specify multiple CTB volumes [MinimumKubeletVersion:1.37]" => multiple_volumes,
    "[sig-auth] ClusterTrustBundleProjection should be able to mount a big number (>100) of CTBs [MinimumKubeletVersion:1.37]" => many,
    "[sig-auth] ClusterTrustBundleProjection should be capable to mount multiple trust bundles by signer+labels can combine multiple CTBs with signer name and label selector [MinimumKubeletVersion:1.37]" => signer_and_labels,
    "[sig-auth] ClusterTrustBundleProjection should be capable to mount multiple trust bundles by signer+labels can combine all signer CTBs with an empty label selector [MinimumKubeletVersion:1.37]" => signer_everything,
    "[sig-auth] ClusterTrustBundleProjection should be capable to mount multiple trust bundles by signer+labels should start if only signer name and nil label selector + optional=true [MinimumKubeletVersion:1.37]" => signer_nothing,
    "[sig-auth] ClusterTrustBundleProjection should be capable to mount multiple trust bundles by signer+labels should start if only signer name and explicit label selector matches nothing + optional=true [MinimumKubeletVersion:1.37]" => signer_no_match,
    "[sig-auth] ClusterTrustBundleProjection should prevent a pod from starting if: sets optional=false and no trust bundle matches query [MinimumKubeletVersion:1.37]" => no_match_blocks,
    "[sig-auth] ClusterTrustBundleProjection should prevent a pod from starting if: sets optional=false and the configured CTB does not exist [MinimumKubeletVersion:1.37]" => absent_blocks,
}

const DIR: &str = "/var/run/ctbtest";

/// The bundles that every test finds: ten of them, by signer and label.
struct Bundles {
    signer: String,
    unsigned: String,
    alive: Vec<String>,
    dead: Vec<String>,
    all: Vec<String>,
    no_signer: String,
}

async fn bundle(cx: &Context, name: &str, signer: &str, pem: &str, labels: Value) -> Result<()> {
    let mut made = json!({"metadata": {"name": name, "labels": labels}, "spec": {"trustBundle": pem}});
    if !signer.is_empty() {
        made["spec"]["signerName"] = json!(signer);
    }
    cx.create(&TRUST_BUNDLES, &made).await.map(|_| ())
}

async fn bundles(cx: &Context) -> Result<Bundles> {
    let unique = cx.namespace();
    let signer = format!("test.test/signer-one{unique}");
    let unsigned = format!("test.test.signer-one.4{unique}");
    let mut out =
        Bundles { signer, unsigned, alive: vec![], dead: vec![], all: vec![], no_signer: String::new() };
    for index in 0..10 {
        let pem = Authority::new(&format!("root{index}"))?.pem;
        let one = format!("test.test:signer-one{unique}:{index}");
        match index {
            4 => {
                bundle(cx, &out.unsigned, "", &pem, json!({"signer.alive": "true"})).await?;
                out.no_signer = pem;
                continue;
            }
            5 => {
                let name = format!("test.test:signer-two{unique}:{index}");
                let two = format!("test.test/signer-two{unique}");
                bundle(cx, &name, &two, &pem, json!({"signer.alive": "true"})).await?;
                continue;
            }
            1..=3 => {
                bundle(cx, &one, &out.signer, &pem, json!({"signer.alive": "true"})).await?;
                out.alive.push(pem.clone());
            }
            6 | 7 => {
                bundle(cx, &one, &out.signer, &pem, json!({"signer.alive": "false"})).await?;
                out.dead.push(pem.clone());
            }
            _ => bundle(cx, &one, &out.signer, &pem, Value::Null).await?,
        }
        out.all.push(pem);
    }
    Ok(out)
}

/// A pod with a volume of one projection for each container, which shows its file.
fn pod(cx: &Context, projections: &[Value]) -> Value {
    let mut containers = Vec::new();
    let mut volumes = Vec::new();
    for (index, projection) in projections.iter().enumerate() {
        let file = format!("{DIR}/{}", text(projection, "/path"));
        let args = ["mounttest", &format!("--file_content={file}"), &format!("--file_mode={file}")];
        let mut shown = container(&format!("projected-ctb-volume-test-{index}"), AGNHOST, &args);
        shown["volumeMounts"] = json!([{"name": format!("ctb-volume-{index}"), "mountPath": DIR}]);
        containers.push(shown);
        let source = json!({"clusterTrustBundle": projection});
        volumes.push(json!({"name": format!("ctb-volume-{index}"), "projected": {"sources": [source]}}));
    }
    json!({
        "metadata": {"name": cx.unique("pod-projected-ctb")},
        "spec": {"restartPolicy": "Never", "containers": containers, "volumes": volumes},
    })
}

fn mode(file: &str) -> String {
    format!("mode of file \"{file}\": -rw-r--r--")
}

/// The pod ends well and its container shows all these certificates, and the file's mode.
async fn shows(cx: &Context, made: &Value, container: &str, file: &str, pems: &[String]) -> Result<()> {
    let mut wanted: Vec<&str> = pems.iter().map(String::as_str).collect();
    let mode = mode(file);
    wanted.push(&mode);
    cx.output_has(made, container, &wanted).await
}

/// The pod ends well and its file is empty.
async fn shows_nothing(cx: &Context, made: &Value, file: &str) -> Result<()> {
    let content = format!("content of file \"{}\": \n", regex::escape(file));
    cx.output_matches(made, "projected-ctb-volume-test-0", &[&content, &regex::escape(&mode(file))]).await
}

async fn by_name(cx: Context) -> Result<()> {
    let known = bundles(&cx).await?;
    let file = format!("{DIR}/trust-anchors.pem");
    let made = pod(&cx, &[json!({"name": known.unsigned, "path": "trust-anchors.pem"})]);
    shows(&cx, &made, "projected-ctb-volume-test-0", &file, &[known.no_signer]).await?;
    let absent = json!({"name": "does-not-exist.at.all", "path": "trust-anchors.pem", "optional": true});
    shows_nothing(&cx, &pod(&cx, &[absent]), &file).await
}

async fn multiple_volumes(cx: Context) -> Result<()> {
    let known = bundles(&cx).await?;
    let dead = json!({"signerName": known.signer, "path": "trust-bundle.crt",
                      "labelSelector": {"matchLabels": {"signer.alive": "false"}}});
    let made = pod(&cx, &[json!({"name": known.unsigned, "path": "trust-anchors.pem"}), dead]);
    let created = cx.pods().create(&made).await?;
    let name = name_of(&created)?;
    cx.pods().wait_success(name).await?;
    for (index, file, pems) in
        [(0, "trust-anchors.pem", vec![known.no_signer]), (1, "trust-bundle.crt", known.dead)]
    {
        let logs = cx.pods().logs(name, &format!("projected-ctb-volume-test-{index}")).await?;
        for pem in pems {
            ensure_contains!(logs, pem, "output of container {index}");
        }
        ensure_contains!(logs, mode(&format!("{DIR}/{file}")), "output of container {index}");
    }
    Ok(())
}

async fn by_signer(cx: &Context, known: &Bundles, selector: Value, optional: bool) -> Value {
    let mut projection = json!({"signerName": known.signer, "path": "trust-bundle.crt"});
    if !selector.is_null() {
        projection["labelSelector"] = selector;
    }
    if optional {
        projection["optional"] = json!(true);
    }
    pod(cx, &[projection])
}

const BUNDLE: &str = "/var/run/ctbtest/trust-bundle.crt";

async fn signer_and_labels(cx: Context) -> Result<()> {
    let known = bundles(&cx).await?;
    let made = by_signer(&cx, &known, json!({"matchLabels": {"signer.alive": "true"}}), false).await;
    shows(&cx, &made, "projected-ctb-volume-test-0", BUNDLE, &known.alive).await
}

async fn signer_everything(cx: Context) -> Result<()> {
    let known = bundles(&cx).await?;
    let made = by_signer(&cx, &known, json!({}), false).await;
    shows(&cx, &made, "projected-ctb-volume-test-0", BUNDLE, &known.all).await
}

async fn signer_nothing(cx: Context) -> Result<()> {
    let known = bundles(&cx).await?;
    let made = by_signer(&cx, &known, Value::Null, true).await;
    shows_nothing(&cx, &made, BUNDLE).await
}

async fn signer_no_match(cx: Context) -> Result<()> {
    let known = bundles(&cx).await?;
    let made = by_signer(&cx, &known, json!({"matchLabels": {"thismatches": "nothing"}}), true).await;
    shows_nothing(&cx, &made, BUNDLE).await
}

/// For ten seconds the pod does not run, and in the end its condition says what it waits for.
async fn blocked(cx: &Context, projection: Value) -> Result<()> {
    let created = cx.pods().create(&pod(cx, &[projection])).await?;
    let name = name_of(&created)?;
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut last = Value::Null;
    while tokio::time::Instant::now() < end {
        let seen = cx.pods().get(name).await?;
        anyhow::ensure!(phase(&seen) != "Running", "the pod runs although its trust bundle is missing");
        last = condition(&seen, "Ready").clone();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ensure_eq!(text(&last, "/status"), "False", "status of the Ready condition {last}");
    ensure_eq!(text(&last, "/reason"), "ContainersNotReady", "reason of the Ready condition {last}");
    let message = "containers with unready status: [projected-ctb-volume-test-0]";
    ensure_eq!(text(&last, "/message"), message, "message of the Ready condition");
    Ok(())
}

async fn no_match_blocks(cx: Context) -> Result<()> {
    let known = bundles(&cx).await?;
    let projection = json!({
        "optional": false, "path": "trust-bundle.crt", "signerName": known.signer,
        "labelSelector": {"matchLabels": {"signer.alive": "unknown"}},
    });
    blocked(&cx, projection).await
}

async fn absent_blocks(cx: Context) -> Result<()> {
    bundles(&cx).await?;
    blocked(&cx, json!({"optional": false, "path": "trust-bundle.crt", "name": "does-not-exist"})).await
}

async fn many(cx: Context) -> Result<()> {
    let unique = cx.namespace();
    let signer = format!("test.test/signer-hundreds{unique}");
    let mut pems = Vec::new();
    let mut sources = Vec::new();
    for index in 0..150 {
        let name = format!("test.test:signer-hundreds{unique}:{index}");
        let pem = Authority::new(&format!("root{index}"))?.pem;
        bundle(&cx, &name, &signer, &pem, Value::Null).await?;
        pems.push(pem);
        let path = format!("trust-anchors-{index}.pem");
        sources.push(json!({"clusterTrustBundle": {"name": name, "path": path}}));
    }
    let pick = rand::random_range(0..150_usize);
    one_volume(&cx, &sources, pick, &pems[pick]).await?;
    let pick = rand::random_range(0..150_usize);
    many_volumes(&cx, &sources, pick, &pems[pick]).await?;
    let file = format!("{DIR}/trust-anchors.pem");
    let joined = json!({"path": "trust-anchors.pem", "signerName": signer, "labelSelector": {}});
    shows(&cx, &pod(&cx, &[joined]), "projected-ctb-volume-test-0", &file, &pems).await
}

/// A pod whose one container shows a file of these volumes.
fn showing(cx: &Context, file: &str, mounts: Value, volumes: Value) -> Value {
    let args = ["mounttest", &format!("--file_content={file}"), &format!("--file_mode={file}")];
    let mut shown = container("projected-ctb-volume-test", AGNHOST, &args);
    shown["volumeMounts"] = mounts;
    json!({
        "metadata": {"name": cx.unique("pod-projected-ctb")},
        "spec": {"restartPolicy": "Never", "containers": [shown], "volumes": volumes},
    })
}

async fn one_volume(cx: &Context, sources: &[Value], pick: usize, pem: &str) -> Result<()> {
    let file = format!("{DIR}/trust-anchors-{pick}.pem");
    let mounts = json!([{"name": "ctb-volume", "mountPath": DIR}]);
    let made = showing(cx, &file, mounts, json!([{"name": "ctb-volume", "projected": {"sources": sources}}]));
    shows(cx, &made, "projected-ctb-volume-test", &file, &[pem.to_string()]).await
}

async fn many_volumes(cx: &Context, sources: &[Value], pick: usize, pem: &str) -> Result<()> {
    let file = format!("{DIR}-{pick}/trust-anchors-{pick}.pem");
    let name = |index: usize| format!("ctb-volume-{index}");
    let mounts: Vec<Value> =
        (0..sources.len()).map(|i| json!({"name": name(i), "mountPath": format!("{DIR}-{i}")})).collect();
    let volumes: Vec<Value> = sources
        .iter()
        .enumerate()
        .map(|(i, s)| json!({"name": name(i), "projected": {"sources": [s]}}))
        .collect();
    let made = showing(cx, &file, json!(mounts), json!(volumes));
    shows(cx, &made, "projected-ctb-volume-test", &file, &[pem.to_string()]).await
}
