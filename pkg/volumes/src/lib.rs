//! knarr-volumes
fn main() {}
