//! knarr-client
fn main() {}
