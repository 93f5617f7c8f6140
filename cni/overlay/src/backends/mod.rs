//! One file per backend.

pub mod host_gw;
pub mod none;
pub mod vxlan;
