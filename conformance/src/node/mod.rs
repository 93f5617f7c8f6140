//! Tests of this SIG, a file as upstream has it.

mod configmap;
mod container_probe;
mod containers;
mod downwardapi;
mod dra;
mod ephemeral_containers;
mod expansion;
mod image_volume;
mod init_container;
mod kubelet;
mod kubelet_etc_hosts;
mod lease;
mod lifecycle_hook;
mod node_lifecycle;
mod pod_generation;
mod pods;
mod pods_lifecycle;
mod podtemplates;
mod pre_stop;
mod runtime;
mod runtimeclass;
mod secrets;
mod security_context;
mod sysctl;
mod taints;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[
    configmap::TESTS,
    container_probe::TESTS,
    containers::TESTS,
    downwardapi::TESTS,
    dra::TESTS,
    ephemeral_containers::TESTS,
    expansion::TESTS,
    image_volume::TESTS,
    init_container::TESTS,
    kubelet::TESTS,
    kubelet_etc_hosts::TESTS,
    lease::TESTS,
    lifecycle_hook::TESTS,
    node_lifecycle::TESTS,
    pod_generation::TESTS,
    pods::TESTS,
    pods_lifecycle::TESTS,
    podtemplates::TESTS,
    pre_stop::TESTS,
    runtime::TESTS,
    runtimeclass::TESTS,
    secrets::TESTS,
    security_context::TESTS,
    sysctl::TESTS,
    taints::TESTS,
];
