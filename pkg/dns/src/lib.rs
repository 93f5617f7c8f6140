//! knarr-dns
fn main() {}
