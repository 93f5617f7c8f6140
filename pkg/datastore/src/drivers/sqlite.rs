//! `sqlite:///path`: one file in WAL mode. One connection writes, a small pool reads snapshots.
//!
//! `synchronous=FULL`: a commit returns when it is on the disk. A lock file keeps a second process out.

use super::revision_of;
use super::sqlite_reader::{read_history, select};
use super::sqlite_sql as sql;
use super::sqlite_writer::{WAL_CAP_BYTES, Writer};
use super::{Driver, History, LeaseRow, Loaded, Plan, Position, Selection};
use crate::api::{Error, LeaseId, Options, Range, Revision};
use crate::bounds::Bounds;
use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row as _, SqliteConnection};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Fixed when a file is created. Larger than SQLite's default: objects of a few KB then share pages.
const PAGE_BYTES: u32 = 8192;
/// The WAL is folded into the file after this many pages.
const CHECKPOINT_PAGES: u32 = 2000;

struct Sqlite {
    path: String,
    wal: PathBuf,
    writer: Mutex<Option<Writer>>,
    readers: SqlitePool,
    lock: Mutex<Option<File>>,
}

pub(super) async fn open(endpoint: String, options: Options) -> Result<Arc<dyn Driver>, Error> {
    let path = endpoint.strip_prefix("sqlite://").unwrap_or_default();
    if path.is_empty() || path.contains('?') {
        let detail = "give a file as sqlite:///path/to/state.db, without parameters".to_string();
        return Err(Error::Unsupported { path: endpoint, detail });
    }
    let lock = lock_file(path)?;
    let fault = |error| fault(path, "open", error);
    let connect = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10));
    let connect = connect.disable_statement_logging();
    let mut writing = connect
        .clone()
        .page_size(PAGE_BYTES)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
        .pragma("journal_size_limit", (WAL_CAP_BYTES / 2).to_string())
        .pragma("cache_size", "-8192");
    if let Some(max) = options.max_bytes {
        writing = writing.pragma("max_page_count", (max / u64::from(PAGE_BYTES)).max(1).to_string());
    }
    let mut writer = writing.connect().await.map_err(fault)?;
    if let Err(error) = prepare_schema(path, &mut writer).await {
        if let Err(error) = writer.close().await {
            tracing::debug!(path, %error, "closing a file that cannot be used");
        }
        return Err(error);
    }
    let size = std::thread::available_parallelism().map_or(4, |n| n.get().clamp(2, 8));
    // No idle timeout and no lifetime: either would start a ticking task.
    let readers = SqlitePoolOptions::new().max_connections(size as u32).idle_timeout(None).max_lifetime(None);
    let readers = readers.test_before_acquire(false);
    let readers = readers.connect_lazy_with(connect.pragma("query_only", "1").pragma("cache_size", "-2048"));
    let wal = PathBuf::from(format!("{path}-wal"));
    Ok(Arc::new(Sqlite {
        path: path.to_string(),
        wal: wal.clone(),
        writer: Mutex::new(Some(Writer::new(writer, wal))),
        readers,
        lock: Mutex::new(Some(lock)),
    }))
}

/// Makes directory and file (for the owner alone) and takes the lock.
fn lock_file(path: &str) -> Result<File, Error> {
    let failed = |what: &str, error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Error::Full { path: path.to_string() };
        }
        Error::Driver { operation: "open", detail: format!("{what}: {error}") }
    };
    if let Some(parent) = Path::new(path).parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(|error| failed(&parent.display().to_string(), error))?;
    }
    let owned = |name: &str| {
        let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(name);
        file.map_err(|error| failed(name, error))
    };
    owned(path)?;
    let name = format!("{path}.lock");
    let lock = owned(&name)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            let detail = format!("another process holds {name}: only one server may use this file");
            Err(Error::Unsupported { path: path.to_string(), detail })
        }
        Err(std::fs::TryLockError::Error(error)) => Err(failed(&name, error)),
    }
}

async fn prepare_schema(path: &str, connection: &mut SqliteConnection) -> Result<(), Error> {
    let fault = |error| fault(path, "open", error);
    let number = |row: SqliteRow| row.try_get::<i64, _>(0);
    let application =
        number(sqlx::query("PRAGMA application_id").fetch_one(&mut *connection).await.map_err(fault)?);
    let version =
        number(sqlx::query("PRAGMA user_version").fetch_one(&mut *connection).await.map_err(fault)?);
    let tables =
        sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await.map_err(fault)?;
    let (application, version) = (application.map_err(fault)?, version.map_err(fault)?);
    let tables = number(tables).map_err(fault)?;
    let unsupported = |detail: String| Err(Error::Unsupported { path: path.to_string(), detail });
    if application == 0 && version == 0 && tables == 0 {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(fault)?;
        for statement in sql::CREATE {
            sqlx::query(*statement).execute(&mut *transaction).await.map_err(fault)?;
        }
        return transaction.commit().await.map_err(fault);
    }
    if application != sql::APPLICATION_ID {
        return unsupported("is an SQLite file of another application".to_string());
    }
    if version != sql::SCHEMA_VERSION {
        let ours = sql::SCHEMA_VERSION;
        return unsupported(format!("has schema version {version}, this build supports {ours}"));
    }
    Ok(())
}

/// SQLite's primary result codes, and the extended one for a full disk met while growing the shared memory file.
fn fault(path: &str, operation: &'static str, error: sqlx::Error) -> Error {
    let code = match &error {
        sqlx::Error::Database(error) => error.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0),
        sqlx::Error::ColumnDecode { .. } => 11,
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => return Error::Closed,
        _ => 0,
    };
    match (code, code & 0xff) {
        (_, 13) | (4874, _) => Error::Full { path: path.to_string() },
        (_, 11 | 26) => Error::Corrupt { path: path.to_string(), detail: format!("{operation}: {error}") },
        _ => Error::Driver { operation, detail: format!("{path}: {error}") },
    }
}

impl Sqlite {
    fn fault(&self, operation: &'static str) -> impl Fn(sqlx::Error) -> Error + '_ {
        move |error| fault(&self.path, operation, error)
    }
}

#[async_trait]
impl Driver for Sqlite {
    fn path(&self) -> &str {
        &self.path
    }

    async fn load(&self) -> Result<Loaded, Error> {
        let fault = self.fault("load");
        let mut guard = self.writer.lock().await;
        let writer = guard.as_mut().ok_or(Error::Closed)?;
        let newest = sqlx::query("SELECT max(pos) FROM log").fetch_one(writer.connection()).await;
        let newest = newest.and_then(|row| row.try_get::<Option<Position>, _>(0)).map_err(&fault)?;
        let compacted =
            writer.number("SELECT value FROM meta WHERE name = 'compacted'").await.map_err(&fault)?;
        let swept = writer.number("SELECT value FROM meta WHERE name = 'swept'").await.map_err(&fault)?;
        let rows = sqlx::query("SELECT id, ttl, expires FROM lease")
            .fetch_all(writer.connection())
            .await
            .map_err(&fault)?;
        let lease = |row: SqliteRow| {
            Ok(LeaseRow {
                id: row.try_get(0)?,
                ttl_seconds: row.try_get(1)?,
                expires_at_millis: row.try_get(2)?,
            })
        };
        let leases = rows.into_iter().map(lease).collect::<Result<_, _>>().map_err(&fault)?;
        let revision = revision_of(newest.unwrap_or(0)).max(compacted);
        Ok(Loaded { revision, compacted, swept, leases })
    }

    async fn transact(&self, keys: &[String], plan: Plan<'_>) -> Result<(), Error> {
        let mut guard = self.writer.lock().await;
        let writer = guard.as_mut().ok_or(Error::Closed)?;
        writer.transact(keys, plan).await.map_err(self.fault("write"))
    }

    async fn range(&self, range: &Range) -> Result<Selection, Error> {
        let bounds = Bounds::new(&range.start, range.end.as_deref());
        select(&self.readers, range, &bounds).await.map_err(self.fault("range"))
    }

    async fn history(
        &self,
        after: Revision,
        upto: Revision,
        bounds: &Bounds,
        max: usize,
    ) -> Result<History, Error> {
        read_history(&self.readers, after, upto, bounds, max).await.map_err(self.fault("history"))
    }

    async fn leased_keys(&self, lease: LeaseId) -> Result<Vec<String>, Error> {
        let text = "SELECT key FROM kv WHERE lease = ?1 AND lease <> 0 ORDER BY key";
        let rows = sqlx::query_scalar(text).bind(lease).fetch_all(&self.readers).await;
        rows.map_err(self.fault("lease"))
    }

    async fn set_compacted(&self, revision: Revision) -> Result<(), Error> {
        let mut guard = self.writer.lock().await;
        let writer = guard.as_mut().ok_or(Error::Closed)?;
        let query = sqlx::query("UPDATE meta SET value = ?1 WHERE name = 'compacted'").bind(revision);
        query.execute(writer.connection()).await.map_err(self.fault("compact"))?;
        Ok(())
    }

    async fn sweep(&self, from: Position, upto: Position, limit: usize) -> Result<Position, Error> {
        let mut guard = self.writer.lock().await;
        let writer = guard.as_mut().ok_or(Error::Closed)?;
        writer.sweep(from, upto, limit).await.map_err(self.fault("compact"))
    }

    async fn reclaim(&self) -> Result<bool, Error> {
        let mut guard = self.writer.lock().await;
        let writer = guard.as_mut().ok_or(Error::Closed)?;
        writer.reclaim().await.map_err(self.fault("reclaim"))
    }

    async fn size_bytes(&self) -> Result<u64, Error> {
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        Ok(bytes(Path::new(&self.path)) + bytes(&self.wal))
    }

    async fn check_integrity(&self) -> Result<(), Error> {
        let fault = self.fault("check");
        let corrupt = |detail| Err(Error::Corrupt { path: self.path.clone(), detail });
        let check =
            sqlx::query_scalar::<_, String>("PRAGMA integrity_check(10)").fetch_all(&self.readers).await;
        let findings = check.map_err(&fault)?;
        if findings != ["ok"] {
            return corrupt(findings.join("; "));
        }
        let dangling = sqlx::query_scalar::<_, String>(sql::DANGLING).fetch_optional(&self.readers).await;
        match dangling.map_err(&fault)? {
            Some(key) => corrupt(format!("key {key:?} has no row in the log")),
            None => Ok(()),
        }
    }

    async fn close(&self) {
        self.readers.close().await;
        let Some(writer) = self.writer.lock().await.take() else {
            return;
        };
        if let Err(error) = writer.close().await {
            tracing::warn!(path = self.path, %error, "closing the datastore");
        }
        drop(self.lock.lock().await.take());
    }
}
