//! Tests of this SIG, a file as upstream has it.

mod aggregated_discovery;
mod aggregator;
pub(crate) mod battery;
mod chunking;
mod crd;
mod crd_conversion_webhook;
mod crd_selectable_fields;
mod crd_watch;
mod custom_resource_definition;
mod discovery;
mod field_validation;
mod flowcontrol;
mod garbage_collector;
mod garbage_collector_owners;
mod hooks;
mod namespace;
mod namespace_ordered;
mod policies;
mod policies_in_force;
mod publish_openapi;
mod publish_openapi_kubectl;
mod quota;
mod resource_quota;
mod resource_quota_pods;
mod resource_quota_scopes;
mod serving;
mod storage_version_migration;
pub(crate) mod strict;
mod table_conversion;
mod watch;
mod webhook;
mod webhook_configuration;
mod webhook_custom;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[
    aggregated_discovery::TESTS,
    aggregator::TESTS,
    chunking::TESTS,
    crd_conversion_webhook::TESTS,
    crd_selectable_fields::TESTS,
    crd_watch::TESTS,
    custom_resource_definition::TESTS,
    discovery::TESTS,
    field_validation::TESTS,
    flowcontrol::TESTS,
    garbage_collector::TESTS,
    garbage_collector_owners::TESTS,
    namespace::TESTS,
    namespace_ordered::TESTS,
    policies::TESTS,
    policies_in_force::TESTS,
    publish_openapi::TESTS,
    publish_openapi_kubectl::TESTS,
    resource_quota::TESTS,
    resource_quota_pods::TESTS,
    resource_quota_scopes::TESTS,
    storage_version_migration::TESTS,
    table_conversion::TESTS,
    watch::TESTS,
    webhook::TESTS,
    webhook_configuration::TESTS,
    webhook_custom::TESTS,
];
