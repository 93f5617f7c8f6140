//! knarr-kubelet
fn main() {}
