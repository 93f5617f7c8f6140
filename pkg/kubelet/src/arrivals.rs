//! Wakes pods when a trust bundle they use changes, and when a request for their certificate is answered.
//!
//! Nothing is watched before the first pod that has such a volume.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::StreamExt;
use k8s_openapi::api::{
    certificates::v1::{ClusterTrustBundle, PodCertificateRequest},
    core::v1::Pod,
};
use knarr_client::informer::{self, Informers};
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::refs::Listener;

/// What a pod waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Interest {
    /// A trust bundle by name.
    Bundle(String),
    /// All trust bundles of a signer.
    Signer(String),
    /// Answers to the pod's own requests.
    Answers,
}

type Waiting = Arc<Mutex<Vec<(Listener, HashSet<Interest>)>>>;

/// The pods of a node that wait, and the watches for them.
#[derive(Clone)]
pub struct Arrivals {
    client: kube::Client,
    informers: Arc<Informers>,
    node_name: String,
    shutdown: CancellationToken,
    waiting: Waiting,
    bundles: Arc<AtomicBool>,
    requests: Arc<AtomicBool>,
}

impl Arrivals {
    /// Nobody waits yet.
    pub fn new(
        client: kube::Client,
        informers: Arc<Informers>,
        node_name: &str,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            client,
            informers,
            node_name: node_name.to_owned(),
            shutdown,
            waiting: Arc::default(),
            bundles: Arc::default(),
            requests: Arc::default(),
        }
    }

    /// Tells the listener of everything that arrives for the pod's volumes.
    pub fn add(&self, pod: &Pod, listener: Listener) {
        let interests = interests(pod);
        if interests.is_empty() {
            return;
        }
        let (answers, bundles) =
            (interests.contains(&Interest::Answers), interests.iter().any(|i| *i != Interest::Answers));
        {
            let mut waiting = self.waiting.lock();
            waiting.retain(|(l, _)| l.uid != listener.uid);
            waiting.push((listener, interests));
        }
        if bundles && !self.bundles.swap(true, Ordering::AcqRel) {
            self.follow_bundles();
        }
        if answers && !self.requests.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().follow_requests());
        }
    }

    /// The pod has gone.
    pub fn remove(&self, uid: &str) {
        self.waiting.lock().retain(|(listener, _)| listener.uid != uid);
    }

    fn follow_bundles(&self) {
        let waiting = self.waiting.clone();
        self.informers.of::<ClusterTrustBundle>().on_event(move |event| match event {
            informer::Event::Applied { new, .. } => arrived(&waiting, new),
            informer::Event::Deleted(last) => arrived(&waiting, last),
        });
    }

    async fn follow_requests(self) {
        let api: Api<PodCertificateRequest> = Api::all(self.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node_name));
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.shutdown.cancelled() => return,
            };
            match event {
                Some(Ok(
                    watcher::Event::Apply(request)
                    | watcher::Event::InitApply(request)
                    | watcher::Event::Delete(request),
                )) => answered(&self.waiting, &request),
                Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                Some(Err(error)) => tracing::warn!(%error, "watching requests for certificates of pods"),
                None => return,
            }
        }
    }
}

fn arrived(waiting: &Waiting, bundle: &ClusterTrustBundle) {
    let name = Interest::Bundle(bundle.metadata.name.clone().unwrap_or_default());
    let signer = bundle.spec.signer_name.clone().filter(|s| !s.is_empty()).map(Interest::Signer);
    let waiting = waiting.lock();
    for (listener, interests) in waiting.iter() {
        if interests.contains(&name) || signer.as_ref().is_some_and(|s| interests.contains(s)) {
            listener.tell();
        }
    }
}

fn answered(waiting: &Waiting, request: &PodCertificateRequest) {
    let open = request.status.as_ref().is_none_or(|s| s.conditions.iter().flatten().next().is_none());
    let gone = request.metadata.deletion_timestamp.is_some();
    if open && !gone {
        return;
    }
    let waiting = waiting.lock();
    let pod = waiting.iter().find(|(l, i)| l.uid == request.spec.pod_uid && i.contains(&Interest::Answers));
    if let Some((listener, _)) = pod {
        listener.tell();
    }
}

fn interests(pod: &Pod) -> HashSet<Interest> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let sources = volumes.flat_map(|v| v.projected.iter().flat_map(|p| p.sources.iter().flatten()));
    sources
        .filter_map(|source| {
            if source.pod_certificate.is_some() {
                return Some(Interest::Answers);
            }
            let bundle = source.cluster_trust_bundle.as_ref()?;
            let name = bundle.name.clone().map(Interest::Bundle);
            name.or_else(|| bundle.signer_name.clone().map(Interest::Signer))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_those_who_wait_are_woken() {
        let waiting = Waiting::default();
        let mut stale = Vec::new();
        for (uid, source) in [
            ("a", json!({"clusterTrustBundle": {"name": "one", "path": "p"}})),
            ("b", json!({"clusterTrustBundle": {"signerName": "s/n", "path": "p"}})),
            ("c", json!({"podCertificate": {"signerName": "s/n", "keyType": "ED25519"}})),
        ] {
            let spec =
                json!({"containers": [], "volumes": [{"name": "v", "projected": {"sources": [source]}}]});
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let listener = Listener { uid: uid.into(), stale: Arc::default(), wake: Arc::default() };
            stale.push(listener.stale.clone());
            waiting.lock().push((listener, interests(&pod)));
        }
        let told = || -> String {
            let mark = |s: &Arc<AtomicBool>| if s.swap(false, Ordering::AcqRel) { '!' } else { '.' };
            stale.iter().map(mark).collect()
        };
        let bundle = |name: &str, signer: &str| {
            let spec = json!({"signerName": signer, "trustBundle": ""});
            arrived(
                &waiting,
                &serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap(),
            );
            told()
        };
        assert_eq!(bundle("one", ""), "!..");
        assert_eq!(bundle("s:n:x", "s/n"), ".!.");
        assert_eq!(bundle("other", "t/n"), "...");
        let request = |uid: &str, conditions: serde_json::Value| {
            let spec = json!({"nodeName": "n", "nodeUID": "u", "podName": "p", "podUID": uid, "serviceAccountName": "s", "serviceAccountUID": "u", "signerName": "a/b", "stubPKCS10Request": ""});
            let object = json!({"metadata": {}, "spec": spec, "status": {"conditions": conditions}});
            answered(&waiting, &serde_json::from_value(object).unwrap());
            told()
        };
        let issued = json!([{"type": "Issued", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        assert_eq!(request("c", json!([])), "...");
        assert_eq!(request("c", issued.clone()), "..!");
        assert_eq!(request("a", issued), "...");
    }
}
