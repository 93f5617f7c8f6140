//! `memory://`: plain maps. The oracle for the other drivers: whatever can be done the slow and obvious way is.

use super::{Commit, Driver, History, LeaseChange, LeaseRow, Loaded, Plan, Position, Row, Selection};
use super::{last_position, revision_of};
use crate::api::{Error, KeyValue, LeaseId, Options, Range, Revision};
use crate::bounds::Bounds;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

#[derive(Default)]
struct Tables {
    log: BTreeMap<Position, Row>,
    kv: BTreeMap<String, Position>,
    leases: BTreeMap<LeaseId, LeaseRow>,
    compacted: Revision,
    swept: Position,
}

struct Memory {
    path: String,
    max_bytes: Option<u64>,
    tables: RwLock<Tables>,
}

pub(super) async fn open(endpoint: String, options: Options) -> Result<Arc<dyn Driver>, Error> {
    if endpoint != "memory://" {
        return Err(Error::Unsupported { path: endpoint, detail: "memory:// takes no path".into() });
    }
    Ok(Arc::new(Memory { path: endpoint, max_bytes: options.max_bytes, tables: RwLock::default() }))
}

fn row_bytes(row: &Row) -> u64 {
    (size_of::<Row>() + row.kv.key.len() + row.kv.value.len()) as u64
}

impl Tables {
    fn bytes(&self) -> u64 {
        self.log.values().map(row_bytes).sum()
    }

    fn revision(&self) -> Revision {
        self.log.last_key_value().map_or(0, |(position, _)| revision_of(*position)).max(self.compacted)
    }

    fn write(&mut self, commit: Commit) {
        for row in commit.rows {
            if row.deleted {
                self.kv.remove(&row.kv.key);
            } else {
                self.kv.insert(row.kv.key.clone(), row.position);
            }
            self.log.insert(row.position, row);
        }
        for change in commit.leases {
            match change {
                LeaseChange::Put(lease) => self.leases.insert(lease.id, lease),
                LeaseChange::Remove(id) => self.leases.remove(&id),
            };
        }
    }

    fn present(&self, bounds: &Bounds) -> BTreeMap<&str, &Row> {
        let living = self.kv.range(bounds.start.clone()..).take_while(|(key, _)| bounds.contains(key));
        living.filter_map(|(key, position)| Some((key.as_str(), self.log.get(position)?))).collect()
    }

    /// The state at a revision, by replaying the log.
    fn state_at(&self, revision: Revision, bounds: &Bounds) -> BTreeMap<&str, &Row> {
        let mut state = BTreeMap::new();
        for row in self.log.range(..=last_position(revision)).map(|(_, row)| row) {
            if !bounds.contains(&row.kv.key) {
                continue;
            }
            if row.deleted {
                state.remove(row.kv.key.as_str());
            } else {
                state.insert(row.kv.key.as_str(), row);
            }
        }
        state
    }
}

#[async_trait]
impl Driver for Memory {
    fn path(&self) -> &str {
        &self.path
    }

    async fn load(&self) -> Result<Loaded, Error> {
        let tables = self.tables.read();
        Ok(Loaded {
            revision: tables.revision(),
            compacted: tables.compacted,
            swept: tables.swept,
            leases: tables.leases.values().copied().collect(),
        })
    }

    async fn transact(&self, keys: &[String], plan: Plan<'_>) -> Result<(), Error> {
        let mut tables = self.tables.write();
        let mut present = HashMap::new();
        for key in keys {
            if let Some(row) = tables.kv.get(key).and_then(|position| tables.log.get(position)) {
                present.insert(key.clone(), row.clone());
            }
        }
        let commit = plan(present);
        if let Some(max) = self.max_bytes
            && tables.bytes() + commit.rows.iter().map(row_bytes).sum::<u64>() > max
        {
            return Err(Error::Full { path: self.path.clone() });
        }
        tables.write(commit);
        Ok(())
    }

    async fn range(&self, range: &Range) -> Result<Selection, Error> {
        let tables = self.tables.read();
        let bounds = Bounds::new(&range.start, range.end.as_deref());
        let newest = tables.revision();
        let state = match range.revision {
            None => tables.present(&bounds),
            Some(revision) => tables.state_at(revision, &bounds),
        };
        let count = state.len();
        let take = match (range.count_only, range.limit) {
            (true, _) => 0,
            (false, 0) => count,
            (false, limit) => limit,
        };
        let entry = |row: &&Row| {
            let mut kv = row.kv.clone();
            if range.keys_only {
                kv.value = Bytes::new();
            }
            kv
        };
        let kvs: Vec<_> = state.values().take(take).map(entry).collect();
        Ok(Selection { more: !range.count_only && kvs.len() < count, kvs, count, revision: newest })
    }

    async fn history(
        &self,
        after: Revision,
        upto: Revision,
        bounds: &Bounds,
        max: usize,
    ) -> Result<History, Error> {
        let tables = self.tables.read();
        let mut history = History { rows: Vec::new(), covered: upto };
        let mut bytes = 0;
        if after >= upto {
            return Ok(history);
        }
        for (position, row) in tables.log.range(last_position(after) + 1..=last_position(upto)) {
            if !bounds.contains(&row.kv.key) {
                continue;
            }
            if let Some((last, _)) = history.rows.last()
                && bytes >= max
                && revision_of(last.position) != revision_of(*position)
            {
                history.covered = revision_of(last.position);
                break;
            }
            bytes += row.kv.key.len() + row.kv.value.len();
            let before: Option<KeyValue> = tables.log.get(&row.before).map(|row| row.kv.clone());
            history.rows.push((row.clone(), before));
        }
        Ok(history)
    }

    async fn leased_keys(&self, lease: LeaseId) -> Result<Vec<String>, Error> {
        let tables = self.tables.read();
        let bound = |position: &Position| tables.log.get(position).is_some_and(|row| row.kv.lease == lease);
        Ok(tables.kv.iter().filter(|(_, position)| bound(position)).map(|(key, _)| key.clone()).collect())
    }

    async fn set_compacted(&self, revision: Revision) -> Result<(), Error> {
        self.tables.write().compacted = revision;
        Ok(())
    }

    async fn sweep(&self, from: Position, upto: Position, limit: usize) -> Result<Position, Error> {
        let mut tables = self.tables.write();
        let mut reached = upto;
        let mut dead = Vec::new();
        for (visited, (position, row)) in tables.log.range(from + 1..=upto).enumerate() {
            if visited == limit {
                break;
            }
            reached = *position;
            dead.push(row.before);
            if row.deleted {
                dead.push(*position);
            }
        }
        if tables.log.range(reached + 1..=upto).next().is_none() {
            reached = upto;
        }
        for position in dead {
            tables.log.remove(&position);
        }
        tables.swept = reached;
        Ok(reached)
    }

    async fn reclaim(&self) -> Result<bool, Error> {
        Ok(false)
    }

    async fn size_bytes(&self) -> Result<u64, Error> {
        Ok(self.tables.read().bytes())
    }

    async fn check_integrity(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn close(&self) {}
}
