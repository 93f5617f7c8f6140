//! knarr-controllers
fn main() {}
