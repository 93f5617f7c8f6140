//! Runs tests: the parallel ones side by side, then the serial ones alone.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};

use crate::Result;
use crate::context::{Context, Settings};
use crate::report::{Outcome, Outcomes, TestResult};
use crate::rest::Rest;
use crate::suite::{Test, sig};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many side by side.
    pub parallel: usize,
    /// Limit of one test.
    pub timeout: Duration,
    /// Limit of a test that is marked [Slow], if that is longer.
    pub slow_timeout: Duration,
    /// One after the other, all of them.
    pub serial: bool,
    /// Tries before a test counts as failed, at least 1.
    pub attempts: u32,
}

impl Options {
    fn limit(&self, test: &Test) -> Duration {
        if test.slow() { self.slow_timeout.max(self.timeout) } else { self.timeout }
    }
}

/// Runs the tests and prints a line as each ends.
pub async fn run(rest: &Rest, settings: &Settings, tests: &[Test], options: &Options) -> Outcomes {
    let width = if options.serial { 1 } else { options.parallel.max(1) };
    let (alone, mut together): (Vec<Test>, Vec<Test>) = tests.iter().partition(|t| t.serial());
    // The slow ones go beside all others instead of coming last.
    together.sort_by_key(|t| !t.slow());
    let mut outcomes = Outcomes::new();
    for (tests, width) in [(together, width), (alone, 1)] {
        let mut ended = stream::iter(tests)
            .map(|t| one(rest.clone(), settings.clone(), t, options.limit(&t)))
            .buffer_unordered(width);
        while let Some((test, result)) = ended.next().await {
            outcomes.insert(test.name.to_string(), result);
            progress(&outcomes, test.name);
        }
    }
    again(rest, settings, tests, options, &mut outcomes).await;
    outcomes
}

/// Tries failed tests again, alone; a test that passes then is named as flaky.
async fn again(rest: &Rest, settings: &Settings, tests: &[Test], options: &Options, outcomes: &mut Outcomes) {
    for attempt in 2..=options.attempts {
        let failed = |t: &&Test| outcomes.get(t.name).is_some_and(|r| r.outcome != Outcome::Passed);
        for test in tests.iter().filter(failed).copied().collect::<Vec<_>>() {
            let (test, result) = one(rest.clone(), settings.clone(), test, options.limit(&test)).await;
            if result.outcome == Outcome::Passed {
                println!("flaky: passed at attempt {attempt}: {}", test.name);
            }
            outcomes.insert(test.name.to_string(), result);
            progress(outcomes, test.name);
        }
    }
}

fn progress(outcomes: &Outcomes, name: &str) {
    let Some(result) = outcomes.get(name) else { return };
    let at = outcomes.len();
    let time = result.time.as_secs_f64();
    match &result.outcome {
        Outcome::Passed => println!("{at:>4} pass {time:7.1} s  {name}"),
        Outcome::Failed(why) => println!("{at:>4} FAIL {time:7.1} s  {name}\n{}", indent(why)),
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|l| format!("       {l}")).collect::<Vec<_>>().join("\n")
}

async fn one(rest: Rest, settings: Settings, test: Test, limit: Duration) -> (Test, TestResult) {
    let start = Instant::now();
    let base = sig(test.name).trim_start_matches("sig-").to_string();
    let outcome = match Context::new(rest, settings, &base).await {
        Err(e) => Outcome::Failed(format!("{e:#}")),
        Ok(context) => steps(&context, test, limit).await,
    };
    (test, TestResult { outcome, time: start.elapsed() })
}

async fn steps(context: &Context, test: Test, limit: Duration) -> Outcome {
    let mut task = tokio::spawn((test.run)(context.clone()));
    let ended: Result<()> = match tokio::time::timeout(limit, &mut task).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(anyhow::anyhow!("the test broke: {panic}")),
        Err(_) => {
            task.abort();
            Err(anyhow::anyhow!("not done within {limit:?}"))
        }
    };
    let failure = match &ended {
        Ok(()) => None,
        Err(e) => Some(format!("{e:#}\n{}", context.autopsy().await)),
    };
    let cleaned = context.end(test.serial()).await;
    match (failure, cleaned) {
        (Some(why), _) => Outcome::Failed(why),
        (None, Err(e)) => Outcome::Failed(format!("{e:#}")),
        (None, Ok(())) => Outcome::Passed,
    }
}
