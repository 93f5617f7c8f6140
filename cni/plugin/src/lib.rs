//! The CNI executable: a bridge, a veth pair per pod, our own address management, host ports and masquerading.
//!
//! Entry points: [`main`] (the executable, under the name [`EXECUTABLE`]), [`conflist`] (what the agent writes
//! into the CNI configuration directory) and [`node::ensure`] (the node's part, also done by the agent at start).
//!
//! A pod's address has no subnet route: everything, also to pods of the same node, goes through the gateway.
//! Replies of a service's pod to a pod beside it so pass the node's connection tracking, which needs no
//! `br_netfilter`. Knows nothing of the Kubernetes API.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod attach;
mod config;
mod hostports;
pub mod loopback;
pub mod node;
mod protocol;

use std::collections::BTreeMap;
use std::io::Write;

use knarr_netlink::{Kernel, RealKernel};

pub use config::{Conflist, conflist};
pub use protocol::CniError;

use config::NetConf;
use protocol::{Invocation, SUPPORTED_VERSIONS};

/// File name of the executable in the CNI binary directory, and the plugin's type.
pub const EXECUTABLE: &str = "knarr-cni";

/// How the names of the host's ends of pods' links begin.
pub const PORT_PREFIX: &str = "kn";

/// The executable: reads the environment and standard input, answers on standard output. The exit code is 0, or
/// 1 after an error document.
pub fn main() -> i32 {
    let env: BTreeMap<String, String> = std::env::vars().filter(|(k, _)| k.starts_with("CNI_")).collect();
    let mut input = Vec::new();
    let read = std::io::Read::read_to_end(&mut std::io::stdin(), &mut input);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match (read, runtime) {
        (Ok(_), Ok(runtime)) => runtime.block_on(run(&RealKernel, &env, &input)),
        (Err(e), _) | (_, Err(e)) => Err(CniError::io("start", e.to_string())),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, 0),
        Err(e) => (e.document(protocol::requested_version(&input)), 1),
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    if written.is_err() { 1 } else { code }
}

/// One invocation: the output document (empty where CNI wants none).
pub async fn run(
    kernel: &dyn Kernel,
    env: &BTreeMap<String, String>,
    input: &[u8],
) -> std::result::Result<String, CniError> {
    let command = env.get("CNI_COMMAND").map(String::as_str).unwrap_or_default();
    if command == "VERSION" {
        let version = protocol::requested_version(input);
        return Ok(
            serde_json::json!({"cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS}).to_string()
        );
    }
    let conf = NetConf::parse(input)?;
    match command {
        "ADD" => attach::add(kernel, &Invocation::attachment(env, protocol::Sandbox::Required)?, &conf).await,
        "DEL" => {
            attach::delete(kernel, &Invocation::attachment(env, protocol::Sandbox::Optional)?, &conf).await
        }
        "CHECK" => {
            attach::check(kernel, &Invocation::attachment(env, protocol::Sandbox::Required)?, &conf).await
        }
        "GC" => attach::collect(kernel, &conf).await,
        "STATUS" => attach::status(&conf).await,
        "" => Err(CniError::environment("CNI_COMMAND is not set")),
        other => Err(CniError::environment(format!(
            "CNI_COMMAND {other:?} is not one of ADD, DEL, CHECK, GC, STATUS, VERSION"
        ))),
    }
}
