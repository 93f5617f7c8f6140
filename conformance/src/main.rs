//! `knarr-conformance`: the official behaviours of Kubernetes v1.37 against the cluster of a kubeconfig.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use knarr_conformance::context::{Settings, random};
use knarr_conformance::report::{Outcome, Outcomes, junit, table};
use knarr_conformance::rest::Rest;
use knarr_conformance::runner::{Options, run};
use knarr_conformance::suite::{Test, all, names, sig};
use knarr_conformance::{Result, expected, stock};
use regex::Regex;

/// Runs the official behaviours of Kubernetes v1.37 against a cluster.
#[derive(Parser)]
struct Cli {
    /// Kubeconfig of a cluster administrator.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Only tests whose name matches this expression.
    #[arg(long)]
    focus: Option<Regex>,
    /// No test whose name matches this expression.
    #[arg(long)]
    skip: Option<Regex>,
    /// Only tests of this SIG (node or sig-node); may be given more than once.
    #[arg(long)]
    sig: Vec<String>,
    /// How many tests run side by side; those marked [Serial] run alone after them.
    #[arg(long, default_value_t = 8)]
    parallel: usize,
    /// One test after the other.
    #[arg(long)]
    serial: bool,
    /// Only tests that --expected has as passing.
    #[arg(long, requires = "expected")]
    passing: bool,
    /// How often a test may be tried before it counts as failed; tries after the first run alone, at the end.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10))]
    flake_attempts: u32,
    /// Lists the selected official tests, with their state, and runs none.
    #[arg(long)]
    list: bool,
    /// Limit of one test in seconds.
    #[arg(long, default_value_t = 1200)]
    timeout: u64,
    /// Limit of one test that is marked [Slow] in seconds: two of them wait for five and ten minutes.
    #[arg(long, default_value_t = 1200)]
    slow_timeout: u64,
    /// Writes a JUnit report.
    #[arg(long)]
    report: Option<PathBuf>,
    /// File with the state of each test; a run that loses a pass fails.
    #[arg(long)]
    expected: Option<PathBuf>,
    /// Writes improvements into the file of --expected.
    #[arg(long, requires = "expected")]
    update_expected: bool,
    /// Runs this stock e2e.test program instead of our tests.
    #[arg(long)]
    e2e_test: Option<PathBuf>,
    /// The kubectl program that the tests of sig-cli use.
    #[arg(long, default_value = "kubectl")]
    kubectl: String,
    /// The cluster's DNS domain.
    #[arg(long, default_value = "cluster.local")]
    dns_domain: String,
}

impl Cli {
    fn selects(&self, name: &str, states: &expected::States) -> bool {
        let sig = sig(name);
        let fits = |s: &String| s == sig || sig.strip_prefix("sig-") == Some(s);
        self.focus.as_ref().is_none_or(|f| f.is_match(name))
            && !self.skip.as_ref().is_some_and(|s| s.is_match(name))
            && (self.sig.is_empty() || self.sig.iter().any(fits))
            && (!self.passing || states.get(name).is_some_and(|s| s == "pass"))
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let states = match &cli.expected {
        Some(path) => {
            expected::parse(&std::fs::read_to_string(path).with_context(|| path.display().to_string())?)?
        }
        None => expected::States::new(),
    };
    let written: BTreeSet<&str> = all().iter().map(|t| t.name).collect();
    if cli.list {
        for name in names().filter(|n| cli.selects(n, &states)) {
            println!("{} {name}", if written.contains(name) { "written  " } else { "unwritten" });
        }
        return Ok(());
    }
    let start = Instant::now();
    let runtime = tokio::runtime::Runtime::new().context("tokio")?;
    let outcomes = runtime.block_on(outcomes(&cli, &states))?;
    let time = start.elapsed();
    if let Some(path) = &cli.report {
        std::fs::write(path, junit(&outcomes, time)).with_context(|| path.display().to_string())?;
    }
    println!("\n{}wall clock {:.1} s", table(&outcomes, |n| written.contains(n)), time.as_secs_f64());
    if let Some(path) = cli.expected.as_ref().filter(|_| cli.update_expected) {
        let text = expected::render(&expected::improved(&states, &outcomes));
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    let lost = expected::lost(&states, &outcomes);
    for name in &lost {
        println!("lost: {name}");
    }
    let failed = outcomes.values().filter(|r| r.outcome != Outcome::Passed).count();
    println!("conformance: {} passed, {failed} failed", outcomes.len() - failed);
    std::process::exit(i32::from(failed > 0));
}

async fn outcomes(cli: &Cli, states: &expected::States) -> Result<Outcomes> {
    let path = cli.kubeconfig.as_ref().context("no kubeconfig: give --kubeconfig or set KUBECONFIG")?;
    let kubeconfig = kube::config::Kubeconfig::read_from(path).with_context(|| path.display().to_string())?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.context("kubeconfig")?;
    let rest = Rest::new(config)?;
    let version = rest.get("/version").await.context("the cluster does not answer")?;
    println!("cluster: {} at {}", version["gitVersion"].as_str().unwrap_or("?"), rest.config().cluster_url);
    let kubeconfig = path.display().to_string();
    if let Some(program) = &cli.e2e_test {
        let nodes = rest.get("/api/v1/nodes").await?["items"].as_array().map_or(0, Vec::len);
        let selected: Vec<&str> = names().filter(|n| cli.selects(n, states)).collect();
        return stock::run(program, &kubeconfig, &selected, nodes).await;
    }
    let settings = Settings {
        run_id: random(12),
        kubeconfig,
        kubectl: cli.kubectl.clone(),
        dns_domain: cli.dns_domain.clone(),
    };
    let tests: Vec<Test> = all().into_iter().filter(|t| cli.selects(t.name, states)).collect();
    println!("{} of {} written tests selected", tests.len(), all().len());
    let options = Options {
        parallel: cli.parallel,
        timeout: Duration::from_secs(cli.timeout),
        slow_timeout: Duration::from_secs(cli.slow_timeout),
        serial: cli.serial,
        attempts: cli.flake_attempts,
    };
    Ok(run(&rest, &settings, &tests, &options).await)
}
