//! knarr-cri
fn main() {}
