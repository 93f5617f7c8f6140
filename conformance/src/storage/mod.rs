//! Tests of this SIG, a file as upstream has it.

mod configmap_volume;

mod csi_inline;
mod csi_node;
mod csi_storage_capacity;
mod downwardapi_volume;
mod empty_dir;
mod empty_dir_wrapper;
mod keyed;
mod persistent_volumes;
mod projected_combined;
mod projected_configmap;
mod projected_downwardapi;
mod projected_secret;
mod secrets_volume;
mod storageclass;
mod subpath;
mod volume_attachment;
mod volume_attributes_class;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[
    configmap_volume::TESTS,
    csi_inline::TESTS,
    csi_node::TESTS,
    csi_storage_capacity::TESTS,
    downwardapi_volume::TESTS,
    empty_dir::TESTS,
    empty_dir_wrapper::TESTS,
    persistent_volumes::TESTS,
    projected_combined::TESTS,
    projected_configmap::TESTS,
    projected_downwardapi::TESTS,
    projected_secret::TESTS,
    secrets_volume::TESTS,
    storageclass::TESTS,
    subpath::TESTS,
    volume_attachment::TESTS,
    volume_attributes_class::TESTS,
];

pub use keyed::Flavour;

/// A ConfigMap or Secret with these texts.
pub fn flavoured(flavour: Flavour, name: &str, data: &[(&str, &str)]) -> serde_json::Value {
    flavour.object(name, data)
}
