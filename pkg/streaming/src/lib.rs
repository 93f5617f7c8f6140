//! knarr-streaming
fn main() {}
