//! The `loopback` plugin, which container runtimes call for every sandbox besides the configured network.
//! Entry point: [`main`], for the executable under the name [`EXECUTABLE`].

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use knarr_netlink::{Kernel, LinkChange, Netns, RealKernel};
use serde_json::json;

use crate::protocol::{CniError, SUPPORTED_VERSIONS, requested_version};

/// File name of the executable in the CNI binary directory.
pub const EXECUTABLE: &str = "loopback";

/// The executable; the exit code is 0, or 1 after an error document.
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
        Err(e) => (e.document(requested_version(&input)), 1),
    };
    if std::io::stdout().write_all(text.as_bytes()).is_err() { 1 } else { code }
}

/// One invocation: brings `lo` of the sandbox up. DEL has nothing to do, because `lo` goes with its namespace.
///
/// # Errors
/// An unknown command, a missing namespace, or what the kernel says.
pub async fn run(
    kernel: &dyn Kernel,
    env: &BTreeMap<String, String>,
    input: &[u8],
) -> Result<String, CniError> {
    let version = requested_version(input);
    let get = |name: &str| env.get(name).map(String::as_str).unwrap_or_default();
    match get("CNI_COMMAND") {
        "VERSION" => Ok(json!({"cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS}).to_string()),
        "ADD" => {
            let sandbox = get("CNI_NETNS");
            if sandbox.is_empty() {
                return Err(CniError::environment("CNI_NETNS is not set"));
            }
            let netns = Netns::Path(PathBuf::from(sandbox));
            kernel
                .change_link(&netns, "lo", &LinkChange::Up)
                .await
                .map_err(|e| CniError::io("loopback", e.to_string()))?;
            let address = if version.starts_with("0.") {
                json!({"version": "4", "address": "127.0.0.1/8", "interface": 0})
            } else {
                json!({"address": "127.0.0.1/8", "interface": 0})
            };
            let lo = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": sandbox});
            Ok(json!({"cniVersion": version, "interfaces": [lo], "ips": [address]}).to_string())
        }
        "CHECK" | "DEL" | "GC" | "STATUS" => Ok(String::new()),
        "" => Err(CniError::environment("CNI_COMMAND is not set")),
        other => Err(CniError::environment(format!("CNI_COMMAND {other:?} is not supported by loopback"))),
    }
}
