//! Gives every namespace its `default` service account.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{Event, WorkQueue};
use kube::ResourceExt;
use kube::api::PostParams;

use crate::context::{Action, Controller, Ctx, work};
use crate::error::{During, Error};
use crate::namespace::is_active;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "serviceaccount-controller",
    account: "service-account-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const NAME: &str = "default";

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let namespaces = ctx.store::<Namespace>();
    let accounts = ctx.store::<ServiceAccount>();
    {
        let queue = queue.clone();
        accounts.on_event(move |event| {
            if let Event::Deleted(account) = event
                && account.metadata.name.as_deref() == Some(NAME)
            {
                queue.add(account.namespace().unwrap_or_default());
            }
        });
    }
    {
        let queue = queue.clone();
        namespaces.on_event(move |event| {
            if let Event::Applied { new, .. } = event {
                queue.add(new.name_any());
            }
        });
    }
    namespaces.synced().await;
    accounts.synced().await;
    let run = ctx.clone();
    work(ctx, queue, 1, move |namespace| {
        let (ctx, namespaces, accounts) = (run.clone(), namespaces.clone(), accounts.clone());
        async move {
            let active = namespaces.get("", &namespace).is_some_and(|n| is_active(&n));
            if active && accounts.get(&namespace, NAME).is_none() {
                create(&ctx, &namespace).await?;
            }
            Ok(Action::Done)
        }
    })
    .await;
    Ok(())
}

async fn create(ctx: &Ctx, namespace: &str) -> Result<(), Error> {
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    let result = ctx.api::<ServiceAccount>(namespace).create(&PostParams::default(), &account).await;
    match result.during("create", "ServiceAccount", namespace, NAME) {
        Err(e) if !e.is_already_exists() && !e.is_namespace_terminating() && !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}
