//! knarr-harness
fn main() {}
