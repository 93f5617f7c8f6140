//! An idle store does nothing: no thread of the process wakes up. Alone in its binary, because it looks at the process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use knarr_datastore::{Datastore, Op, Txn};
use std::time::Duration;

/// Voluntary context switches of all threads: each is a wake-up.
fn wake_ups() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let count = |status: String| {
        let line =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).map(str::trim);
        line.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    threads.map(|thread| count(std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap())).sum()
}

#[test]
fn an_idle_store_sleeps() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("sqlite://{}/state.db", dir.path().display());
    let (store, mut watches) = runtime.block_on(async {
        let store = Datastore::open(&endpoint).await.unwrap();
        let mut watches = Vec::new();
        for n in 0..150 {
            let (start, end) = (format!("/registry/{n}/"), format!("/registry/{n}0"));
            watches.push(store.watch(&start, Some(&end), 0).await.unwrap());
        }
        store.lease_grant(3600).await.unwrap();
        for n in 0..100 {
            let put = Op::Put { key: format!("/registry/7/{n}"), value: "x".into(), lease: 0 };
            store.txn(Txn { compares: vec![], success: vec![put] }).await.unwrap();
        }
        (store, watches)
    });
    std::thread::sleep(Duration::from_millis(500));
    let before = wake_ups();
    std::thread::sleep(Duration::from_secs(2));
    let woken = wake_ups() - before;
    // This thread's own sleep is one.
    assert!(woken <= 3, "{woken} wake-ups in 2 s");
    runtime.block_on(async {
        let mut seen = 0;
        while watches[7].progress() < store.revision() {
            seen += watches[7].next().await.unwrap().events.len();
        }
        assert_eq!((seen, watches[8].progress()), (100, 100));
        store.close().await;
    });
}
