//! Frees the name of a deleted node: its password goes, so another machine may join under the name.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Secret};
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};

use crate::context::{Action, Controller, Ctx, work};
use crate::error::{During, Error};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "knarr-node-password-controller",
    account: "knarr-node-password-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const NAMESPACE: &str = "kube-system";
const SUFFIX: &str = ".node-password.knarr";
const TYPE: &str = "knarr.io/node-password";
/// A claim without a node may be that of a machine that is joining.
const JOINING_SECONDS: i64 = 600;

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let nodes = ctx.store::<Node>();
    {
        let queue = queue.clone();
        nodes.on_event(move |event| {
            if let Event::Deleted(old) = event {
                queue.add(old.name_any());
            }
        });
    }
    nodes.synced().await;
    let (run, known) = (ctx.clone(), nodes.clone());
    let working = work(ctx.clone(), queue.clone(), 1, move |name| {
        let (ctx, nodes) = (run.clone(), known.clone());
        async move { reconcile(&ctx, &nodes, &name).await }
    });
    tokio::join!(working, look_back(&ctx, &nodes, &queue));
    Ok(())
}

/// Looks once for what was left behind; until it may (its role comes with the add-ons), it asks again ever more rarely.
async fn look_back(ctx: &Ctx, nodes: &Store<Node>, queue: &WorkQueue<String>) {
    let mut pause = Duration::from_secs(1);
    loop {
        match left_behind(ctx, nodes).await {
            Ok(names) => return names.into_iter().for_each(|name| queue.add(name)),
            Err(error) => {
                tracing::warn!(%error, "looking for passwords of deleted nodes failed, trying again")
            }
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(600)),
        }
    }
}

/// Nodes that were deleted while no controller ran.
async fn left_behind(ctx: &Ctx, nodes: &Store<Node>) -> Result<Vec<String>, Error> {
    let only = ListParams::default().fields(&format!("type={TYPE}"));
    let secrets = ctx.api::<Secret>(NAMESPACE).list(&only).await.during("list", "Secret", NAMESPACE, "")?;
    let now = k8s_openapi::jiff::Timestamp::now().as_second();
    let old = |s: &Secret| {
        s.metadata.creation_timestamp.as_ref().is_some_and(|t| t.0.as_second() + JOINING_SECONDS < now)
    };
    let names = secrets.items.iter().filter(|s| old(s)).map(ResourceExt::name_any);
    Ok(names
        .filter_map(|n| n.strip_suffix(SUFFIX).map(str::to_owned))
        .filter(|n| nodes.get("", n).is_none())
        .collect())
}

async fn reconcile(ctx: &Ctx, nodes: &Store<Node>, node: &str) -> Result<Action, Error> {
    if nodes.get("", node).is_some() {
        return Ok(Action::Done);
    }
    let name = format!("{node}{SUFFIX}");
    let gone = ctx.api::<Secret>(NAMESPACE).delete(&name, &DeleteParams::default()).await;
    match gone.during("delete", "Secret", NAMESPACE, &name) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Action::Done),
    }
}
