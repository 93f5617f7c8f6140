//! The one SQLite connection that writes.

use super::sqlite_sql as sql;
use super::{Commit, LeaseChange, Plan, Position, Row};
use sqlx::{AssertSqlSafe, Connection, Row as _, SqliteConnection};
use std::collections::HashMap;
use std::path::PathBuf;

/// The WAL is cut back, waiting for readers, when it got this large in spite of checkpoints.
pub(super) const WAL_CAP_BYTES: u64 = 128 << 20;
/// Pages given back in one step.
const RECLAIM_PAGES: i64 = 512;

/// Transactions are counted here and not by sqlx: SQLite ends one by itself when the disk is full, and a caller may go
/// away in the middle of one; either way the next begins cleanly.
pub(super) struct Writer {
    connection: SqliteConnection,
    wal: PathBuf,
    in_transaction: bool,
}

impl Writer {
    pub(super) fn new(connection: SqliteConnection, wal: PathBuf) -> Self {
        Self { connection, wal, in_transaction: false }
    }

    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    pub(super) async fn number(&mut self, text: &'static str) -> Result<i64, sqlx::Error> {
        sqlx::query(text).fetch_one(&mut self.connection).await?.try_get(0)
    }

    pub(super) async fn execute(&mut self, text: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(text).execute(&mut self.connection).await.map(drop)
    }

    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        if self.in_transaction {
            self.rollback().await;
        }
        self.in_transaction = true;
        self.execute("BEGIN IMMEDIATE").await
    }

    async fn rollback(&mut self) {
        // Fails if SQLite has rolled back already, which is as well.
        if let Err(error) = self.execute("ROLLBACK").await {
            tracing::debug!(%error, "rollback");
        }
        self.in_transaction = false;
    }

    pub(super) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.execute("COMMIT").await?;
        self.committed().await;
        Ok(())
    }

    async fn committed(&mut self) {
        self.in_transaction = false;
        let large = std::fs::metadata(&self.wal).is_ok_and(|meta| meta.len() > WAL_CAP_BYTES);
        if large && let Err(error) = self.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
            tracing::warn!(wal = %self.wal.display(), %error, "cannot truncate the write-ahead log");
        }
    }

    /// See [`super::Driver::transact`].
    pub(super) async fn transact(&mut self, keys: &[String], plan: Plan<'_>) -> Result<(), sqlx::Error> {
        if keys.is_empty() {
            self.begin().await?;
        } else if self.in_transaction {
            self.rollback().await;
        }
        self.in_transaction = true;
        let done = self.write(keys, plan).await;
        if self.in_transaction {
            self.rollback().await;
        }
        done
    }

    async fn write(&mut self, keys: &[String], plan: Plan<'_>) -> Result<(), sqlx::Error> {
        let commit = plan(self.present_rows(keys).await?);
        if commit.is_empty() {
            return Ok(());
        }
        if let ([row], []) = (commit.rows.as_slice(), commit.leases.as_slice())
            && !row.deleted
        {
            let query = bind_row(sqlx::query(sql::PUT_COMMIT), row);
            let query = query.bind(row.kv.key.as_str()).bind(row.position).bind(row.kv.lease);
            query.execute(&mut self.connection).await?;
            self.committed().await;
            return Ok(());
        }
        self.append(&commit.rows).await?;
        self.point(&commit).await?;
        self.change_leases(&commit.leases).await?;
        self.commit().await
    }

    async fn present_rows(&mut self, mut keys: &[String]) -> Result<HashMap<String, Row>, sqlx::Error> {
        let mut present = HashMap::new();
        let mut statements = &*sql::BEGIN_SELECT_ROWS;
        while let (Some(last), Some((size, text))) = (keys.last(), statements.covering(keys.len())) {
            let (part, rest) = keys.split_at(size.min(keys.len()));
            let mut query = sqlx::query(AssertSqlSafe(text));
            for index in 0..size {
                query = query.bind(part.get(index).unwrap_or(last).as_str());
            }
            for row in query.fetch_all(&mut self.connection).await? {
                let row = sql::log_row(&row)?;
                present.insert(row.kv.key.clone(), row);
            }
            keys = rest;
            statements = &*sql::SELECT_ROWS;
        }
        Ok(present)
    }

    async fn append(&mut self, mut rows: &[Row]) -> Result<(), sqlx::Error> {
        while let Some((size, text)) = sql::INSERT_LOG.fitting(rows.len()) {
            let (part, rest) = rows.split_at(size);
            let mut query = sqlx::query(AssertSqlSafe(text));
            for row in part {
                query = bind_row(query, row);
            }
            query.execute(&mut self.connection).await?;
            rows = rest;
        }
        Ok(())
    }

    /// Points every key at its last row.
    async fn point(&mut self, commit: &Commit) -> Result<(), sqlx::Error> {
        let last = commit.final_rows().into_values();
        let (dead, living): (Vec<_>, Vec<_>) = last.partition(|row| row.deleted);
        let mut living = living.as_slice();
        while let Some((size, text)) = sql::UPSERT_KV.fitting(living.len()) {
            let (part, rest) = living.split_at(size);
            let mut query = sqlx::query(AssertSqlSafe(text));
            for row in part {
                query = query.bind(row.kv.key.as_str()).bind(row.position).bind(row.kv.lease);
            }
            query.execute(&mut self.connection).await?;
            living = rest;
        }
        let mut dead = dead.as_slice();
        while let Some((size, text)) = sql::DELETE_KV.fitting(dead.len()) {
            let (part, rest) = dead.split_at(size);
            let mut query = sqlx::query(AssertSqlSafe(text));
            for row in part {
                query = query.bind(row.kv.key.as_str());
            }
            query.execute(&mut self.connection).await?;
            dead = rest;
        }
        Ok(())
    }

    async fn change_leases(&mut self, changes: &[LeaseChange]) -> Result<(), sqlx::Error> {
        for change in changes {
            let query = match change {
                LeaseChange::Put(lease) => {
                    sqlx::query("INSERT OR REPLACE INTO lease(id, ttl, expires) VALUES (?,?,?)")
                        .bind(lease.id)
                        .bind(lease.ttl_seconds)
                        .bind(lease.expires_at_millis)
                }
                LeaseChange::Remove(id) => sqlx::query("DELETE FROM lease WHERE id = ?").bind(id),
            };
            query.execute(&mut self.connection).await?;
        }
        Ok(())
    }

    /// See [`super::Driver::sweep`].
    pub(super) async fn sweep(
        &mut self,
        from: Position,
        upto: Position,
        limit: usize,
    ) -> Result<Position, sqlx::Error> {
        self.begin().await?;
        let done = self.sweep_step(from, upto, limit).await;
        if self.in_transaction {
            self.rollback().await;
        }
        done
    }

    async fn sweep_step(
        &mut self,
        from: Position,
        upto: Position,
        limit: usize,
    ) -> Result<Position, sqlx::Error> {
        let query = sqlx::query(sql::SWEEP_END).bind(from).bind(upto).bind(limit as i64);
        let row = query.fetch_one(&mut self.connection).await?;
        let visited: i64 = row.try_get(1)?;
        let end: Option<Position> = row.try_get(0)?;
        let reached = if visited < limit as i64 { upto } else { end.unwrap_or(upto) };
        let query = sqlx::query(sql::SWEEP).bind(from).bind(reached);
        query.execute(&mut self.connection).await?;
        let query = sqlx::query("UPDATE meta SET value = ?1 WHERE name = 'swept'").bind(reached);
        query.execute(&mut self.connection).await?;
        self.commit().await?;
        Ok(reached)
    }

    /// See [`super::Driver::reclaim`].
    pub(super) async fn reclaim(&mut self) -> Result<bool, sqlx::Error> {
        let free = self.number("PRAGMA freelist_count").await?;
        let pages = self.number("PRAGMA page_count").await?;
        // Some free pages are left: the log is about to need them again.
        if free < 2 * RECLAIM_PAGES || free * 4 < pages {
            return Ok(false);
        }
        self.begin().await?;
        let vacuum = sqlx::query("PRAGMA incremental_vacuum(512)");
        vacuum.fetch_all(&mut self.connection).await?;
        self.commit().await?;
        Ok(self.number("PRAGMA freelist_count").await? < free)
    }

    /// Folds the log into the file and closes it.
    pub(super) async fn close(mut self) -> Result<(), sqlx::Error> {
        if self.in_transaction {
            self.rollback().await;
        }
        let folded = self.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
        folded.and(self.connection.close().await)
    }
}

type SqliteQuery<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// The columns of a log row.
fn bind_row<'q>(query: SqliteQuery<'q>, row: &Row) -> SqliteQuery<'q> {
    let kv = &row.kv;
    let query = query.bind(row.position).bind(kv.key.as_str()).bind(row.deleted);
    let query = query.bind(kv.create_revision).bind(kv.version).bind(kv.lease);
    query.bind(row.before).bind(&kv.value[..])
}
