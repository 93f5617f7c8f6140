//! knarr-auth
fn main() {}
