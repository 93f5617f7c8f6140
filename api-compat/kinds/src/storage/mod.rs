//! `storage.k8s.io/v1`.

pub(crate) mod csidriver;
pub(crate) mod csinode;
pub(crate) mod csistoragecapacity;
pub(crate) mod storageclass;
pub(crate) mod volumeattachment;
pub(crate) mod volumeattributesclass;

/// The API group.
pub(crate) const GROUP: &str = "storage.k8s.io";
