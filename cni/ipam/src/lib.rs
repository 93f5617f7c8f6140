//! knarr-ipam
fn main() {}
