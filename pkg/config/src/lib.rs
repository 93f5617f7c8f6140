//! knarr-config
fn main() {}
