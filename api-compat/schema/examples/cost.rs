//! What decoding the facts costs: time and resident memory. `cargo run --release -p knarr-schema --example cost`.
use std::time::Instant;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn main() {
    let before = resident_kib();
    let start = Instant::now();
    let structs = knarr_schema::builtin_types().iter().count();
    println!("{structs} types: {:?}, {} KiB", start.elapsed(), resident_kib() - before);
    let start = Instant::now();
    match knarr_schema::openapi_schemas() {
        Ok(all) => println!("{} documented schemas: {:?}", all.len(), start.elapsed()),
        Err(e) => println!("{e}"),
    }
}
