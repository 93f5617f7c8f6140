//! knarr-apiserver
fn main() {}
