//! Deletes objects whose owners are gone, in the order that the deletion of the owner asked for.
//!
//! [`graph`] knows who owns whom, [`monitors`] feeds it by metadata-only watches of everything deletable,
//! [`judge`] decides and acts.

mod graph;
mod judge;
mod monitors;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::WorkQueue;
use parking_lot::{Mutex, RwLock};

use crate::context::{Controller, Ctx, work};
use crate::discovery::{Served, ServedResource};
use crate::error::Error;
use graph::{Graph, Names, Work};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "garbage-collector-controller",
    account: "generic-garbage-collector",
    start: |ctx| Box::pin(run(ctx)),
};

/// Uids known to be gone that are remembered.
const ABSENT_LIMIT: usize = 500;

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Work>::new(ctx.shutdown.clone());
    let collector = Arc::new(Collector {
        ctx: ctx.clone(),
        queue: queue.clone(),
        graph: Mutex::new(Graph::default()),
        served: RwLock::new(Arc::new(Served::default())),
        absent: Mutex::new(Absent::default()),
    });
    let monitors = tokio::spawn(monitors::run(collector.clone(), ctx.shutdown.clone()));
    // Nothing is judged before every kind has been seen once: an owner that is not in the graph yet is not gone.
    let workers = 8;
    let judge = collector.clone();
    work(ctx, queue, workers, move |item| {
        let judge = judge.clone();
        async move { judge.act(item).await }
    })
    .await;
    monitors.await.map_err(|e| Error::Config(format!("the garbage collector's monitors died: {e}")))
}

/// The state of the controller.
struct Collector {
    ctx: Arc<Ctx>,
    queue: WorkQueue<Work>,
    graph: Mutex<Graph>,
    served: RwLock<Arc<Served>>,
    absent: Mutex<Absent>,
}

impl Collector {
    fn observe(&self, names: &Names, meta: &ObjectMeta) {
        let work = self.graph.lock().observe(names, meta);
        self.enqueue(work);
    }

    fn remove(&self, uid: &str) {
        let work = self.graph.lock().remove(uid);
        self.absent.lock().insert(uid);
        self.enqueue(work);
    }

    fn enqueue(&self, work: Vec<Work>) {
        for item in work {
            self.queue.add(item);
        }
    }

    fn resource(&self, api_version: &str, kind: &str) -> Option<ServedResource> {
        let served = self.served.read().clone();
        served.kinds.get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }
}

/// The last objects that were found to be gone; uids never come back.
#[derive(Default)]
struct Absent {
    order: VecDeque<String>,
    known: HashSet<String>,
}

impl Absent {
    fn insert(&mut self, uid: &str) {
        if self.known.insert(uid.to_owned()) {
            self.order.push_back(uid.to_owned());
            if self.order.len() > ABSENT_LIMIT
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    fn contains(&self, uid: &str) -> bool {
        self.known.contains(uid)
    }
}
