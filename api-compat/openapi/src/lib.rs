//! knarr-openapi
fn main() {}
