//! knarr-scheduler
fn main() {}
