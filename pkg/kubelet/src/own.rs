//! The node's own object as the API has it: one watch for everybody who reads it. Entry point: [`Own::follow`].

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is known of the object.
#[derive(Debug, Clone, Default)]
pub enum Seen {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It is this.
    There(Arc<NodeObject>),
    /// There is none: somebody has removed it.
    Gone,
}

/// The newest state.
pub struct Own(watch::Sender<Seen>);

impl Default for Own {
    fn default() -> Self {
        Self(watch::Sender::new(Seen::Unknown))
    }
}

impl Own {
    /// Follows the object until shutdown.
    pub async fn follow(&self, client: kube::Client, name: &str, shutdown: &CancellationToken) {
        let api: Api<NodeObject> = Api::all(client);
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = std::pin::pin!(watcher::watcher(api, only).default_backoff());
        let mut listed = false;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = shutdown.cancelled() => return,
            };
            match event {
                Some(Ok(Event::Init)) => listed = false,
                Some(Ok(Event::InitApply(node) | Event::Apply(node))) => {
                    listed = true;
                    self.0.send_replace(Seen::There(Arc::new(node)));
                }
                Some(Ok(Event::InitDone)) if !listed => drop(self.0.send_replace(Seen::Gone)),
                Some(Ok(Event::InitDone)) => {}
                Some(Ok(Event::Delete(_))) => drop(self.0.send_replace(Seen::Gone)),
                // Tried again by the stream, and said by those who watch pods over the same connection.
                Some(Err(error)) => tracing::debug!(%error, node = name, "watching the own node"),
                None => return,
            }
        }
    }

    /// News from now on.
    pub fn subscribe(&self) -> watch::Receiver<Seen> {
        self.0.subscribe()
    }

    /// The object, waiting until it is known and says what the node offers.
    pub async fn get(&self) -> Arc<NodeObject> {
        let offers = |node: &NodeObject| {
            let status = node.status.as_ref();
            status.and_then(|s| s.allocatable.as_ref()).is_some_and(|a| !a.is_empty())
        };
        let mut receiver = self.0.subscribe();
        loop {
            if let Seen::There(node) = &*receiver.borrow_and_update()
                && offers(node)
            {
                return node.clone();
            }
            // The sender lives as long as we are borrowed.
            if receiver.changed().await.is_err() {
                return Arc::default();
            }
        }
    }
}
