//! knarr-addons
fn main() {}
