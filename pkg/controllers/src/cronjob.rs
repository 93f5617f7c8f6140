//! CronJob: makes jobs by the clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, PropagationPolicy};

use crate::claim::controller_ref;
use crate::context::{Action, Controller, Ctx, EventType, reference, work};
use crate::error::{During, Error};
use crate::pods::controller_of;

/// Table row.
pub const CONTROLLER: Controller =
    Controller { name: "cronjob-controller", account: "cronjob-controller", start: |ctx| Box::pin(run(ctx)) };

const KIND: &str = "CronJob";
const API_VERSION: &str = "batch/v1";
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth a warning.
const MANY: usize = 100;

type Key = (String, String);

/// When to run.
#[derive(Debug, Clone)]
enum Schedule {
    Cron(Box<Cron>, TimeZone),
    Every(Duration),
}

/// Why a schedule cannot be followed: event reason and note.
type Unusable = (&'static str, String);

impl Schedule {
    fn parse(text: &str, zone: Option<&str>) -> Result<Self, Unusable> {
        let bad = |why: String| ("UnparseableSchedule", format!("unparseable schedule: {text:?}: {why}"));
        if let Some(period) = text.strip_prefix("@every ") {
            let period =
                jiff::SignedDuration::try_from(period.parse::<jiff::Span>().map_err(|e| bad(e.to_string()))?)
                    .map_err(|e| bad(e.to_string()))?;
            let period = Duration::try_from(period).map_err(|e| bad(e.to_string()))?;
            return Ok(Self::Every(period.max(Duration::from_secs(1))));
        }
        let zone = match zone {
            Some(name) => TimeZone::get(name)
                .map_err(|e| ("UnknownTimeZone", format!("invalid timeZone: {name:?}: {e}")))?,
            None => TimeZone::UTC,
        };
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        Ok(Self::Cron(Box::new(parser.parse(text).map_err(|e| bad(e.to_string()))?), zone))
    }

    /// The first time after the given one; `None` when there is none.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(period) => {
                let period = jiff::SignedDuration::try_from(*period).ok()?;
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(period).ok()
            }
            Self::Cron(cron, zone) => {
                cron.find_next_occurrence(&after.to_zoned(zone.clone()), false).ok().map(|t| t.timestamp())
            }
        }
    }
}

/// What the clock says.
#[derive(Debug, Clone, PartialEq)]
struct Due {
    /// The latest time that has come and was not served.
    at: Option<Timestamp>,
    /// How many times have come, at most a little more than [`MANY`].
    missed: usize,
    /// The next time to come.
    next: Option<Timestamp>,
}

fn due(schedule: &Schedule, cron_job: &CronJob, now: Timestamp) -> Due {
    let created = cron_job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let last = cron_job.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map(|t| t.0);
    let mut from = last.unwrap_or(created);
    if let Some(deadline) = cron_job.spec.starting_deadline_seconds {
        from = from.max(now.checked_sub(deadline.max(0).seconds()).unwrap_or(Timestamp::MIN));
    }
    let next = schedule.next(now);
    let (mut at, mut missed) = (None, 0);
    let mut cursor = from;
    while let Some(time) = schedule.next(cursor).filter(|t| *t <= now) {
        at = Some(time);
        missed += 1;
        cursor = time;
        if missed > MANY {
            // Far behind: one jump to the last time before now. A period is guessed from the next two times.
            if let Some(period) = next.and_then(|n| Some(schedule.next(n)?.duration_since(n)))
                && let Ok(near) = now.checked_sub(period * 2)
                && near > cursor
            {
                cursor = near;
            }
        }
        if missed > 100 * MANY {
            break;
        }
    }
    Due { at, missed, next }
}

/// What to do about a time that has come.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Wait,
    /// Too late by the deadline.
    Missed(Timestamp),
    /// A job runs and must not be joined by another.
    Busy,
    Start {
        at: Timestamp,
        replace: bool,
    },
}

fn decide(cron_job: &CronJob, due: &Due, active: usize, now: Timestamp) -> Step {
    let Some(at) = due.at else { return Step::Wait };
    if cron_job.spec.suspend == Some(true) {
        return Step::Wait;
    }
    let late = cron_job.spec.starting_deadline_seconds.is_some_and(|s| now.as_second() - at.as_second() > s);
    if late {
        return Step::Missed(at);
    }
    match cron_job.spec.concurrency_policy.as_deref() {
        Some("Forbid") if active > 0 => Step::Busy,
        Some("Replace") => Step::Start { at, replace: true },
        _ => Step::Start { at, replace: false },
    }
}

/// The name of the job for a time: the same for every try.
fn job_name(cron_job: &str, at: Timestamp) -> String {
    format!("{cron_job}-{}", at.as_second() / 60)
}

fn end_of(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
        .map(|c| c.type_.as_str())
}

/// Finished jobs beyond the history limits, oldest first.
fn outdated<'a>(cron_job: &CronJob, jobs: &'a [Arc<Job>]) -> Vec<&'a Arc<Job>> {
    let of = |end: &str, limit: Option<i32>| {
        let Some(limit) = limit.and_then(|n| usize::try_from(n).ok()) else { return Vec::new() };
        let mut all: Vec<_> = jobs.iter().filter(|j| end_of(j) == Some(end)).collect();
        let start = |j: &Job| j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        all.sort_by(|a, b| start(a).cmp(&start(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name)));
        all.truncate(all.len().saturating_sub(limit));
        all
    };
    let mut gone = of("Complete", cron_job.spec.successful_jobs_history_limit);
    gone.extend(of("Failed", cron_job.spec.failed_jobs_history_limit));
    gone
}

struct Clock {
    ctx: Arc<Ctx>,
    cron_jobs: Arc<Store<CronJob>>,
    jobs: Arc<Store<Job>>,
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let (cron_jobs, jobs) = (ctx.store::<CronJob>(), ctx.store::<Job>());
    {
        let queue = queue.clone();
        cron_jobs.on_event(move |event| {
            if let Event::Applied { new, .. } = event {
                queue.add((new.namespace().unwrap_or_default(), new.name_any()));
            }
        });
    }
    {
        let queue = queue.clone();
        jobs.on_event(move |event| {
            let job = match event {
                Event::Applied { new, .. } => new,
                Event::Deleted(old) => old,
            };
            if let Some(owner) = controller_of(&job.metadata).filter(|o| o.kind == KIND) {
                queue.add((job.namespace().unwrap_or_default(), owner.name.clone()));
            }
        });
    }
    cron_jobs.synced().await;
    jobs.synced().await;
    let clock = Arc::new(Clock { ctx: ctx.clone(), cron_jobs, jobs });
    work(ctx, queue, 3, move |key| {
        let clock = clock.clone();
        async move { clock.reconcile(key).await }
    })
    .await;
    Ok(())
}

impl Clock {
    async fn reconcile(&self, (namespace, name): Key) -> Result<Action, Error> {
        let Some(cached) = self.cron_jobs.get(&namespace, &name) else { return Ok(Action::Done) };
        if cached.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        let mut cron_job = CronJob::clone(&cached);
        let ours = |j: &Arc<Job>| {
            controller_of(&j.metadata).is_some_and(|o| Some(&o.uid) == cron_job.metadata.uid.as_ref())
        };
        let jobs: Vec<_> = self.jobs.list_ns(&namespace).into_iter().filter(ours).collect();
        for job in outdated(&cron_job, &jobs) {
            self.delete_job(&cron_job, job).await?;
        }
        let mut status = cron_job.status.clone().unwrap_or_default();
        self.drop_missing(&cron_job, &mut status, &jobs).await?;
        self.follow_jobs(&cron_job, &mut status, &jobs);
        let about = reference(API_VERSION, KIND, &cron_job.metadata);
        let schedule = match Schedule::parse(&cron_job.spec.schedule, cron_job.spec.time_zone.as_deref()) {
            Ok(schedule) => schedule,
            Err((reason, note)) => {
                self.ctx.event(&about, EventType::Warning, reason, &note);
                self.write(&mut cron_job, status).await?;
                return Ok(Action::Done);
            }
        };
        let now = Timestamp::now();
        let due = due(&schedule, &cron_job, now);
        if due.missed > MANY {
            let note = format!(
                "too many missed start times: {}. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
                due.missed
            );
            self.ctx.event(&about, EventType::Warning, "TooManyMissedTimes", &note);
        }
        let active = status.active.as_ref().map_or(0, Vec::len);
        match decide(&cron_job, &due, active, now) {
            Step::Wait => {}
            Step::Missed(at) => {
                let note = format!("Missed scheduled time to start a job: {at}");
                self.ctx.event(&about, EventType::Warning, "MissSchedule", &note);
            }
            Step::Busy => {
                let note =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.ctx.event(&about, EventType::Normal, "JobAlreadyActive", note);
            }
            Step::Start { at, replace } => {
                if replace {
                    for job in jobs.iter().filter(|j| end_of(j).is_none()) {
                        self.delete_job(&cron_job, job).await?;
                    }
                    status.active = None;
                }
                self.start(&cron_job, &mut status, at).await?;
            }
        }
        self.write(&mut cron_job, status).await?;
        if cron_job.spec.suspend == Some(true) {
            return Ok(Action::Done);
        }
        let Some(next) = due.next else { return Ok(Action::Done) };
        let left = u64::try_from(next.as_millisecond() - Timestamp::now().as_millisecond()).unwrap_or(0);
        Ok(Action::After(Duration::from_millis(left + 100)))
    }

    /// Takes jobs off the list that the server does not have; the cache alone may lag behind.
    async fn drop_missing(
        &self,
        cron_job: &CronJob,
        status: &mut CronJobStatus,
        jobs: &[Arc<Job>],
    ) -> Result<(), Error> {
        let namespace = cron_job.namespace().unwrap_or_default();
        let about = reference(API_VERSION, KIND, &cron_job.metadata);
        let mut kept = Vec::new();
        for entry in status.active.take().unwrap_or_default() {
            let name = entry.name.clone().unwrap_or_default();
            let there = jobs.iter().any(|j| j.metadata.uid == entry.uid) || {
                let live = self.ctx.api::<Job>(&namespace).get_opt(&name).await;
                live.during("get", "Job", &namespace, &name)?.is_some_and(|j| j.metadata.uid == entry.uid)
            };
            if there {
                kept.push(entry);
            } else {
                let note = format!("Active job went missing: {name}");
                self.ctx.event(&about, EventType::Normal, "MissingJob", &note);
            }
        }
        status.active = Some(kept).filter(|k| !k.is_empty());
        Ok(())
    }

    /// Keeps the list of running jobs and the time of the last success.
    fn follow_jobs(&self, cron_job: &CronJob, status: &mut CronJobStatus, jobs: &[Arc<Job>]) {
        let about = reference(API_VERSION, KIND, &cron_job.metadata);
        let mut active = status.active.take().unwrap_or_default();
        active.retain(|entry| {
            match jobs.iter().find(|j| j.metadata.uid == entry.uid) {
                // Made a moment ago: the cache will show it.
                None => true,
                Some(job) => match end_of(job) {
                    None => true,
                    Some(end) => {
                        let note = format!("Saw completed job: {}, condition: {end}", job.name_any());
                        self.ctx.event(&about, EventType::Normal, "SawCompletedJob", &note);
                        false
                    }
                },
            }
        });
        for job in jobs.iter().filter(|j| end_of(j) == Some("Complete")) {
            let end = job.status.as_ref().and_then(|s| s.completion_time.clone());
            if end > status.last_successful_time {
                status.last_successful_time = end;
            }
        }
        // Jobs that run and are not listed: their making was not written down before a crash.
        for job in jobs.iter().filter(|j| end_of(j).is_none() && j.metadata.deletion_timestamp.is_none()) {
            if !active.iter().any(|a| a.uid == job.metadata.uid) {
                active.push(reference("batch/v1", "Job", &job.metadata));
            }
        }
        status.active = Some(active).filter(|a| !a.is_empty());
    }

    async fn delete_job(&self, cron_job: &CronJob, job: &Job) -> Result<(), Error> {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match self
            .ctx
            .api::<Job>(&namespace)
            .delete(&name, &params)
            .await
            .during("delete", "Job", &namespace, &name)
        {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                let about = reference(API_VERSION, KIND, &cron_job.metadata);
                self.ctx.event(&about, EventType::Normal, "SuccessfulDelete", &format!("Deleted job {name}"));
                Ok(())
            }
        }
    }

    async fn start(
        &self,
        cron_job: &CronJob,
        status: &mut CronJobStatus,
        at: Timestamp,
    ) -> Result<(), Error> {
        let job = job_of(cron_job, at);
        let (namespace, name) = (cron_job.namespace().unwrap_or_default(), job.name_any());
        let about = reference(API_VERSION, KIND, &cron_job.metadata);
        let api = self.ctx.api::<Job>(&namespace);
        match api.create(&PostParams::default(), &job).await.during("create", "Job", &namespace, &name) {
            Ok(made) => {
                self.ctx.event(&about, EventType::Normal, "SuccessfulCreate", &format!("Created job {name}"));
                status.active.get_or_insert_default().push(job_reference(&made));
            }
            // Made before a crash or by a cache that lags; the job's own event lists it.
            Err(error) if error.is_already_exists() => {}
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => {
                let note = format!("Error creating job: {}", error.message());
                self.ctx.event(&about, EventType::Warning, "FailedCreate", &note);
                return Err(error);
            }
        }
        status.last_schedule_time = Some(Time(at));
        Ok(())
    }

    async fn write(&self, cron_job: &mut CronJob, status: CronJobStatus) -> Result<(), Error> {
        if cron_job.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let (namespace, name) = (cron_job.namespace().unwrap_or_default(), cron_job.name_any());
        cron_job.status = Some(status);
        let api = self.ctx.api::<CronJob>(&namespace);
        let result = api.replace_status(&name, &PostParams::default(), cron_job).await;
        match result.during("update status of", KIND, &namespace, &name) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn job_reference(job: &Job) -> ObjectReference {
    reference("batch/v1", "Job", &job.metadata)
}

fn job_of(cron_job: &CronJob, at: Timestamp) -> Job {
    let template = cron_job.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations: BTreeMap<String, String> = meta.annotations.unwrap_or_default();
    let zone =
        cron_job.spec.time_zone.as_deref().and_then(|z| TimeZone::get(z).ok()).unwrap_or(TimeZone::UTC);
    let local = at.to_zoned(zone);
    let format = if local.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    annotations.insert(SCHEDULED_AT.to_owned(), local.strftime(format).to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(&cron_job.name_any(), at)),
            namespace: cron_job.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(API_VERSION, KIND, &cron_job.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cron_job(spec: Value, last: Option<&str>) -> CronJob {
        let mut spec = spec;
        spec["jobTemplate"] = json!({});
        serde_json::from_value(json!({
            "metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:30Z"}, "spec": spec,
            "status": {"lastScheduleTime": last},
        }))
        .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times() {
        let check = |schedule: &str, zone: Option<&str>, after: &str, expected: &str| {
            let next = Schedule::parse(schedule, zone).unwrap().next(at(after)).unwrap();
            assert_eq!(next, at(expected), "{schedule} {zone:?}");
        };
        check("*/5 * * * *", None, "2026-01-01T00:01:00Z", "2026-01-01T00:05:00Z");
        check("@hourly", None, "2026-01-01T00:01:00Z", "2026-01-01T01:00:00Z");
        check("0 9 * * 1", None, "2026-01-01T00:00:00Z", "2026-01-05T09:00:00Z");
        check("0 9 * * *", Some("Asia/Tokyo"), "2026-01-01T00:30:00Z", "2026-01-02T00:00:00Z");
        check("@every 90s", None, "2026-01-01T00:00:00.5Z", "2026-01-01T00:01:30Z");
        assert_eq!(Schedule::parse("nonsense", None).unwrap_err().0, "UnparseableSchedule");
        assert_eq!(Schedule::parse("* * * * *", Some("Atlantis/Center")).unwrap_err().0, "UnknownTimeZone");
    }

    #[test]
    fn what_is_due() {
        let every = Schedule::parse("* * * * *", None).unwrap();
        let c = cron_job(json!({"schedule": "* * * * *"}), None);
        assert_eq!(due(&every, &c, at("2026-01-01T00:00:50Z")).at, None);
        let d = due(&every, &c, at("2026-01-01T00:03:10Z"));
        assert_eq!(
            (d.at, d.missed, d.next),
            (Some(at("2026-01-01T00:03:00Z")), 3, Some(at("2026-01-01T00:04:00Z")))
        );
        let served = cron_job(json!({"schedule": "* * * * *"}), Some("2026-01-01T00:03:00Z"));
        assert_eq!(due(&every, &served, at("2026-01-01T00:03:10Z")).at, None);
        let late = due(&every, &c, at("2026-03-01T00:00:10Z"));
        assert_eq!(late.at, Some(at("2026-03-01T00:00:00Z")));
        assert!(late.missed > MANY && late.missed < 2 * MANY);
    }

    #[test]
    fn policies() {
        let now = at("2026-01-01T00:03:10Z");
        let d = Due { at: Some(at("2026-01-01T00:03:00Z")), missed: 1, next: None };
        let step = |spec: Value, active: usize| decide(&cron_job(spec, None), &d, active, now);
        let start = |replace| Step::Start { at: at("2026-01-01T00:03:00Z"), replace };
        assert_eq!(step(json!({"schedule": ""}), 1), start(false));
        assert_eq!(step(json!({"schedule": "", "concurrencyPolicy": "Forbid"}), 1), Step::Busy);
        assert_eq!(step(json!({"schedule": "", "concurrencyPolicy": "Forbid"}), 0), start(false));
        assert_eq!(step(json!({"schedule": "", "concurrencyPolicy": "Replace"}), 1), start(true));
        assert_eq!(step(json!({"schedule": "", "suspend": true}), 0), Step::Wait);
        assert!(matches!(step(json!({"schedule": "", "startingDeadlineSeconds": 5}), 0), Step::Missed(_)));
        assert_eq!(job_name("c", at("2026-01-01T00:03:00Z")), "c-29453763");
    }
}
