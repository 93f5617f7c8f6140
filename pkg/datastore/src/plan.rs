//! Decides what a group of requests writes: a pure function over the present rows of the keys they name.

use crate::api::{Compare, Error, Event, KeyValue, LeaseId, Op, Revision, Txn, TxnResult};
use crate::drivers::{Commit, LeaseChange, LeaseRow, MAX_OPERATIONS, Row, position};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Bytes a key may have.
pub(crate) const MAX_KEY_BYTES: usize = 1024;
/// Bytes a value may have: over the 3 MiB that the API accepts.
pub(crate) const MAX_VALUE_BYTES: usize = 4 << 20;

/// Refuses what no state of the store could accept.
pub(crate) fn check(txn: &Txn) -> Result<(), Error> {
    let invalid = |detail: String| Err(Error::Invalid { operation: "txn", detail });
    if txn.success.len() > MAX_OPERATIONS || txn.compares.len() > MAX_OPERATIONS {
        return invalid(format!("more than {MAX_OPERATIONS} operations or conditions"));
    }
    let mut keys = HashSet::with_capacity(txn.success.len());
    for op in &txn.success {
        let key = op.key();
        if key.is_empty() {
            return invalid("an empty key".into());
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(Error::TooLarge { what: "key", size: key.len(), limit: MAX_KEY_BYTES });
        }
        if !keys.insert(key) {
            return invalid(format!("key {key:?} is written twice"));
        }
        if let Op::Put { value, .. } = op
            && value.len() > MAX_VALUE_BYTES
        {
            return Err(Error::TooLarge { what: "value", size: value.len(), limit: MAX_VALUE_BYTES });
        }
    }
    Ok(())
}

/// One revision's events.
pub(crate) type Published = (Revision, Arc<[Event]>);

/// The state of a group while it is being decided.
pub(crate) struct Planner<'a> {
    newest: Revision,
    present: HashMap<String, Row>,
    lease_exists: &'a dyn Fn(LeaseId) -> bool,
    /// What to write.
    pub commit: Commit,
    /// What to tell watchers.
    pub published: Vec<Published>,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        newest: Revision,
        present: HashMap<String, Row>,
        lease_exists: &'a dyn Fn(LeaseId) -> bool,
    ) -> Self {
        Self { newest, present, lease_exists, commit: Commit::default(), published: Vec::new() }
    }

    fn state(&self, key: &str) -> Option<&KeyValue> {
        self.present.get(key).map(|row| &row.kv)
    }

    /// Whether a lease exists, counting what this group did.
    pub(crate) fn lease_known(&self, id: LeaseId) -> bool {
        let here = self.commit.leases.iter().rev().find_map(|change| match change {
            LeaseChange::Put(lease) if lease.id == id => Some(true),
            LeaseChange::Remove(gone) if *gone == id => Some(false),
            _ => None,
        });
        here.unwrap_or_else(|| (self.lease_exists)(id))
    }

    /// Decides one transaction on top of those before it.
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Error> {
        let holds = |compare: &Compare| {
            let Compare::ModRevision(key, wanted) = compare;
            self.state(key).map_or(0, |kv| kv.mod_revision) == *wanted
        };
        if !txn.compares.iter().all(holds) {
            let current = |Compare::ModRevision(key, _): &Compare| self.state(key).cloned();
            let current = txn.compares.iter().map(current).collect();
            return Ok(TxnResult::Conflict { revision: self.newest, current });
        }
        for op in &txn.success {
            if let Op::Put { lease, .. } = op
                && *lease != 0
                && !self.lease_known(*lease)
            {
                return Err(Error::LeaseNotFound(*lease));
            }
        }
        let previous = txn.success.iter().map(|op| self.state(op.key()).cloned()).collect();
        self.write(&txn.success);
        Ok(TxnResult::Committed { revision: self.newest, previous })
    }

    /// Writes operations on distinct keys at one new revision, if any of them changes something.
    fn write(&mut self, ops: &[Op]) {
        let revision = self.newest + 1;
        let mut events = Vec::with_capacity(ops.len());
        for op in ops {
            let before = self.present.get(op.key());
            let previous = before.map(|row| row.kv.clone());
            if op.is_unchanged(previous.as_ref()) {
                continue;
            }
            let deleted = matches!(op, Op::Delete { .. });
            let (value, lease) = match op {
                Op::Put { value, lease, .. } => (value.clone(), *lease),
                Op::Delete { .. } => (Bytes::new(), 0),
            };
            let version = if deleted { 0 } else { previous.as_ref().map_or(0, |kv| kv.version) + 1 };
            let create_revision = previous.as_ref().map_or(revision, |kv| kv.create_revision);
            let key = op.key().to_string();
            let kv = KeyValue { key, value, create_revision, mod_revision: revision, version, lease };
            let row = Row {
                position: position(revision, events.len()),
                before: before.map_or(0, |row| row.position),
                kv: kv.clone(),
                deleted,
            };
            if deleted {
                self.present.remove(op.key());
            } else {
                self.present.insert(kv.key.clone(), row.clone());
            }
            self.commit.rows.push(row);
            events.push(Event { kv, deleted, previous });
        }
        if !events.is_empty() {
            self.newest = revision;
            self.published.push((revision, events.into()));
        }
    }

    /// Grants or renews.
    pub(crate) fn put_lease(&mut self, lease: LeaseRow) {
        self.commit.leases.push(LeaseChange::Put(lease));
    }

    /// Deletes a lease's keys, then the lease.
    pub(crate) fn drop_lease(&mut self, id: LeaseId, keys: &[String]) {
        let bound = keys.iter().filter(|key| self.state(key).is_some_and(|kv| kv.lease == id));
        let ops: Vec<_> = bound.map(|key| Op::Delete { key: key.clone() }).collect();
        for part in ops.chunks(MAX_OPERATIONS) {
            self.write(part);
        }
        self.commit.leases.push(LeaseChange::Remove(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str, lease: LeaseId) -> Op {
        Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), lease }
    }

    fn delete(key: &str) -> Op {
        Op::Delete { key: key.into() }
    }

    #[test]
    fn a_group_builds_on_itself() {
        let none = |_| false;
        let mut planner = Planner::new(10, HashMap::new(), &none);
        let step = |planner: &mut Planner, compares: &[(&str, Revision)], success: Vec<Op>| {
            let compares = compares.iter().map(|(k, r)| Compare::ModRevision((*k).into(), *r)).collect();
            planner.txn(&Txn { compares, success })
        };
        let revision = |result: Result<TxnResult, Error>| match result {
            Ok(TxnResult::Committed { revision, .. }) => Ok(revision),
            Ok(TxnResult::Conflict { .. }) => Err("conflict".to_string()),
            Err(error) => Err(error.to_string()),
        };
        type Case = (&'static [(&'static str, Revision)], Vec<Op>, Result<Revision, &'static str>);
        let cases: Vec<Case> = vec![
            (&[("a", 0)], vec![put("a", "1", 0)], Ok(11)),
            (&[("a", 0)], vec![put("a", "2", 0)], Err("conflict")),
            (&[], vec![put("a", "1", 0)], Ok(11)), // unchanged
            (&[("a", 11)], vec![put("a", "2", 0), put("b", "1", 0)], Ok(12)),
            (&[], vec![delete("x")], Ok(12)), // absent
            (&[], vec![delete("a"), put("b", "1", 0)], Ok(13)),
            (&[], vec![put("a", "3", 7)], Err("lease 7 not found")),
            (&[("a", 0)], vec![put("a", "3", 0)], Ok(14)),
        ];
        for (index, (compares, ops, want)) in cases.into_iter().enumerate() {
            let got = revision(step(&mut planner, compares, ops));
            assert_eq!(got, want.map_err(str::to_string), "case {index}");
        }
        let rows: Vec<_> =
            planner.commit.rows.iter().map(|r| (r.kv.mod_revision, r.before, r.deleted)).collect();
        let (a, b) = (position(11, 0), position(12, 0));
        assert_eq!(rows, [(11, 0, false), (12, a, false), (12, 0, false), (13, b, true), (14, 0, false)]);
        let versions: Vec<_> =
            planner.commit.rows.iter().map(|r| (r.kv.create_revision, r.kv.version)).collect();
        assert_eq!(versions, [(11, 1), (11, 2), (12, 1), (11, 0), (14, 1)]);
    }

    #[test]
    fn refusals() {
        for (txn, want) in [
            (vec![put("", "", 0)], "datastore txn: an empty key"),
            (vec![put("a", "", 0), delete("a")], "datastore txn: key \"a\" is written twice"),
            (vec![delete(&"x".repeat(1025))], "key is 1025 bytes, the limit is 1024"),
            (vec![put("a", &"x".repeat((4 << 20) + 1), 0)], "value is 4194305 bytes, the limit is 4194304"),
        ] {
            let refused = check(&Txn { compares: vec![], success: txn }).unwrap_err();
            assert_eq!(refused.to_string(), want);
        }
    }
}
