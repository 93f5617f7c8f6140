//! Calls that change something at the runtime come to their end, whoever waits. Entry point: [`Worker::whole`].

use std::{future::Future, time::Duration};

use knarr_cri::{Error, Failure};

use crate::worker::Worker;

/// How long the end of a pod waits for such a call.
const PATIENCE: Duration = Duration::from_secs(30);

impl Worker {
    /// Makes a call that is not given up half way when the pod is to end meanwhile: what a runtime was told to forget
    /// while it was being made may live on, known to nobody.
    pub(crate) async fn whole<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.calls.clone().lock_owned().await;
        let task = tokio::spawn(async move {
            let outcome = call.await;
            drop(turn);
            outcome
        });
        task.await.unwrap_or_else(|e| Err(Error::new("call", "runtime", Failure::Other, e.to_string())))
    }

    /// Waits for a call that was under way when the pod was told to end.
    pub(crate) async fn calls_ended(&self) {
        if tokio::time::timeout(PATIENCE, self.calls.lock()).await.is_err() {
            tracing::warn!(pod = %self.uid, "the runtime has not answered for {} s", PATIENCE.as_secs());
        }
    }
}
