//! knarr-telemetry
fn main() {}
