//! The server's own certificates renew themselves at two thirds of their life, without a restart.

use std::sync::Arc;
use std::time::Duration;

use knarr_pki::{CertKey, Rotating, rotating};

use crate::process::Process;

/// Clocks jump: the age is looked at this often at least.
const LOOK: Duration = Duration::from_secs(3600);
/// Pause after a failure, and between two renewals.
const PAUSE: Duration = Duration::from_secs(30);

/// Loads or issues a certificate.
pub type Ensure = Box<dyn Fn() -> Result<CertKey, knarr_pki::Error> + Send + Sync>;
/// Told of every new certificate.
pub type Changed = Box<dyn Fn(&CertKey) -> anyhow::Result<()> + Send + Sync>;

/// Puts a certificate to use and keeps it fresh.
///
/// # Errors
/// The first certificate cannot be made.
pub fn keep(
    process: &Arc<Process>,
    name: &'static str,
    ensure: Ensure,
    changed: Changed,
) -> anyhow::Result<Arc<Rotating>> {
    let mut pair = ensure()?;
    changed(&pair)?;
    let current = Rotating::new(&pair)?;
    let (used, shutdown) = (current.clone(), process.shutdown.clone());
    process.spawn(name, async move {
        loop {
            let due = rotating::renewal_in(&pair.cert_pem).min(LOOK);
            tokio::select! {
                () = tokio::time::sleep(due) => {}
                () = shutdown.cancelled() => return anyhow::Ok(()),
            }
            if !rotating::renewal_in(&pair.cert_pem).is_zero() {
                continue;
            }
            let renewed = ensure().map_err(anyhow::Error::from).and_then(|fresh| {
                used.set(&fresh)?;
                changed(&fresh)?;
                Ok(fresh)
            });
            match renewed {
                Ok(fresh) => {
                    tracing::info!(certificate = name, "certificate renewed");
                    pair = fresh;
                }
                Err(error) => {
                    tracing::warn!(certificate = name, %error, "certificate not renewed, trying again")
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    });
    Ok(current)
}
