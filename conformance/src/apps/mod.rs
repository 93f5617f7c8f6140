//! Tests of this SIG, a file as upstream has it.

mod controller_revision;
mod cronjob;
mod daemon_set;
mod daemon_set_update;
mod deployment;
mod deployment_rollout;
mod disruption;
mod job;
mod job_policy;
mod rc;
mod replica_set;
mod statefulset;
mod statefulset_scale;
mod workloads;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[
    controller_revision::TESTS,
    cronjob::TESTS,
    daemon_set::TESTS,
    daemon_set_update::TESTS,
    deployment::TESTS,
    deployment_rollout::TESTS,
    disruption::TESTS,
    job::TESTS,
    job_policy::TESTS,
    rc::TESTS,
    replica_set::TESTS,
    statefulset::TESTS,
    statefulset_scale::TESTS,
];
