//! Joins a client to a running command.

use super::{Outcome, Remote, Session};
use crate::{BoxRead, BoxWrite};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

/// Copies until the command ends, then tells the client how; ends early if the client goes away. Returns the outcome, if
/// there was one.
pub async fn relay(mut session: Session, mut remote: Remote) -> Option<Outcome> {
    let mut inputs = JoinSet::new();
    if let (Some(from), Some(to)) = (session.stdin.take(), remote.stdin.take()) {
        inputs.spawn(copy(from, to));
    }
    if let (Some(mut sizes), Some(mut resizer)) = (session.resize.take(), remote.resize.take()) {
        inputs.spawn(async move {
            while let Some(size) = sizes.recv().await {
                if resizer.send(size).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut outputs = JoinSet::new();
    if let (Some(from), Some(to)) = (remote.stdout.take(), session.stdout.take()) {
        outputs.spawn(copy(from, to));
    }
    if let (Some(from), Some(to)) = (remote.stderr.take(), session.stderr.take()) {
        outputs.spawn(copy(from, to));
    }
    let closed = session.closed();
    let ended = async {
        let outcome = remote.outcome().await;
        // All output goes before the outcome.
        while outputs.join_next().await.is_some() {}
        outcome
    };
    let outcome = tokio::select! {
        outcome = ended => outcome,
        () = closed.cancelled() => return None,
    };
    session.finish(&outcome).await;
    Some(outcome)
}

/// Copies to the end and passes the end on.
async fn copy(mut from: BoxRead, mut to: BoxWrite) {
    let copied = tokio::io::copy(&mut from, &mut to).await;
    if let Err(error) = copied.and(to.shutdown().await) {
        tracing::debug!(%error, "one side of the stream has gone");
    }
}
