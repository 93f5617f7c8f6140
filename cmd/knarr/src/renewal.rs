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

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_pki::{Ca, Leaf, Request, request};
    use parking_lot::Mutex;

    #[tokio::test]
    async fn a_certificate_that_is_due_is_replaced_and_told() {
        let ca = Ca::create("ca").unwrap();
        let leaf = Leaf::client("system:admin", &["system:masters"]);
        let (pem, key_pem) = request::make(&leaf).unwrap();
        let usages = ["digital signature".to_string(), "client auth".to_string()];
        let cert_pem = ca.sign_request(&Request::parse(&pem).unwrap(), &usages, 400).unwrap();
        let old = CertKey { cert_pem, key_pem };
        assert!(rotating::renewal_in(&old.cert_pem).is_zero() && rotating::is_alive(&old.cert_pem));
        let fresh = ca.issue(&leaf).unwrap();
        let waiting = Mutex::new(vec![fresh.clone(), old.clone()]);
        let process = Arc::new(Process::default());
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        let current = keep(
            &process,
            "test",
            Box::new(move || Ok(waiting.lock().pop().unwrap())),
            Box::new(move |pair| Ok(sender.send(pair.cert_pem.clone())?)),
        )
        .unwrap();
        assert!(current.is_set());
        assert_eq!(told.recv().await.unwrap(), old.cert_pem);
        let second = tokio::time::timeout(Duration::from_secs(5), told.recv()).await.unwrap().unwrap();
        assert_eq!(second, fresh.cert_pem);
        process.stop().await;
    }
}
