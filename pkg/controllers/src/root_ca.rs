//! Publishes the cluster's CA to every namespace as the ConfigMap `kube-root-ca.crt`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{Event, WorkQueue};
use kube::ResourceExt;
use kube::api::PostParams;

use crate::context::{Action, Controller, Ctx, work};
use crate::error::{During, Error};
use crate::namespace::is_active;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "root-ca-certificate-publisher-controller",
    account: "root-ca-cert-publisher",
    start: |ctx| Box::pin(run(ctx)),
};

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "CA certificates by which pods verify the API server of this cluster.";

/// What to do about a namespace's map.
#[derive(Debug, PartialEq)]
enum Plan {
    Keep,
    Create,
    Update(Box<ConfigMap>),
}

fn decide(present: Option<&ConfigMap>, ca: &str) -> Plan {
    let Some(present) = present else { return Plan::Create };
    let data = BTreeMap::from([(KEY.to_owned(), ca.to_owned())]);
    let described = present.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(DESCRIPTION));
    if present.data.as_ref() == Some(&data) && described {
        return Plan::Keep;
    }
    let mut next = present.clone();
    next.data = Some(data);
    let annotations = next.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned());
    Plan::Update(Box::new(next))
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    if ctx.config.root_ca.is_empty() {
        tracing::info!("no root CA is configured: kube-root-ca.crt is not published");
        ctx.shutdown.cancelled().await;
        return Ok(());
    }
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let namespaces = ctx.store::<Namespace>();
    let maps = ctx.store::<ConfigMap>();
    {
        let queue = queue.clone();
        maps.on_event(move |event| {
            let map = match event {
                Event::Applied { new, .. } => new,
                Event::Deleted(old) => old,
            };
            if map.metadata.name.as_deref() == Some(NAME) {
                queue.add(map.namespace().unwrap_or_default());
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
    maps.synced().await;
    let run = ctx.clone();
    work(ctx, queue, 1, move |namespace| {
        let (ctx, namespaces, maps) = (run.clone(), namespaces.clone(), maps.clone());
        async move {
            if namespaces.get("", &namespace).is_some_and(|n| is_active(&n)) {
                let plan = decide(maps.get(&namespace, NAME).as_deref(), &ctx.config.root_ca);
                perform(&ctx, &namespace, plan).await?;
            }
            Ok(Action::Done)
        }
    })
    .await;
    Ok(())
}

async fn perform(ctx: &Ctx, namespace: &str, plan: Plan) -> Result<(), Error> {
    let api = ctx.api::<ConfigMap>(namespace);
    let result = match plan {
        Plan::Keep => return Ok(()),
        Plan::Create => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    annotations: Some([(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                data: Some([(KEY.to_owned(), ctx.config.root_ca.clone())].into()),
                ..ConfigMap::default()
            };
            api.create(&PostParams::default(), &map).await.during("create", "ConfigMap", namespace, NAME)
        }
        Plan::Update(map) => api.replace(NAME, &PostParams::default(), &map).await.during(
            "update",
            "ConfigMap",
            namespace,
            NAME,
        ),
    };
    match result {
        Err(e) if !e.is_already_exists() && !e.is_namespace_terminating() && !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        assert_eq!(decide(None, "x"), Plan::Create);
        let mut map =
            ConfigMap { data: Some([("ca.crt".into(), "old".into())].into()), ..ConfigMap::default() };
        let Plan::Update(next) = decide(Some(&map), "new") else { panic!("must update") };
        assert_eq!(decide(Some(&next), "new"), Plan::Keep);
        map.data = None;
        assert!(matches!(decide(Some(&map), "new"), Plan::Update(_)));
    }
}
