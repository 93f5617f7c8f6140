//! The tasks of this process: started by name, ended together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long one component may take to end before it is dropped.
const COMPONENT_LIMIT: Duration = Duration::from_secs(3);
/// How long all components may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What runs here.
#[derive(Default)]
pub struct Process {
    /// Ends everything.
    pub shutdown: CancellationToken,
    /// Every task that must have ended before the process does.
    pub tasks: TaskTracker,
    running: parking_lot::Mutex<BTreeSet<&'static str>>,
}

impl Process {
    /// A process that ends on SIGTERM and SIGINT.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub fn start() -> anyhow::Result<Arc<Self>> {
        use tokio::signal::unix::{SignalKind, signal};
        let process = Arc::new(Self::default());
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = process.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            shutdown.cancel();
        });
        Ok(process)
    }

    /// Runs a component until it ends; if it fails, the process ends with its error in the log.
    pub fn spawn<E: std::fmt::Display>(
        self: &Arc<Self>,
        name: &'static str,
        component: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let process = self.clone();
        self.running.lock().insert(name);
        self.tasks.spawn(async move {
            let overdue = async {
                process.shutdown.cancelled().await;
                tokio::time::sleep(COMPONENT_LIMIT).await;
            };
            // Every component must survive a crash at any instant, so it may be dropped when it waits for something.
            let ended = tokio::select! {
                ended = component => ended,
                () = overdue => {
                    tracing::debug!(component = name, "dropped");
                    Ok(())
                }
            };
            if let Err(error) = ended {
                tracing::error!(component = name, error = %format!("{error:#}"), "component failed");
                process.shutdown.cancel();
            }
            process.running.lock().remove(name);
            tracing::debug!(component = name, "component ended");
        });
    }

    /// Tells the service manager that all is up, and waits for the end.
    pub async fn serve(&self) {
        notify(&[sd_notify::NotifyState::Ready]);
        self.shutdown.cancelled().await;
    }

    /// Ends all tasks.
    pub async fn stop(&self) {
        notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!("stopping");
        self.shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {
            let names = self.running.lock().iter().copied().collect::<Vec<_>>().join(", ");
            tracing::warn!(components = names, "did not end in {} s", STOP_LIMIT.as_secs());
        }
    }
}

/// Tells the service manager, if there is one.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "service manager not notified");
    }
}
