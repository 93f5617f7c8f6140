//! The signer that runs beside the test, as upstream's hermetic one: it answers PodCertificateRequests for its name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::pki::Authority;
use crate::Result;
use crate::api::{Api, array, name_of, number, text, version_of};
use crate::context::Context;
use crate::kinds::{POD_CERTIFICATE_REQUESTS, TRUST_BUNDLES};

/// A running signer; it ends when this is dropped.
pub(super) struct Signer {
    /// Its name.
    pub name: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a signer with its trust bundle.
pub(super) async fn start(cx: &Context) -> Result<Signer> {
    let name = format!("e2e.example.com/{}", cx.namespace());
    let authority = Authority::new("e2e signer")?;
    let bundle = json!({
        "metadata": {"name": format!("{}:primary-bundle", name.replace('/', ":"))},
        "spec": {"signerName": name, "trustBundle": authority.pem},
    });
    cx.create(&TRUST_BUNDLES, &bundle).await?;
    let (api, signer) = (cx.api_all(&POD_CERTIFICATE_REQUESTS), name.clone());
    let cx = cx.clone();
    let task = tokio::spawn(async move {
        if let Err(e) = serve(&cx, &api, &signer, &authority).await {
            eprintln!("signer {signer}: {e:#}");
        }
    });
    Ok(Signer { name, task })
}

async fn serve(cx: &Context, api: &Api, signer: &str, authority: &Authority) -> Result<()> {
    loop {
        let list = api.list(&[]).await?;
        for request in array(&list, "/items") {
            answer(cx, request, signer, authority).await?;
        }
        let mut watch = api.watch(&[("resourceVersion", version_of(&list))]).await?;
        while let Some(event) = watch.next().await? {
            match event.kind.as_str() {
                "ADDED" | "MODIFIED" => answer(cx, &event.object, signer, authority).await?,
                "ERROR" => break,
                _ => {}
            }
        }
    }
}

async fn answer(cx: &Context, request: &Value, signer: &str, authority: &Authority) -> Result<()> {
    if text(request, "/spec/signerName") != signer || !array(request, "/status/conditions").is_empty() {
        return Ok(());
    }
    let status = issue(request, authority)?;
    let mut answered = request.clone();
    answered["status"] = status;
    let api = cx.api_in(&POD_CERTIFICATE_REQUESTS, text(request, "/metadata/namespace"));
    api.update_sub(name_of(request)?, "status", &POD_CERTIFICATE_REQUESTS.document(answered))
        .await
        .map(|_| ())
}

/// A time as the API writes it.
pub(super) fn stamp(time: OffsetDateTime) -> String {
    let (date, clock) = (time.date(), time.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

/// A certificate for the pod's service account, of a day or less if less was asked for.
fn issue(request: &Value, authority: &Authority) -> Result<Value> {
    let der = STANDARD.decode(text(request, "/spec/stubPKCS10Request"))?;
    let mut csr = CertificateSigningRequestParams::from_der(&der.into())?;
    let path = match text(request, "/spec/unverifiedUserAnnotations/spiffe~1path-overriding") {
        "" => {
            format!(
                "/ns/{}/sa/{}",
                text(request, "/metadata/namespace"),
                text(request, "/spec/serviceAccountName")
            )
        }
        other => other.to_string(),
    };
    let asked = number(request, "/spec/maxExpirationSeconds");
    let life = Duration::seconds(asked.clamp(1, 86400));
    let now = OffsetDateTime::now_utc().replace_nanosecond(0)?;
    // A little in the past: clocks differ.
    let begin = now - Duration::minutes(2);
    let end = begin + life;
    csr.params.distinguished_name = DistinguishedName::new();
    // As upstream's signer: the name of the Service that the mTLS test makes is in every certificate.
    let service = format!("server.{}.svc", text(request, "/metadata/namespace"));
    csr.params.subject_alt_names = vec![
        SanType::URI(Ia5String::try_from(format!("spiffe://cluster.local{path}"))?),
        SanType::DnsName(Ia5String::try_from(service)?),
    ];
    csr.params.not_before = begin;
    csr.params.not_after = end;
    csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    csr.params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let chain = csr.signed_by(authority.issuer())?.pem().replace("\r\n", "\n");
    Ok(json!({
        "conditions": [{"type": "Issued", "status": "True", "reason": "Reason", "message": "Issued",
                        "lastTransitionTime": stamp(now)}],
        "certificateChain": chain,
        "notBefore": stamp(begin),
        "beginRefreshAt": stamp(end - Duration::minutes(30)),
        "notAfter": stamp(end),
    }))
}
