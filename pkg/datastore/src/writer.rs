//! The single writer: drains the queue, commits in groups, publishes, answers - in this order.

use crate::api::{Error, LeaseId, Op, Txn, TxnResult};
use crate::drivers::{LeaseChange, LeaseRow};
use crate::lease::now_millis;
use crate::plan::{Planner, Published};
use crate::store::Core;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Requests in one group at most.
const GROUP_REQUESTS: usize = 512;
/// Value bytes in one group, beyond which the rest waits for the next.
const GROUP_BYTES: usize = 8 << 20;

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the writer can be asked.
pub(crate) enum Command {
    Txn {
        txn: Txn,
        reply: Reply<TxnResult>,
    },
    Grant {
        id: LeaseId,
        ttl_seconds: i64,
        reply: Reply<LeaseRow>,
    },
    KeepAlive {
        id: LeaseId,
        reply: Reply<LeaseRow>,
    },
    Revoke {
        id: LeaseId,
        reply: Reply<()>,
    },
    /// As revoke, if it has really run out.
    Expire {
        id: LeaseId,
        reply: Reply<()>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// What a command will be told once its group is committed.
enum Answer {
    Txn(Result<TxnResult, Error>),
    Lease(Result<LeaseRow, Error>),
    Gone(Result<(), Error>),
}

#[derive(Default)]
struct Outcome {
    answers: Vec<Answer>,
    published: Vec<Published>,
    leases: Vec<LeaseChange>,
}

impl Command {
    fn bytes(&self) -> usize {
        let Command::Txn { txn, .. } = self else {
            return 0;
        };
        let value = |op: &Op| {
            if let Op::Put { value, .. } = op { value.len() } else { 0 }
        };
        txn.success.iter().map(value).sum()
    }

    /// Whether it must see the state after all commands before it, and so begins a group of its own.
    fn is_barrier(&self) -> bool {
        matches!(self, Command::Revoke { .. } | Command::Expire { .. } | Command::Close { .. })
    }

    fn refuse(self, error: Error) {
        match self {
            Command::Txn { reply, .. } => drop(reply.send(Err(error))),
            Command::Grant { reply, .. } | Command::KeepAlive { reply, .. } => drop(reply.send(Err(error))),
            Command::Revoke { reply, .. } | Command::Expire { reply, .. } => drop(reply.send(Err(error))),
            Command::Close { .. } => {}
        }
    }

    fn answer(self, answer: Answer) {
        // A caller that went away is no error.
        match (self, answer) {
            (Command::Txn { reply, .. }, Answer::Txn(result)) => drop(reply.send(result)),
            (Command::Grant { reply, .. } | Command::KeepAlive { reply, .. }, Answer::Lease(result)) => {
                drop(reply.send(result));
            }
            (Command::Revoke { reply, .. } | Command::Expire { reply, .. }, Answer::Gone(result)) => {
                drop(reply.send(result));
            }
            (command, _) => command.refuse(Error::Closed),
        }
    }
}

/// Runs until a close command, or until nobody can send any more.
pub(crate) async fn run(core: Arc<Core>, mut queue: mpsc::Receiver<Command>) {
    let mut commands = Vec::new();
    let mut closing = None;
    while closing.is_none() && queue.recv_many(&mut commands, GROUP_REQUESTS).await > 0 {
        let mut group = Vec::with_capacity(commands.len());
        let mut bytes = 0;
        for command in commands.drain(..) {
            bytes += command.bytes();
            if command.is_barrier() || bytes > GROUP_BYTES {
                commit(&core, std::mem::take(&mut group)).await;
                bytes = command.bytes();
            }
            match command {
                Command::Close { reply } => closing = Some(reply),
                command if closing.is_some() => command.refuse(Error::Closed),
                command if command.is_barrier() => commit(&core, vec![command]).await,
                command => group.push(command),
            }
        }
        commit(&core, group).await;
    }
    queue.close();
    while let Some(command) = queue.recv().await {
        command.refuse(Error::Closed);
    }
    core.hub.close();
    core.driver.close().await;
    if let Some(Err(())) = closing.map(|reply| reply.send(())) {
        tracing::debug!("who closed the datastore did not wait");
    }
}

async fn commit(core: &Core, group: Vec<Command>) {
    if group.is_empty() {
        return;
    }
    match write(core, &group).await {
        Ok(outcome) => {
            core.leases.apply(&outcome.leases);
            core.hub.publish(outcome.published);
            if let Some(policy) = &core.options.compaction {
                core.alarm.written(core.hub.published(), core.compacted(), policy);
            }
            for (command, answer) in group.into_iter().zip(outcome.answers) {
                command.answer(answer);
            }
        }
        Err(error) => {
            tracing::warn!(path = core.driver.path(), %error, requests = group.len(), "group not committed");
            if let Err(error) = catch_up(core).await {
                tracing::warn!(path = core.driver.path(), %error, "cannot read the store after a failed commit");
            }
            for command in group {
                command.refuse(error.clone());
            }
        }
    }
}

async fn write(core: &Core, group: &[Command]) -> Result<Outcome, Error> {
    let mut keys = Vec::new();
    let mut leased = Vec::new();
    for command in group {
        match command {
            Command::Txn { txn, .. } => {
                keys.extend(txn.success.iter().map(|op| op.key().to_string()));
                keys.extend(txn.compares.iter().map(|crate::api::Compare::ModRevision(key, _)| key.clone()));
            }
            Command::Revoke { id, .. } | Command::Expire { id, .. } => {
                leased = core.driver.leased_keys(*id).await?;
                keys.extend(leased.iter().cloned());
            }
            _ => {}
        }
    }
    keys.sort_unstable();
    keys.dedup();
    let newest = core.hub.published();
    let lease_exists = |id| core.leases.get(id).is_some();
    let mut outcome = Outcome::default();
    let plan = &mut |present| {
        let mut planner = Planner::new(newest, present, &lease_exists);
        let answers = group.iter().map(|command| decide(core, command, &leased, &mut planner)).collect();
        outcome = Outcome { answers, published: planner.published, leases: planner.commit.leases.clone() };
        planner.commit
    };
    core.driver.transact(&keys, plan).await?;
    Ok(outcome)
}

fn decide(core: &Core, command: &Command, leased: &[String], planner: &mut Planner<'_>) -> Answer {
    let renewed = |id, ttl_seconds: i64| {
        let expires_at_millis = now_millis().saturating_add(ttl_seconds.saturating_mul(1000));
        LeaseRow { id, ttl_seconds, expires_at_millis }
    };
    match command {
        Command::Txn { txn, .. } => Answer::Txn(planner.txn(txn)),
        Command::Grant { id, ttl_seconds, .. } => {
            if planner.lease_known(*id) {
                let detail = format!("lease {id} exists already");
                return Answer::Lease(Err(Error::Invalid { operation: "lease grant", detail }));
            }
            let row = renewed(*id, *ttl_seconds);
            planner.put_lease(row);
            Answer::Lease(Ok(row))
        }
        Command::KeepAlive { id, .. } => match core.leases.get(*id) {
            Some(row) if row.expires_at_millis > now_millis() => {
                let row = renewed(*id, row.ttl_seconds);
                planner.put_lease(row);
                Answer::Lease(Ok(row))
            }
            _ => Answer::Lease(Err(Error::LeaseNotFound(*id))),
        },
        Command::Revoke { id, .. } => match core.leases.get(*id) {
            Some(_) => {
                planner.drop_lease(*id, leased);
                Answer::Gone(Ok(()))
            }
            None => Answer::Gone(Err(Error::LeaseNotFound(*id))),
        },
        Command::Expire { id, .. } => {
            if core.leases.get(*id).is_some_and(|row| row.expires_at_millis <= now_millis()) {
                planner.drop_lease(*id, leased);
            }
            Answer::Gone(Ok(()))
        }
        Command::Close { .. } => Answer::Gone(Ok(())),
    }
}

/// After a commit that failed: if the store kept it all the same (a failed sync may), watchers must see it.
async fn catch_up(core: &Core) -> Result<(), Error> {
    let loaded = core.driver.load().await?;
    let everything = crate::bounds::Bounds::new("", Some(""));
    let mut known = core.hub.published();
    while known < loaded.revision {
        let history = core.driver.history(known, loaded.revision, &everything, GROUP_BYTES).await?;
        known = history.covered;
        let batches = crate::watch::batches(history);
        core.hub.publish(batches.into_iter().map(|batch| (batch.revision, batch.events)).collect());
    }
    core.leases.replace(loaded.leases);
    Ok(())
}
