//! Tests of this SIG, a file as upstream has it.

mod api_server;
mod dns;
mod endpoints;
mod endpointslice;
mod hostport;
mod ingress;
mod networking;
mod proxy;
mod reach;
mod service;
mod service_affinity;
mod service_api;
mod service_cidrs;
mod service_latency;
mod service_types;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[
    api_server::TESTS,
    dns::TESTS,
    endpoints::TESTS,
    endpointslice::TESTS,
    hostport::TESTS,
    ingress::TESTS,
    networking::TESTS,
    proxy::TESTS,
    service::TESTS,
    service_affinity::TESTS,
    service_api::TESTS,
    service_cidrs::TESTS,
    service_latency::TESTS,
    service_types::TESTS,
];
