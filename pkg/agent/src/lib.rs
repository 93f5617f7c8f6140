//! knarr-agent
fn main() {}
