//! knarr-pki
fn main() {}
