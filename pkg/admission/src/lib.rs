//! knarr-admission
fn main() {}
