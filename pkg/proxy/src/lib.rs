//! knarr-proxy
fn main() {}
