//! knarr-plugin
fn main() {}
