//! Admission webhooks: their configurations as a snapshot that a watch feeds, and the call of one of them.
//!
//! Entry points: [`Snapshot`] and [`Webhook::invoke`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use knarr_client::{Cached, Event, Store};
use knarr_kinds::expressions::Environment;
use knarr_machinery::ApiError;
use kube::ResourceExt as _;
use parking_lot::Mutex;
use serde_json::Value;

use crate::evaluate::{Conditions, Scene, Verdict};
use crate::metrics::{METRICS, Outcome};
use crate::ready::Ready;
use crate::request::Request;
use crate::review::{self, Answer};
use crate::rules::Criteria;
use crate::state::{Context, Server};
use crate::versions::{Matcher, Target};

const TIMEOUT: u64 = 10;

/// One webhook of a configuration.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub name: String,
    /// Tells webhooks of the same name apart.
    pub uid: String,
    pub criteria: Criteria,
    pub conditions: Conditions,
    /// Whether a request goes on when the webhook cannot be asked.
    pub ignores_failures: bool,
    /// Whether it may be asked about a dry run.
    dry: bool,
    pub reinvoked: bool,
    limit: Duration,
    versions: Vec<String>,
    client: Value,
}

impl Webhook {
    fn new(configuration: &str, index: usize, hook: &Value) -> Self {
        let text = |key: &str| hook.get(key).and_then(Value::as_str).unwrap_or("");
        let versions = hook.get("admissionReviewVersions").and_then(Value::as_array).into_iter().flatten();
        let seconds = hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(TIMEOUT);
        Self {
            name: text("name").to_string(),
            uid: format!("{configuration}/{}/{index}", text("name")),
            criteria: Criteria::new(hook),
            conditions: Conditions::new(hook.get("matchConditions"), &Environment::conditions(false)),
            ignores_failures: text("failurePolicy") == "Ignore",
            dry: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            reinvoked: text("reinvocationPolicy") == "IfNeeded",
            limit: Duration::from_secs(seconds),
            versions: versions.filter_map(Value::as_str).map(str::to_string).collect(),
            client: hook.get("clientConfig").cloned().unwrap_or_default(),
        }
    }
}

/// All webhooks of one sort, in the order in which they are called.
pub(crate) struct Snapshot {
    webhooks: ArcSwap<Vec<Arc<Webhook>>>,
    ready: Ready,
}

impl Snapshot {
    /// Follows the configurations of a kind.
    pub(crate) fn follow<K: Cached>(context: &Context) -> Arc<Self> {
        let snapshot = Arc::new(Self { webhooks: ArcSwap::default(), ready: Ready::default() });
        let store: Arc<Store<K>> = context.informers.of();
        let known: Mutex<BTreeMap<String, Vec<Arc<Webhook>>>> = Mutex::default();
        let follower = snapshot.clone();
        store.on_event(move |event| {
            let mut known = known.lock();
            match event {
                Event::Applied { new, .. } => match serde_json::to_value(&**new) {
                    Ok(document) => drop(known.insert(new.name_any(), compile(&document))),
                    Err(error) => tracing::error!(%error, "a webhook configuration cannot be read"),
                },
                Event::Deleted(old) => drop(known.remove(&old.name_any())),
            }
            follower.webhooks.store(Arc::new(known.values().flatten().cloned().collect()));
        });
        let waiting = snapshot.clone();
        tokio::spawn(async move {
            store.synced().await;
            waiting.ready.set();
        });
        snapshot
    }

    /// The webhooks in force; waits for the first complete list.
    pub(crate) async fn load(&self) -> Arc<Vec<Arc<Webhook>>> {
        self.ready.wait().await;
        self.webhooks.load_full()
    }

    /// Whether nobody is to be asked: one look at two atomics.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_set() && self.webhooks.load().is_empty()
    }
}

fn compile(configuration: &Value) -> Vec<Arc<Webhook>> {
    let name = configuration.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("");
    let hooks = configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten();
    hooks.enumerate().map(|(i, hook)| Arc::new(Webhook::new(name, i, hook))).collect()
}

/// How a call failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The webhook could not be asked: its failurePolicy decides.
    Call(ApiError),
    /// The request is refused.
    Refused(ApiError),
}

/// Whether mutating webhooks or validating ones are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Admit,
    Validating,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validating => "validating",
        }
    }
}

impl Webhook {
    /// As what the request is told to this webhook; None when it is not for it.
    ///
    /// # Errors
    /// 403 for match conditions that fail, errors of the selectors.
    pub(crate) async fn target(
        &self,
        matcher: &Matcher,
        request: &Request<'_>,
    ) -> Result<Option<Target>, ApiError> {
        matcher.target(&self.criteria, request).await
    }

    /// Whether the match conditions let the webhook be called.
    ///
    /// # Errors
    /// 403 when they fail and the webhook does not ignore failures.
    pub(crate) async fn wants(
        &self,
        server: &dyn Server,
        request: &Request<'_>,
        target: &Target,
        documents: (&Value, &Value),
    ) -> Result<bool, ApiError> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let documents = (documents.0.clone(), documents.1.clone());
        let scene = Scene::new(server, request, target, documents);
        match self.conditions.judge(&scene).await {
            Verdict::Matches => Ok(true),
            Verdict::Differs => Ok(false),
            Verdict::Failed(_) if self.ignores_failures => Ok(false),
            Verdict::Failed(error) => Err(request.forbidden(error)),
        }
    }

    /// Asks the webhook.
    pub(crate) async fn invoke(
        &self,
        server: &dyn Server,
        step: Step,
        request: &Request<'_>,
        target: &Target,
        documents: (&Value, &Value),
    ) -> Result<Answer, Failed> {
        if request.dry_run && !self.dry {
            let text = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(Failed::Refused(ApiError::bad_request(text)));
        }
        let begun = Instant::now();
        let asked = self.ask(server, step, request, target, documents).await;
        let (result, outcome) = match asked {
            Err((code, text)) => {
                let error = ApiError::internal(format!("failed calling webhook {:?}: {text}", self.name));
                (Err(Failed::Call(error)), Outcome::Unreachable { code, ignored: self.ignores_failures })
            }
            Ok(answer) if !answer.allowed => {
                let error = review::refusal(&self.name, &answer.result);
                note(request, &answer);
                let code = error.code;
                (Err(Failed::Refused(error)), Outcome::Refused { code })
            }
            Ok(answer) => {
                note(request, &answer);
                (Ok(answer), Outcome::Allowed)
            }
        };
        METRICS.webhook(&self.name, step.as_str(), request.operation.as_str(), outcome, begun.elapsed());
        result
    }

    async fn ask(
        &self,
        server: &dyn Server,
        step: Step,
        request: &Request<'_>,
        target: &Target,
        documents: (&Value, &Value),
    ) -> Result<Answer, (u16, String)> {
        let version = review::version(&self.versions).map_err(|e| (400, e))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let sent = review::review(version, &uid, request, target, documents);
        let document = server
            .call(&self.client, self.limit, &sent)
            .await
            .map_err(|e| (e.code, format!("failed to call webhook: {}", e.message)))?;
        review::answer(version, &uid, step == Step::Admit, &document)
            .map_err(|e| (503, format!("received invalid webhook response: {e}")))
    }
}

/// Warnings go to the client; audit annotations have no audit log to go to yet.
fn note(request: &Request<'_>, answer: &Answer) {
    answer.warnings.iter().for_each(|w| request.noted.add(w.clone()));
    for (key, value) in &answer.audit {
        tracing::debug!(key, value, "audit annotation of a webhook");
    }
}
