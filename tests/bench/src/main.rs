//! `knarr-bench`: Knarr beside upstream's own API machinery, on this machine, in one run, with one load generator.
//!
//! Sides run one after the other, never together. Entry points: [`side`] starts them, [`load`] puts load on one,
//! [`report`] prints them next to each other with ratios. Nothing here has a threshold: it measures.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod custom;
mod load;
mod process;
mod report;
mod scheduling;
mod side;
mod wire;

use std::path::PathBuf;

use clap::Parser;

/// What to measure.
#[derive(Debug, Parser)]
#[command(about = "Knarr beside stock API machinery, measured in one run")]
struct Options {
    /// Our binary.
    #[arg(long, default_value = "target/release/knarr")]
    knarr: PathBuf,
    /// Upstream's machinery, built by tests/bench/run.sh.
    #[arg(long)]
    stock: Option<PathBuf>,
    /// kine, built by tests/bench/run.sh.
    #[arg(long)]
    kine: Option<PathBuf>,
    /// Sides to run.
    #[arg(long, value_delimiter = ',', default_value = "stock,kine,knarr")]
    sides: Vec<String>,
    /// Shorter: a look, not a result.
    #[arg(long)]
    quick: bool,
    /// Leave the scheduling part out.
    #[arg(long)]
    no_scheduling: bool,
    /// Also write the tables to this file.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let mut options = Options::parse();
    // Sides run in directories of their own.
    let programs = [Some(&mut options.knarr), options.stock.as_mut(), options.kine.as_mut()];
    for program in programs.into_iter().flatten() {
        *program = std::path::absolute(&*program)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> anyhow::Result<()> {
    let plan = if options.quick { load::Plan::quick() } else { load::Plan::whole() };
    let mut report = report::Report::default();
    for name in &options.sides {
        let Some(recipe) = side::Recipe::of(name, &options)? else {
            println!("{name}: NOT RUN, its program is not there");
            continue;
        };
        println!("== {name}: {}", recipe.about());
        let figures = load::all(&recipe, &plan).await?;
        report.add(name, recipe.about(), figures);
    }
    if !options.no_scheduling && options.sides.iter().any(|s| s == "knarr") && options.knarr.exists() {
        let recipe = side::Recipe::Knarr(options.knarr.clone());
        report.scheduling = scheduling::all(&recipe, options.quick).await?;
    }
    let text = report.render(options.quick)?;
    println!("{text}");
    if let Some(path) = &options.out {
        std::fs::write(path, &text)?;
    }
    Ok(())
}
