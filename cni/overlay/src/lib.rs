//! knarr-overlay
fn main() {}
