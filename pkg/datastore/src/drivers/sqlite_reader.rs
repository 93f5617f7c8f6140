//! SQLite: reads, each of one snapshot.

use super::sqlite_sql as sql;
use super::{History, Position, Selection, last_position, revision_of};
use crate::api::{Range, Revision};
use crate::bounds::Bounds;
use futures::TryStreamExt;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Connection, Row as _, SqliteConnection};

/// Any text is below any blob.
#[derive(Clone, Copy)]
enum End<'a> {
    Before(&'a str),
    Open,
}

macro_rules! bind_bounds {
    ($query:expr, $bounds:expr) => {{
        let query = $query.bind($bounds.start.as_str());
        match $bounds.end.as_deref().map_or(End::Open, End::Before) {
            End::Before(end) => query.bind(end),
            End::Open => query.bind(&[][..] as &[u8]),
        }
    }};
}

/// See [`super::Driver::range`].
pub(super) async fn select(
    readers: &SqlitePool,
    range: &Range,
    bounds: &Bounds,
) -> Result<Selection, sqlx::Error> {
    let mut reader = readers.acquire().await?;
    if range.count_only {
        return count(&mut reader, range, bounds).await;
    }
    if range.limit == 0 {
        return entries(&mut reader, range, bounds).await;
    }
    // Entries and count of a limited read come from one snapshot.
    let mut snapshot = reader.begin().await?;
    let mut found = entries(&mut snapshot, range, bounds).await?;
    if found.kvs.len() > range.limit {
        found.kvs.truncate(range.limit);
        found.more = true;
        found.count = count(&mut snapshot, range, bounds).await?.count;
    }
    snapshot.commit().await?;
    Ok(found)
}

/// See [`super::Driver::history`].
pub(super) async fn read_history(
    readers: &SqlitePool,
    after: Revision,
    upto: Revision,
    bounds: &Bounds,
    max_bytes: usize,
) -> Result<History, sqlx::Error> {
    let query = sqlx::query(sql::HISTORY).bind(last_position(after)).bind(last_position(upto));
    let mut stream = bind_bounds!(query, bounds).fetch(readers);
    let mut history = History { rows: Vec::new(), covered: upto };
    let mut bytes = 0;
    while let Some(row) = stream.try_next().await? {
        let entry = sql::log_row(&row)?;
        if let Some((last, _)) = history.rows.last()
            && bytes >= max_bytes
            && revision_of(last.position) != revision_of(entry.position)
        {
            history.covered = revision_of(last.position);
            break;
        }
        bytes += entry.kv.key.len() + entry.kv.value.len();
        let before = sql::state_before(&row, &entry.kv.key)?;
        history.rows.push((entry, before));
    }
    Ok(history)
}

fn newest(row: &SqliteRow) -> Result<Revision, sqlx::Error> {
    Ok(revision_of(row.try_get::<Option<Position>, _>(0)?.unwrap_or(0)))
}

/// The entries of a range, one more than the limit.
async fn entries(
    reader: &mut SqliteConnection,
    range: &Range,
    bounds: &Bounds,
) -> Result<Selection, sqlx::Error> {
    let limit = if range.limit == 0 { -1 } else { (range.limit as i64).saturating_add(1) };
    let text = match (range.revision, range.keys_only) {
        (None, false) => sql::PRESENT,
        (None, true) => sql::PRESENT_KEYS,
        (Some(_), false) => sql::PAST,
        (Some(_), true) => sql::PAST_KEYS,
    };
    let mut query = bind_bounds!(sqlx::query(text), bounds);
    if let Some(revision) = range.revision {
        query = query.bind(last_position(revision));
    }
    let mut found = Selection::default();
    for row in query.bind(limit).fetch_all(reader).await? {
        if row.try_get::<Option<Position>, _>(1)?.is_some() {
            found.kvs.push(sql::key_value(&row)?.1);
        } else {
            found.revision = newest(&row)?;
        }
    }
    // As it comes from the index; SQL does not promise it.
    if !found.kvs.is_sorted_by(|a, b| a.key < b.key) {
        found.kvs.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    }
    found.count = found.kvs.len();
    Ok(found)
}

async fn count(
    reader: &mut SqliteConnection,
    range: &Range,
    bounds: &Bounds,
) -> Result<Selection, sqlx::Error> {
    let text = if range.revision.is_some() { sql::PAST_COUNT } else { sql::PRESENT_COUNT };
    let mut query = bind_bounds!(sqlx::query(text), bounds);
    if let Some(revision) = range.revision {
        query = query.bind(last_position(revision));
    }
    let row = query.fetch_one(reader).await?;
    let count = usize::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0);
    Ok(Selection { count, revision: newest(&row)?, ..Selection::default() })
}
