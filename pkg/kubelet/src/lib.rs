//! The node agent. Entry point: [`run`].
//!
//! One task a pod ([`worker`]) around a pure [`decide::decide`]; the runtime's events wake it. Node status and lease have
//! their own task and never wait for pods.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod allocation;
pub mod arguments;
mod arrivals;
mod backoff;
mod calls;
mod cgroup;
mod collect;
mod config;
mod container;
pub mod decide;
mod end;
mod env;
mod fit;
mod hooks;
mod images;
mod isolation;
pub mod logs;
mod naming;
mod node;
pub mod observed;
mod own;
mod pods;
mod probes;
mod refs;
mod resize;
mod resources;
mod sandbox;
mod server;
mod spec;
mod start;
mod stats;
mod status;
mod status_writer;
mod worker;

use std::sync::Arc;

use knarr_client::{informer::Informers, recorder::Recorder};
use knarr_cri::Runtime;
use knarr_volumes::{ApiSource, Volumes};
use tokio_util::sync::CancellationToken;

pub use config::{KubeletConfig, ServingTls};
pub use isolation::Isolation;
pub use server::auth::{Access, ApiAccess, Caller};

/// Why the kubelet could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container runtime.
    #[error("container runtime: {0}")]
    Runtime(#[from] knarr_cri::Error),
    /// The node object.
    #[error("node {0}: {1}")]
    Node(String, String),
    /// A directory or file of the node.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    /// The HTTPS endpoint.
    #[error("kubelet endpoint {0}: {1}")]
    Serve(std::net::SocketAddr, String),
}

/// Runs the node until `shutdown`. Containers go on when it ends, and are taken over by the next run.
pub async fn run(
    config: KubeletConfig,
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    for dir in [&config.root_dir, &config.log_dir] {
        std::fs::create_dir_all(dir).map_err(|e| Error::File(dir.display().to_string(), e))?;
    }
    wait_for_runtime(&*runtime, &shutdown).await?;
    runtime.ensure_pause_image().await?;
    let machine = node::Machine::of_host(&config);
    let informers = Informers::new(client.clone(), shutdown.clone());
    let recorder = Recorder::new(client.clone(), "kubelet", &config.node_name);
    let source: Arc<dyn knarr_volumes::Source> =
        Arc::new(ApiSource::new(client.clone(), informers.clone(), recorder.clone()));
    let arrivals =
        arrivals::Arrivals::new(client.clone(), informers.clone(), &config.node_name, shutdown.clone());
    let node = Arc::new(worker::Node {
        volumes: Volumes::new(&config.root_dir, source.clone()),
        source,
        refs: refs::Refs::new(client.clone(), arrivals, shutdown.clone()),
        recorder,
        services: informers.of(),
        status: status_writer::StatusWriter::new(client.clone(), shutdown.clone()),
        cgroups: cgroup::Tree::of_host(),
        allocatable: machine.allocatable(&config),
        memory_bytes: machine.memory_bytes,
        owners: Default::default(),
        own: Default::default(),
        allocations: allocation::Allocations::load(&config.root_dir)
            .map_err(|e| Error::File(config.root_dir.display().to_string(), e))?,
        shutdown: shutdown.clone(),
        client: client.clone(),
        runtime: runtime.clone(),
        config,
    });
    node::event(&node, "Starting", "Starting kubelet.");
    node::register(&node, &machine).await?;
    let pods = pods::Pods::new(node.clone());
    let server = server::bind(&node, pods.clone()).await?;
    tokio::join!(
        node.own.follow(client, &node.config.node_name, &shutdown),
        node::keep_lease(&node),
        node::keep_status(&node, &machine),
        pods.watch(),
        pods.follow_runtime(),
        collect::keep(&node, &pods),
        server::serve(server, shutdown.clone()),
    );
    Ok(())
}

/// The runtime may still be coming up; anything but its absence is an error at once.
async fn wait_for_runtime(runtime: &dyn Runtime, shutdown: &CancellationToken) -> Result<(), Error> {
    let mut pause = std::time::Duration::from_millis(20);
    let mut left = 60;
    loop {
        match runtime.version().await {
            Ok(version) => {
                tracing::info!(
                    name = version.runtime_name,
                    version = version.runtime_version,
                    "container runtime"
                );
                return Ok(());
            }
            Err(error)
                if error.failure == knarr_cri::Failure::Unavailable
                    && left > 0
                    && !shutdown.is_cancelled() =>
            {
                left -= 1
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(std::time::Duration::from_secs(1));
    }
}
