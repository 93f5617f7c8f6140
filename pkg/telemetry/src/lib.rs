//! Structured logs of the process. Entry point: [`init`].

use tracing_subscriber::EnvFilter;

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// Debug level for our own crates.
    pub debug: bool,
    /// klog-like verbosity: from 4 on debug, from 8 on trace.
    pub verbosity: u8,
}

/// The filter for a level: our crates at that level, libraries at warning.
pub fn directives(level: Level) -> String {
    let own = match (level.debug, level.verbosity) {
        (_, 8..) => "trace",
        (true, _) | (false, 4..) => "debug",
        (false, _) => "info",
    };
    let crates = [
        "knarr",
        "knarr_addons",
        "knarr_admission",
        "knarr_agent",
        "knarr_apiserver",
        "knarr_auth",
        "knarr_client",
        "knarr_controllers",
        "knarr_cri",
        "knarr_datastore",
        "knarr_dns",
        "knarr_kubelet",
        "knarr_netlink",
        "knarr_overlay",
        "knarr_pki",
        "knarr_plugin",
        "knarr_policy",
        "knarr_proxy",
        "knarr_registry",
        "knarr_scheduler",
        "knarr_streaming",
        "knarr_volumes",
    ];
    let mut text = String::from("warn");
    for name in crates {
        text.push_str(&format!(",{name}={own}"));
    }
    text
}

/// Starts logging to standard error. `KNARR_LOG` (tracing's filter syntax) overrides `level`.
/// Only the first call of a process has an effect.
pub fn init(level: Level) {
    let filter = EnvFilter::try_from_env("KNARR_LOG").unwrap_or_else(|_| EnvFilter::new(directives(level)));
    let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        let own = |debug, verbosity| directives(Level { debug, verbosity });
        assert!(own(false, 0).contains("knarr=info"));
        assert!(own(true, 0).contains("knarr=debug"));
        assert!(own(false, 4).contains("knarr=debug"));
        assert!(own(true, 9).contains("knarr=trace"));
    }
}
