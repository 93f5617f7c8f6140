//! knarr-netlink
fn main() {}
