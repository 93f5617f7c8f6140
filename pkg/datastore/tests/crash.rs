//! A child process is killed at random points, again and again, on one file.
//!
//! After each death: every acknowledged write is there, no transaction is there by half, the watch history joins on
//! without a gap, and replaying it gives the present state.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use knarr_datastore::*;
use rand::Rng;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const KILLS: usize = 200;
const WRITERS: usize = 12;
const CHILD: &str = "KNARR_TEST_CRASH_CHILD";

fn options() -> Options {
    // The child compacts on its own terms, so that deaths fall into sweeps too.
    Options { compaction: None, ring_bytes: 64 << 10, ..Options::default() }
}

/// Writes pairs (and now and then deletes them), printing each acknowledgement, until it is killed.
async fn child(endpoint: &str) {
    let store = Datastore::open_with(endpoint, options()).await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for n in 0u64.. {
                let key = |side: &str| format!("/{side}/{writer}/{}", n % 5);
                let value = Bytes::from(format!("{n}-{}", "v".repeat((n as usize * 37) % 3000)));
                let op = |side: &str| match n % 7 {
                    6 => Op::Delete { key: key(side) },
                    _ => Op::Put { key: key(side), value: value.clone(), lease: 0 },
                };
                let txn = Txn { compares: vec![], success: vec![op("a"), op("b")] };
                let TxnResult::Committed { revision, .. } = store.txn(txn).await.unwrap() else { panic!() };
                let text = format!("ack {revision} {} {}\n", key("a"), value.len());
                std::io::stdout().lock().write_all(text.as_bytes()).unwrap();
            }
        }));
    }
    let compactor = store.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(17)).await;
            let behind = compactor.revision() - 2000;
            if behind > compactor.compacted() + 300 {
                compactor.compact(behind).await.unwrap();
            }
        }
    });
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Lets a child live for a while; returns what it acknowledged: revision, key, length.
fn let_live(endpoint: &str, life: Duration) -> Vec<(Revision, String, usize)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "nothing_acknowledged_is_lost", "--nocapture"]).env(CHILD, endpoint);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    let mut line = String::new();
    let mut death = None;
    let mut killed = false;
    loop {
        line.clear();
        let read = output.read_line(&mut line).unwrap();
        if read == 0 || !line.ends_with('\n') {
            break;
        }
        if let Some(rest) = line.strip_prefix("ack ") {
            let words: Vec<_> = rest.split_whitespace().collect();
            acknowledged.push((words[0].parse().unwrap(), words[1].to_string(), words[2].parse().unwrap()));
            death.get_or_insert_with(|| Instant::now() + life);
        }
        if !killed && death.is_some_and(|at| Instant::now() >= at) {
            child.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed, "the child died by itself");
    child.wait().unwrap();
    acknowledged
}

#[test]
fn nothing_acknowledged_is_lost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(endpoint) = std::env::var_os(CHILD) {
        return runtime.block_on(child(endpoint.to_str().unwrap()));
    }
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("sqlite://{}/state.db", dir.path().display());
    let mut random = rand::rng();
    let mut state = BTreeMap::new();
    let mut seen = 0;
    let mut total = 0;
    for kill in 0..KILLS {
        let acknowledged = let_live(&endpoint, Duration::from_micros(random.random_range(0..60_000)));
        total += acknowledged.len();
        seen = runtime.block_on(verify(&endpoint, seen, &mut state, acknowledged, kill % 20 == 0));
    }
    eprintln!("{KILLS} deaths, {total} acknowledged, revision {seen}");
}

/// Goes from the revision that was seen last, over the watch history, to the present state.
async fn verify(
    endpoint: &str,
    seen: Revision,
    state: &mut BTreeMap<String, KeyValue>,
    acknowledged: Vec<(Revision, String, usize)>,
    thoroughly: bool,
) -> Revision {
    let store = Datastore::open_with(endpoint, options()).await.unwrap();
    let newest = store.revision();
    if thoroughly {
        store.check_integrity().await.unwrap();
    }
    let from = seen.max(store.compacted()) + 1;
    let present = store.range(Range::prefix("/")).await.unwrap();
    if from > seen + 1 {
        // The history between has been compacted: begin anew with the state at that revision.
        let range = Range { revision: Some(from - 1), ..Range::prefix("/") };
        let base = store.range(range).await.unwrap();
        *state = base.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    }
    let mut history = BTreeMap::new();
    let mut watch = store.watch("/", Some("0"), from).await.unwrap();
    let mut next = from;
    while watch.progress() < newest {
        let batch = watch.next().await.unwrap();
        assert_eq!(batch.revision, next, "a gap in the history");
        next += 1;
        let [a, b] = batch.events.as_ref() else { panic!("half a transaction: {batch:?}") };
        assert_eq!(a.kv.key.replacen("/a/", "/b/", 1), b.kv.key);
        assert_eq!((&a.kv.value, a.deleted), (&b.kv.value, b.deleted));
        history.insert(batch.revision, a.clone());
        for event in [a, b] {
            assert_eq!(event.previous.is_some(), event.kv.version != 1, "{event:?}");
            assert_eq!(event.previous.as_ref(), state.get(&event.kv.key));
            if event.deleted {
                state.remove(&event.kv.key);
            } else {
                state.insert(event.kv.key.clone(), event.kv.clone());
            }
        }
    }
    assert_eq!(next, newest + 1);
    assert!(present.kvs.iter().eq(state.values()), "replaying the history does not give the state");
    for (revision, key, length) in acknowledged {
        assert!(revision <= newest, "acknowledged {revision}, but the store is at {newest}");
        // A suppressed write (deletion of an absent key) is acknowledged with the newest revision.
        if let Some(event) = history.get(&revision).filter(|event| event.kv.key == key) {
            assert!(event.deleted || event.kv.value.len() == length);
        }
    }
    store.close().await;
    newest
}
