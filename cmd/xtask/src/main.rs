//! Chores of the workspace: `cargo xtask tidy` checks the rules of the house, `cargo xtask measure` measures a build.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod levels;
mod measure;
mod sizes;
mod tables;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks levels, deny list, tables and sizes; exit code 1 and one line per finding.
    Tidy {
        /// Lowers the entries of the size exception list to what is there. It never raises or adds one.
        #[arg(long)]
        shrink: bool,
    },
    /// Starts a server of its own (as root, with no other cluster on the host) and prints what it costs.
    Measure(measure::Options),
}

fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or(here.clone(), PathBuf::from)
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Tidy { shrink } => {
            let root = root();
            let mut findings = levels::check(&root)?;
            findings.extend(tables::check(&root)?);
            findings.extend(sizes::check(&root, shrink)?);
            for finding in &findings {
                println!("tidy: {finding}");
            }
            if findings.is_empty() {
                println!("tidy: {} crates, all rules hold", levels::LEVELS.len());
                return Ok(());
            }
            std::process::exit(1);
        }
        Command::Measure(options) => measure::run(&root(), &options),
    }
}
