//! Tests of this SIG, a file as upstream has it.

mod certificates;
pub(crate) mod pki;
mod pod_certificate;
mod pod_certificate_request;
mod service_accounts;
mod service_accounts_pods;
mod signer;
mod subject_reviews;
mod trust_bundle;
mod trust_bundle_projection;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[
    certificates::TESTS,
    pod_certificate::TESTS,
    pod_certificate_request::TESTS,
    service_accounts::TESTS,
    service_accounts_pods::TESTS,
    subject_reviews::TESTS,
    trust_bundle::TESTS,
    trust_bundle_projection::TESTS,
];
