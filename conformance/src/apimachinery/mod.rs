//! Tests of this SIG, a file as upstream has it.

pub(crate) mod battery;
mod chunking;
mod discovery;
mod flowcontrol;
mod garbage_collector;
mod garbage_collector_owners;
mod namespace;
mod namespace_ordered;
mod quota;
mod resource_quota;
mod resource_quota_pods;
mod resource_quota_scopes;
mod storage_version_migration;
pub(crate) mod strict;
mod table_conversion;
mod watch;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[
    chunking::TESTS,
    discovery::TESTS,
    flowcontrol::TESTS,
    garbage_collector::TESTS,
    garbage_collector_owners::TESTS,
    namespace::TESTS,
    namespace_ordered::TESTS,
    resource_quota::TESTS,
    resource_quota_pods::TESTS,
    resource_quota_scopes::TESTS,
    storage_version_migration::TESTS,
    table_conversion::TESTS,
    watch::TESTS,
];
