//! knarr-registry
fn main() {}
