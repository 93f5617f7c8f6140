//! Deletes bootstrap tokens that have expired.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use knarr_client::WorkQueue;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::watcher;

use crate::context::{Action, Controller, Ctx, work};
use crate::error::{During, Error};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "token-cleaner-controller",
    account: "token-cleaner",
    start: |ctx| Box::pin(run(ctx)),
};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const AGAIN: Duration = Duration::from_secs(1);

/// How long a token may stay; None for one that does not expire.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    if secret.type_.as_deref() != Some(TYPE) {
        return None;
    }
    let bytes = secret.data.as_ref()?.get("expiration")?;
    if bytes.0.is_empty() {
        return None;
    }
    let text = std::str::from_utf8(&bytes.0).unwrap_or_default();
    // A time that cannot be read is over, as for those who would use the token.
    let Ok(end) = text.parse::<Timestamp>() else { return Some(Duration::ZERO) };
    let milliseconds = end.as_millisecond() - now.as_millisecond();
    Some(Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)))
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    // Few secrets are tokens: a watch of those alone, with the right to this namespace alone.
    let only = watcher::Config::default().fields(&format!("type={TYPE}"));
    let mut events = Box::pin(watcher(ctx.api::<Secret>(NAMESPACE), only));
    let (added, follower) = (queue.clone(), ctx.clone());
    let follow = async move {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = follower.shutdown.cancelled() => return,
            };
            match event {
                Some(Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret))) => {
                    if let Some(left) = left(&secret, Timestamp::now()) {
                        added.add_after(secret.name_any(), left);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "watch of bootstrap tokens, trying again");
                    tokio::time::sleep(AGAIN).await;
                }
                None => return,
            }
        }
    };
    let run = ctx.clone();
    let served = work(ctx, queue, 1, move |name| {
        let ctx = run.clone();
        async move { reconcile(&ctx, &name).await }
    });
    tokio::join!(follow, served);
    Ok(())
}

async fn reconcile(ctx: &Ctx, name: &str) -> Result<Action, Error> {
    // The live object decides: its time may have been changed a moment ago.
    let api = ctx.api::<Secret>(NAMESPACE);
    let Some(secret) = api.get_opt(name).await.during("get", "Secret", NAMESPACE, name)? else {
        return Ok(Action::Done);
    };
    match left(&secret, Timestamp::now()) {
        None => Ok(Action::Done),
        Some(left) if !left.is_zero() => Ok(Action::After(left)),
        Some(_) => {
            let same = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
            let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
            match api.delete(name, &params).await.during("delete", "Secret", NAMESPACE, name) {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Action::Done),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn time_left() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let secret = |kind: &str, expiration: Option<&str>| Secret {
            type_: Some(kind.to_owned()),
            data: Some(
                expiration
                    .map(|e| ("expiration".to_owned(), ByteString(e.as_bytes().to_vec())))
                    .into_iter()
                    .collect(),
            ),
            ..Secret::default()
        };
        for (kind, expiration, want) in [
            (TYPE, Some("2026-01-01T00:01:00Z"), Some(60)),
            (TYPE, Some("2025-01-01T00:01:00Z"), Some(0)),
            (TYPE, Some("never"), Some(0)),
            (TYPE, None, None),
            (TYPE, Some(""), None),
            ("Opaque", Some("2025-01-01T00:01:00Z"), None),
        ] {
            let got = left(&secret(kind, expiration), now).map(|d| d.as_secs());
            assert_eq!(got, want, "{kind} {expiration:?}");
        }
    }
}
