//! `knarr`: one binary that serves the Kubernetes API, schedules, runs and networks pods.
//!
//! Parses, wires and runs; everything else lives in the crates below. Under the name of a CNI plugin
//! (`knarr-cni`, `loopback`) the same file is that plugin.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod access;
mod agent;
mod host;
mod image;
mod joining;
mod metrics;
mod node;
mod process;
mod renewal;
mod server;
mod status;
mod tls;
mod token;
mod uninstall;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use knarr_config::Role;

/// The Kubernetes version whose API is served, and ours behind the plus.
pub const VERSION: &str = "v1.37.0+knarr1";

fn command() -> Command {
    let kubeconfig = || {
        Arg::new("kubeconfig")
            .long("kubeconfig")
            .value_name("FILE")
            .env("KUBECONFIG")
            .default_value("/etc/knarr/knarr.yaml")
            .help("admin kubeconfig")
    };
    Command::new("knarr")
        .about("A light Kubernetes distribution in one binary")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("agent").about("Join a server and run a node").args(knarr_config::args(Role::Agent)),
        )
        .subcommand(
            Command::new("server").about("Run a server with a node").args(knarr_config::args(Role::Server)),
        )
        .subcommand(
            Command::new("image").about("Images of this node").subcommand_required(true).subcommand(
                Command::new("import")
                    .about("Import OCI or docker archives (.tar, .tar.gz, .tar.zst)")
                    .args(knarr_config::args(Role::Machine))
                    .arg(Arg::new("FILE").required(true).action(ArgAction::Append)),
            ),
        )
        .subcommand(
            Command::new("status")
                .about("Say whether the server answers and the nodes are Ready")
                .arg(kubeconfig())
                .arg(
                    Arg::new("node")
                        .long("node")
                        .value_name("NAME")
                        .help("ask for this node alone; an agent's own kubeconfig may ask for its own"),
                )
                .arg(
                    Arg::new("wait")
                        .long("wait")
                        .value_name("SECONDS")
                        .value_parser(clap::value_parser!(u64))
                        .help("wait this long until every node is Ready"),
                ),
        )
        .subcommand(token::command(kubeconfig()))
        .subcommand(
            Command::new("uninstall")
                .about(
                    "Remove all pods and everything that knarr made on this host; the server must be stopped",
                )
                .args(knarr_config::args(Role::Machine))
                .arg(Arg::new("yes").long("yes").action(ArgAction::SetTrue).help("do it")),
        )
        .subcommand(Command::new("version").about("Print the version"))
        .subcommand(
            Command::new("completion").about("Print a completion script").arg(
                Arg::new("SHELL").required(true).value_parser(clap::value_parser!(clap_complete::Shell)),
            ),
        )
}

/// Makes the C library's allocator give memory back: few arenas, and large blocks mapped by themselves, always.
/// Without it what one large answer took stays with the process for good.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn frugal_allocator() {
    const LARGE: libc::c_int = 256 * 1024;
    for (name, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)]
    {
        // SAFETY: sets a number inside the allocator; called before there is a second thread.
        let accepted = unsafe { libc::mallopt(name, value) };
        debug_assert_eq!(accepted, 1, "mallopt {name}");
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn frugal_allocator() {}

fn main() -> ExitCode {
    frugal_allocator();
    let called = std::env::args().next().unwrap_or_default();
    let name = called.rsplit('/').next();
    if name == Some(knarr_plugin::EXECUTABLE) || name == Some(knarr_plugin::loopback::EXECUTABLE) {
        return host::cni_main(&called);
    }
    let matches = command().get_matches();
    match run(&matches) {
        Ok(code) => code,
        Err(error) => {
            // One line that names the object: the chain from the outermost context to the cause.
            eprintln!("knarr: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match matches.subcommand() {
        Some(("server", m)) => {
            let config = settings(m, Role::Server)?;
            runtime()?.block_on(server::run(config)).map(|()| ExitCode::SUCCESS)
        }
        Some(("agent", m)) => {
            let config = settings(m, Role::Agent)?;
            runtime()?.block_on(agent::run(config)).map(|()| ExitCode::SUCCESS)
        }
        Some(("image", m)) => match m.subcommand() {
            Some(("import", m)) => {
                let files: Vec<String> = m.get_many::<String>("FILE").unwrap_or_default().cloned().collect();
                let config = settings(m, Role::Machine)?;
                runtime()?.block_on(image::import(&config, &files))
            }
            _ => anyhow::bail!("image: no such command"),
        },
        Some(("status", m)) => {
            let kubeconfig = m.get_one::<String>("kubeconfig").cloned().unwrap_or_default();
            let wait = m.get_one::<u64>("wait").copied().unwrap_or(0);
            let node = m.get_one::<String>("node").map(String::as_str);
            runtime()?.block_on(status::run(&kubeconfig, node, wait))
        }
        Some(("token", m)) => runtime()?.block_on(token::run(m)),
        Some(("uninstall", m)) => {
            anyhow::ensure!(m.get_flag("yes"), "uninstall removes all pods and state: confirm with --yes");
            let config = settings(m, Role::Machine)?;
            runtime()?.block_on(uninstall::run(&config))
        }
        Some(("version", _)) => {
            println!("knarr {VERSION}");
            Ok(ExitCode::SUCCESS)
        }
        Some(("completion", m)) => {
            if let Some(shell) = m.get_one::<clap_complete::Shell>("SHELL") {
                clap_complete::generate(*shell, &mut command(), "knarr", &mut std::io::stdout());
            }
            Ok(ExitCode::SUCCESS)
        }
        _ => anyhow::bail!("no such command"),
    }
}

/// Reads the settings and starts logging.
fn settings(matches: &ArgMatches, role: Role) -> anyhow::Result<knarr_config::Config> {
    let config = knarr_config::load(matches, &|name| std::env::var(name).ok(), role)?;
    knarr_telemetry::init(knarr_telemetry::Level { debug: config.debug, verbosity: config.verbosity });
    Ok(config)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
