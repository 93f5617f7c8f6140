//! `events.k8s.io/v1`: another face of the core events, stored in one place.

pub(crate) mod event;
