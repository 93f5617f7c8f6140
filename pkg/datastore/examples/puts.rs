//! Prints durable puts per second: `cargo run --release -p knarr-datastore --example puts [value bytes] [seconds]`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use knarr_datastore::{Datastore, Op, Range, Txn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

async fn reads(store: &Datastore) {
    let begun = Instant::now();
    for n in 0..1000u64 {
        store.get(&format!("/{}/{}", n % 64, n % 20)).await.unwrap().unwrap();
    }
    let get = begun.elapsed() / 1000;
    let begun = Instant::now();
    let all = store.range(Range::prefix("/")).await.unwrap();
    let whole = begun.elapsed();
    let begun = Instant::now();
    for _ in 0..20 {
        store.range(Range { limit: 500, ..Range::prefix("/") }).await.unwrap();
    }
    let page = begun.elapsed() / 20;
    let old = Range { revision: Some((all.revision - 5000).max(1)), limit: 500, ..Range::prefix("/") };
    let begun = Instant::now();
    store.range(old).await.unwrap();
    let past = begun.elapsed();
    let begun = Instant::now();
    let mut watch = store.watch("/1/", Some("/10"), 1.max(store.compacted() + 1)).await.unwrap();
    let mut events = 0;
    while watch.progress() < all.revision {
        events += watch.next().await.unwrap().events.len();
    }
    let history = begun.elapsed();
    let n = all.count;
    println!(
        "reads: get {get:?}; all {n} in {whole:?}; 500 of them in {page:?}, 5000 revisions ago in {past:?}; "
    );
    println!("       {events} events of one prefix among {} revisions in {history:?}", all.revision);
}

#[tokio::main]
async fn main() {
    let argument = |n: usize, default: u64| std::env::args().nth(n).map_or(default, |a| a.parse().unwrap());
    let (bytes, seconds) = (argument(1, 2048) as usize, argument(2, 3));
    for update in [false, true] {
        for writers in [1u64, 16, 64, 256] {
            let dir = tempfile::tempdir_in(".").unwrap();
            let store =
                Datastore::open(&format!("sqlite://{}/state.db", dir.path().display())).await.unwrap();
            let watch = store.watch("/", Some("0"), 0).await.unwrap();
            let count = Arc::new(AtomicU64::new(0));
            let (begun, before) = (Instant::now(), written_bytes());
            let until = begun + Duration::from_secs(seconds);
            let tasks = (0..writers).map(|writer| {
                let (store, count) = (store.clone(), count.clone());
                tokio::spawn(async move {
                    let mut worst = Duration::ZERO;
                    let mut n = 0u64;
                    while Instant::now() < until {
                        let name = if update { n % 20 } else { n };
                        let mut value = vec![b'x'; bytes];
                        value[..8].copy_from_slice(&n.to_be_bytes());
                        let put = Op::Put { key: format!("/{writer}/{name}"), value: value.into(), lease: 0 };
                        let sent = Instant::now();
                        store.txn(Txn { compares: vec![], success: vec![put] }).await.unwrap();
                        worst = worst.max(sent.elapsed());
                        count.fetch_add(1, Ordering::Relaxed);
                        n += 1;
                    }
                    worst
                })
            });
            let mut worst = Duration::ZERO;
            for task in tasks.collect::<Vec<_>>() {
                worst = worst.max(task.await.unwrap());
            }
            let n = count.load(Ordering::Relaxed);
            let rate = n as f64 / begun.elapsed().as_secs_f64();
            let each = (written_bytes() - before) / n.max(1);
            let what = if update { "updates" } else { "creates" };
            println!(
                "{what} {bytes} B, {writers:3} writers: {rate:8.0}/s, worst {worst:?}, {each} B written each"
            );
            drop(watch);
            if writers == 64 {
                reads(&store).await;
            }
            store.close().await;
        }
    }
}
