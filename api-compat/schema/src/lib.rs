//! knarr-schema
fn main() {}
