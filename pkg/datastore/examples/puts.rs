//! Prints durable puts per second: `cargo run --release -p knarr-datastore --example puts [value bytes] [seconds]`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use knarr_datastore::{Datastore, Op, Txn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[tokio::main]
async fn main() {
    let argument = |n: usize, default: u64| {
        std::env::args()
            .nth(n)
            .map_or(default, |a| a.parse().unwrap())
    };
    let (bytes, seconds) = (argument(1, 2048) as usize, argument(2, 3));
    for update in [false, true] {
        for writers in [1u64, 16, 64, 256] {
            let dir = tempfile::tempdir_in(".").unwrap();
            let store = Datastore::open(&format!("sqlite://{}/state.db", dir.path().display()))
                .await
                .unwrap();
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
                        let put = Op::Put {
                            key: format!("/{writer}/{name}"),
                            value: value.into(),
                            lease: 0,
                        };
                        let sent = Instant::now();
                        store
                            .txn(Txn {
                                compares: vec![],
                                success: vec![put],
                            })
                            .await
                            .unwrap();
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
            store.close().await;
        }
    }
}
