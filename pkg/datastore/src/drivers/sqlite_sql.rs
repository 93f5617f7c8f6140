//! The SQLite statements, and rows out of their results.
//!
//! Multi-row statements come in a few fixed sizes, so that each is prepared once.

use super::{Position, Row, revision_of};
use crate::api::KeyValue;
use bytes::Bytes;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::sync::LazyLock;

/// Marks our files (`PRAGMA application_id`): "Knar".
pub(super) const APPLICATION_ID: i64 = 0x4b6e_6172;

/// `PRAGMA user_version` of this schema.
pub(super) const SCHEMA_VERSION: i64 = 1;

/// Large column last: reading the others does not touch its overflow pages.
pub(super) const CREATE: &[&str] = &[
    "CREATE TABLE log(pos INTEGER PRIMARY KEY, key TEXT NOT NULL, deleted INTEGER NOT NULL, created INTEGER NOT NULL, \
     version INTEGER NOT NULL, lease INTEGER NOT NULL, prev INTEGER NOT NULL, value BLOB NOT NULL)",
    "CREATE TABLE kv(key TEXT PRIMARY KEY, pos INTEGER NOT NULL, lease INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX kv_lease ON kv(lease) WHERE lease <> 0",
    "CREATE TABLE lease(id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, expires INTEGER NOT NULL)",
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta VALUES('compacted', 0), ('swept', 0)",
    "PRAGMA application_id = 1265525106",
    "PRAGMA user_version = 1",
];

/// The first row of a range read tells the newest position, of the same snapshot, even if nothing matches.
macro_rules! present {
    ($value:literal) => {
        concat!(
            "SELECT max(pos), NULL, NULL, NULL, NULL, NULL, NULL FROM log UNION ALL SELECT * FROM (\
             SELECT 0, kv.pos, kv.key, l.created, l.version, l.lease, ",
            $value,
            " FROM kv JOIN log l ON l.pos = kv.pos WHERE kv.key >= ?1 AND kv.key < ?2 ORDER BY kv.key LIMIT ?3)"
        )
    };
}
/// The present state, in key order.
pub(super) const PRESENT: &str = present!("l.value");
pub(super) const PRESENT_KEYS: &str = present!("x''");
pub(super) const PRESENT_COUNT: &str =
    "SELECT (SELECT max(pos) FROM log), count(*) FROM kv WHERE key >= ?1 AND key < ?2";

macro_rules! past {
    ($query:literal) => {
        concat!(
            "WITH later AS (SELECT key, min(pos), prev FROM log WHERE pos > ?3 AND key >= ?1 AND key < ?2 GROUP BY key), \
             state AS (SELECT key, pos FROM kv WHERE key >= ?1 AND key < ?2 AND pos <= ?3 \
             UNION ALL SELECT key, prev FROM later WHERE prev <> 0) ",
            $query
        )
    };
}
/// State at a position: what has not changed since, and for the rest the predecessor of the first later change. Only keys
/// and positions are sorted, not values.
pub(super) const PAST: &str = past!(
    "SELECT max(pos), NULL, NULL, NULL, NULL, NULL, NULL FROM log UNION ALL \
     SELECT 0, l.pos, l.key, l.created, l.version, l.lease, l.value \
     FROM (SELECT key, pos FROM state ORDER BY key LIMIT ?4) s CROSS JOIN log l ON l.pos = s.pos"
);
pub(super) const PAST_KEYS: &str = past!(
    "SELECT max(pos), NULL, NULL, NULL, NULL, NULL, NULL FROM log UNION ALL \
     SELECT 0, l.pos, l.key, l.created, l.version, l.lease, x'' \
     FROM (SELECT key, pos FROM state ORDER BY key LIMIT ?4) s CROSS JOIN log l ON l.pos = s.pos"
);
pub(super) const PAST_COUNT: &str = past!("SELECT (SELECT max(pos) FROM log), count(*) FROM state");

pub(super) const HISTORY: &str = "SELECT 0, l.pos, l.key, l.created, l.version, l.lease, l.value, l.deleted, l.prev, \
     p.pos, p.created, p.version, p.lease, p.value FROM log l LEFT JOIN log p ON l.prev <> 0 AND p.pos = l.prev \
     WHERE l.pos > ?1 AND l.pos <= ?2 AND l.key >= ?3 AND l.key < ?4 ORDER BY l.pos";

pub(super) const SWEEP_END: &str =
    "SELECT max(pos), count(*) FROM (SELECT pos FROM log WHERE pos > ?1 AND pos <= ?2 ORDER BY pos LIMIT ?3)";
pub(super) const SWEEP: &str = "DELETE FROM log WHERE pos IN (SELECT prev FROM log WHERE pos > ?1 AND pos <= ?2 \
     AND prev <> 0 UNION ALL SELECT pos FROM log WHERE pos > ?1 AND pos <= ?2 AND deleted <> 0)";

/// Living keys whose row is missing, another key's, or a deletion.
pub(super) const DANGLING: &str = "SELECT kv.key FROM kv LEFT JOIN log l ON l.pos = kv.pos \
     WHERE l.pos IS NULL OR l.key <> kv.key OR l.deleted <> 0 OR l.lease <> kv.lease LIMIT 1";

/// A statement in several sizes, largest first.
pub(super) struct Sized {
    variants: Vec<(usize, String)>,
}

impl Sized {
    fn new(head: &str, tuple: &str, tail: &str, sizes: &[usize]) -> Self {
        let text = |n: usize| format!("{head}{}{tail}", vec![tuple; n].join(","));
        Self { variants: sizes.iter().map(|n| (*n, text(*n))).collect() }
    }

    /// The largest variant of at most `n` tuples.
    pub(super) fn fitting(&self, n: usize) -> Option<(usize, &str)> {
        self.variants.iter().find(|(size, _)| *size <= n).map(|(size, sql)| (*size, sql.as_str()))
    }

    /// The smallest variant of at least `n` tuples, or the largest there is.
    pub(super) fn covering(&self, n: usize) -> Option<(usize, &str)> {
        let covering = self.variants.iter().rev().find(|(size, _)| *size >= n);
        covering.or(self.variants.first()).map(|(size, sql)| (*size, sql.as_str()))
    }
}

/// A statement costs a trip to the connection's thread, so the first read also begins the transaction ...
pub(super) static BEGIN_SELECT_ROWS: LazyLock<Sized> = LazyLock::new(|| {
    let head = "BEGIN IMMEDIATE; SELECT 0, l.pos, l.key, l.created, l.version, l.lease, l.value, l.deleted, l.prev \
                FROM kv JOIN log l ON l.pos = kv.pos WHERE kv.key IN (";
    Sized::new(head, "?", ")", READ_SIZES)
});
pub(super) static SELECT_ROWS: LazyLock<Sized> = LazyLock::new(|| {
    let head = "SELECT 0, l.pos, l.key, l.created, l.version, l.lease, l.value, l.deleted, l.prev \
                FROM kv JOIN log l ON l.pos = kv.pos WHERE kv.key IN (";
    Sized::new(head, "?", ")", READ_SIZES)
});
const READ_SIZES: &[usize] = &[128, 32, 8, 2, 1];
/// ... and the commonest write, one row that lives, also ends it.
pub(super) const PUT_COMMIT: &str = "INSERT INTO log(pos, key, deleted, created, version, lease, prev, value) \
     VALUES (?,?,?,?,?,?,?,?); INSERT INTO kv(key, pos, lease) VALUES (?,?,?) \
     ON CONFLICT(key) DO UPDATE SET pos = excluded.pos, lease = excluded.lease; COMMIT";
pub(super) static INSERT_LOG: LazyLock<Sized> = LazyLock::new(|| {
    let head = "INSERT INTO log(pos, key, deleted, created, version, lease, prev, value) VALUES ";
    Sized::new(head, "(?,?,?,?,?,?,?,?)", "", &[32, 8, 2, 1])
});
pub(super) static UPSERT_KV: LazyLock<Sized> = LazyLock::new(|| {
    let tail = " ON CONFLICT(key) DO UPDATE SET pos = excluded.pos, lease = excluded.lease";
    Sized::new("INSERT INTO kv(key, pos, lease) VALUES ", "(?,?,?)", tail, &[32, 8, 2, 1])
});
pub(super) static DELETE_KV: LazyLock<Sized> =
    LazyLock::new(|| Sized::new("DELETE FROM kv WHERE key IN (", "?", ")", &[32, 8, 2, 1]));

/// Columns 1 to 6 of every read above.
pub(super) fn key_value(row: &SqliteRow) -> Result<(Position, KeyValue), sqlx::Error> {
    let position: Position = row.try_get(1)?;
    let kv = KeyValue {
        key: row.try_get(2)?,
        create_revision: row.try_get(3)?,
        mod_revision: revision_of(position),
        version: row.try_get(4)?,
        lease: row.try_get(5)?,
        value: Bytes::from(row.try_get::<Vec<u8>, _>(6)?),
    };
    Ok((position, kv))
}

/// Columns 1 to 8.
pub(super) fn log_row(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let (position, kv) = key_value(row)?;
    Ok(Row { position, kv, deleted: row.try_get(7)?, before: row.try_get(8)? })
}

/// Columns 9 to 13 of [`HISTORY`].
pub(super) fn state_before(row: &SqliteRow, key: &str) -> Result<Option<KeyValue>, sqlx::Error> {
    let Some(position) = row.try_get::<Option<Position>, _>(9)? else {
        return Ok(None);
    };
    Ok(Some(KeyValue {
        key: key.to_string(),
        create_revision: row.try_get(10)?,
        mod_revision: revision_of(position),
        version: row.try_get(11)?,
        lease: row.try_get(12)?,
        value: Bytes::from(row.try_get::<Vec<u8>, _>(13)?),
    }))
}
