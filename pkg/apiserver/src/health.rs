//! `/healthz`, `/livez`, `/readyz`: named checks, told one by one with `?verbose`.

use std::sync::Arc;

use axum::response::Response;
use knarr_machinery::ApiError;
use parking_lot::RwLock;

use crate::info::{Query, RequestInfo};
use crate::respond;
use crate::server::Inner;

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Which endpoints ask a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Always,
    /// `/readyz` only: the process lives but should get no traffic yet.
    Ready,
}

/// The checks, in the order in which they were added.
#[derive(Default)]
pub struct Checks(RwLock<Vec<(String, Scope, Check)>>);

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.read().iter().map(|(n, ..)| n)).finish()
    }
}

impl Checks {
    /// Adds a check; the text of a failure goes to the log, not to clients.
    pub fn add(
        &self,
        name: &str,
        scope: Scope,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.0.write().push((name.to_string(), scope, Arc::new(check)));
    }
}

impl Checks {
    /// Runs all checks.
    pub fn run(&self) -> Vec<(String, Result<(), String>)> {
        let checks = self.0.read().clone();
        checks.into_iter().map(|(name, _, check)| (name, check())).collect()
    }
}

/// Paths that anonymous clients may read.
pub fn is_public(info: &RequestInfo) -> bool {
    is_health(info) && matches!(info.verb.as_str(), "get" | "head")
}

/// Whether the path is one of the three endpoints or below.
pub fn is_health(info: &RequestInfo) -> bool {
    let root = info.path.trim_start_matches('/').split('/').next().unwrap_or("");
    !info.is_resource && matches!(root, "healthz" | "livez" | "readyz")
}

/// Answers.
///
/// # Errors
/// 404 for an unknown single check.
pub(crate) fn serve(server: &Arc<Inner>, info: &RequestInfo, query: &Query) -> Result<Response, ApiError> {
    let mut parts = info.path.trim_matches('/').split('/');
    let endpoint = parts.next().unwrap_or("").to_string();
    let single = parts.next();
    let checks = server.ready.0.read().clone();
    let mut asked: Vec<(String, Check)> = vec![("ping".into(), Arc::new(|| Ok(())))];
    let shutdown = server.shutdown.clone();
    if endpoint == "readyz" {
        asked.push((
            "shutdown".into(),
            Arc::new(move || if shutdown.is_cancelled() { Err("shutting down".into()) } else { Ok(()) }),
        ));
    }
    asked.extend(
        checks
            .into_iter()
            .filter(|(_, scope, _)| *scope == Scope::Always || endpoint == "readyz")
            .map(|(n, _, c)| (n, c)),
    );
    if let Some(single) = single {
        let check = asked.iter().find(|(n, _)| n == single).ok_or_else(ApiError::path_not_found)?;
        return Ok(match (check.1)() {
            Ok(()) => respond::text(200, "ok"),
            Err(e) => respond::text(500, format!("internal server error: {e}\n")),
        });
    }
    let mut report = String::new();
    let mut failed = false;
    for (name, check) in &asked {
        if query.all("exclude").any(|e| e == name) {
            report.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check() {
            Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
            Err(error) => {
                failed = true;
                tracing::warn!(%endpoint, check = %name, %error, "health check failed");
                report.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if failed {
        return Ok(respond::text(500, format!("{report}{endpoint} check failed\n")));
    }
    if query.get("verbose").is_some() {
        return Ok(respond::text(200, format!("{report}{endpoint} check passed\n")));
    }
    Ok(respond::text(200, "ok"))
}
