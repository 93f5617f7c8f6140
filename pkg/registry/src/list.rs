//! LIST: which state is read, and pages of it.

use std::sync::Arc;

use knarr_datastore::{Range, Revision};
use knarr_kinds::Kind;
use knarr_machinery::ApiError;
use knarr_machinery::status::Cause;

use crate::cache::{Cache, Entry};
use crate::error;
use crate::registry::Registry;
use crate::select::Selection;
use crate::token::{self, Continue};

/// Reason of the cause that carries the token for an inconsistent continuation; the HTTP edge moves it to
/// `Status.metadata.continue`.
pub const CONTINUE_CAUSE: &str = "knarr/continue";

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// Exactly that state.
    Exact,
    /// That state or a newer one.
    NotOlderThan,
}

/// What a list asks for.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Selectors.
    pub selection: Selection,
    /// `resourceVersion`, "" if absent.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub version_match: Option<VersionMatch>,
    /// `limit`, 0 is none.
    pub limit: usize,
    /// `continue`, "" if absent.
    pub continue_token: String,
}

/// A page.
#[derive(Debug)]
pub struct ListPage {
    /// The objects, in key order.
    pub entries: Vec<Arc<Entry>>,
    /// `metadata.resourceVersion` of the list.
    pub revision: Revision,
    /// `metadata.continue`, "" on the last page.
    pub continue_token: String,
    /// `metadata.remainingItemCount`, where upstream tells it.
    pub remaining: Option<i64>,
}

enum State {
    /// The newest state.
    Newest,
    /// At least this state.
    AtLeast(Revision),
    /// This state.
    Exact(Revision),
}

/// Parses a resourceVersion parameter; "" is None.
///
/// # Errors
/// 400 or 422 text of upstream for what is no number.
pub fn parse_version(text: &str) -> Result<Option<Revision>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse::<u64>().ok().and_then(|v| Revision::try_from(v).ok()).map(Some).ok_or_else(|| {
        ApiError::unexplained(format!(
            "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

impl Registry {
    /// Lists objects of a kind; `namespace` "" lists all namespaces.
    ///
    /// # Errors
    /// 410 for states that are gone, 504 for states of the future, 400 for bad parameters.
    pub async fn list(
        &self,
        kind: &Kind,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<ListPage, ApiError> {
        if kind.rules.conversion().is_some() {
            return self.list_converted(kind, namespace, options).await;
        }
        self.list_stored(kind, namespace, options).await
    }

    /// As [`Registry::list`], for a kind that a webhook converts: fields are selected by the version asked for.
    async fn list_converted(
        &self,
        kind: &Kind,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<ListPage, ApiError> {
        let (stored, selected) = options.selection.clone().without_fields();
        if !selected {
            let page = self.list_stored(kind, namespace, options).await?;
            return Ok(ListPage { entries: self.told(kind, page.entries).await?, ..page });
        }
        // What a page holds is known only after conversion: all are converted, then counted.
        let whole = ListOptions { selection: stored, limit: 0, ..options.clone() };
        let page = self.list_stored(kind, namespace, &whole).await?;
        let mut entries = self.told(kind, page.entries).await?;
        entries.retain(|e| options.selection.matches(e));
        let beyond = (options.limit > 0 && entries.len() > options.limit).then_some(1);
        if beyond.is_some() {
            entries.truncate(options.limit);
        }
        let cache = self.cache(kind).await?;
        let prefix = self.list_prefix(kind, &cache, namespace);
        Ok(finish_page(entries, page.revision, &prefix, beyond, false))
    }

    async fn list_stored(
        &self,
        kind: &Kind,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<ListPage, ApiError> {
        let cache = self.cache(kind).await?;
        let prefix = self.list_prefix(kind, &cache, namespace);
        let (state, start) = requested_state(options, &prefix)?;
        match state {
            State::Newest => {
                self.catch_up().await?;
                Ok(self.page_of_cache(&cache, &prefix, &start, options, None))
            }
            State::AtLeast(revision) => {
                if revision > 0 {
                    self.wait_reached(revision).await?;
                }
                Ok(self.page_of_cache(&cache, &prefix, &start, options, None))
            }
            State::Exact(revision) => {
                self.wait_reached(revision).await?;
                // Tokens of forgotten states end, even where nothing changed since; history refuses them.
                let forgotten = !options.continue_token.is_empty() && revision < self.store().compacted();
                if cache.newest() <= revision && !forgotten {
                    return Ok(self.page_of_cache(&cache, &prefix, &start, options, Some(revision)));
                }
                self.page_of_history(kind, &prefix, &start, options, revision).await
            }
        }
    }

    fn page_of_cache(
        &self,
        cache: &Cache,
        prefix: &str,
        start: &str,
        options: &ListOptions,
        exact: Option<Revision>,
    ) -> ListPage {
        let before = self.feed().revision();
        let selection = &options.selection;
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut beyond = 0_i64;
        let count_all = selection.is_everything();
        let newest = cache.scan(prefix, start, |entry| {
            if options.limit > 0 && entries.len() == options.limit {
                if count_all || selection.matches(entry) {
                    beyond += 1;
                }
                // Without selectors the rest is counted for remainingItemCount.
                return count_all || beyond == 0;
            }
            if selection.matches(entry) {
                entries.push(entry.clone());
            }
            true
        });
        let revision = exact.unwrap_or_else(|| before.max(newest));
        finish_page(entries, revision, prefix, (beyond > 0).then_some(beyond), count_all)
    }

    async fn page_of_history(
        &self,
        kind: &Kind,
        prefix: &str,
        start: &str,
        options: &ListOptions,
        revision: Revision,
    ) -> Result<ListPage, ApiError> {
        let stored = self.storage_kind(kind)?;
        let end = knarr_datastore::prefix_end(prefix);
        let mut from = start.to_string();
        let mut entries = Vec::new();
        let mut beyond = None;
        'pages: loop {
            let range = Range {
                start: from.clone(),
                end: Some(end.clone()),
                revision: Some(revision),
                limit: if options.limit > 0 { options.limit + 1 } else { 0 },
                ..Range::default()
            };
            let result = self.store().range(range).await.map_err(|e| expired(e, options, start, prefix))?;
            let total = result.count as i64;
            for (i, kv) in result.kvs.iter().enumerate() {
                if options.limit > 0 && entries.len() == options.limit {
                    beyond = Some(total - i as i64);
                    break 'pages;
                }
                let entry = Entry::new(&stored, &kv.key, &kv.value, kv.mod_revision)?;
                if options.selection.matches(&entry) {
                    entries.push(Arc::new(entry));
                }
            }
            match result.kvs.last() {
                Some(last) if result.more => from = format!("{}\0", last.key),
                _ => break,
            }
        }
        Ok(finish_page(entries, revision, prefix, beyond, options.selection.is_everything()))
    }
}

fn finish_page(
    entries: Vec<Arc<Entry>>,
    revision: Revision,
    prefix: &str,
    beyond: Option<i64>,
    count_all: bool,
) -> ListPage {
    let next = match (beyond, entries.last()) {
        (Some(_), Some(last)) => {
            let start = format!("{}\0", last.key.strip_prefix(prefix).unwrap_or(&last.key));
            token::encode(&Continue { revision, start })
        }
        _ => String::new(),
    };
    ListPage { entries, revision, continue_token: next, remaining: beyond.filter(|_| count_all) }
}

fn requested_state(options: &ListOptions, prefix: &str) -> Result<(State, String), ApiError> {
    if !options.continue_token.is_empty() {
        if !options.resource_version.is_empty() && options.resource_version != "0" {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = token::decode(&options.continue_token)?;
        let start = format!("{prefix}{}", token.start);
        let state = if token.revision > 0 { State::Exact(token.revision) } else { State::Newest };
        return Ok((state, start));
    }
    let version = parse_version(&options.resource_version)
        .map_err(|e| ApiError::bad_request(format!("invalid resource version: {}", e.message)))?;
    let state = match (version, options.version_match) {
        (None, _) => State::Newest,
        (Some(0), _) => State::AtLeast(0),
        (Some(v), Some(VersionMatch::Exact)) => State::Exact(v),
        (Some(v), Some(VersionMatch::NotOlderThan)) => State::AtLeast(v),
        (Some(v), None) if options.limit > 0 => State::Exact(v),
        (Some(v), None) => State::AtLeast(v),
    };
    Ok((state, prefix.to_string()))
}

/// A compacted page tells how to go on inconsistently, as upstream does.
fn expired(error: knarr_datastore::Error, options: &ListOptions, start: &str, prefix: &str) -> ApiError {
    if !matches!(error, knarr_datastore::Error::Compacted { .. }) || options.continue_token.is_empty() {
        return error::from_store(error);
    }
    let start = start.strip_prefix(prefix).unwrap_or(start).to_string();
    ApiError::expired(EXPIRED_CONTINUE).with_causes(vec![Cause {
        reason: CONTINUE_CAUSE.into(),
        message: token::encode(&Continue { revision: -1, start }),
        field: String::new(),
    }])
}

const EXPIRED_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
