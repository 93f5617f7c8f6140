//! One suite for all drivers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use knarr_datastore::*;
use rand::Rng;
use rand::SeedableRng;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn manual() -> Options {
    Options { compaction: None, ..Options::default() }
}

fn put(key: &str, value: &str) -> Op {
    leased(key, value, 0)
}

fn leased(key: &str, value: &str, lease: LeaseId) -> Op {
    Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), lease }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

async fn write(store: &Datastore, ops: Vec<Op>) -> Revision {
    match store.txn(Txn { compares: vec![], success: ops }).await.unwrap() {
        TxnResult::Committed { revision, .. } => revision,
        other => panic!("{other:?}"),
    }
}

fn short(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter()
        .map(|kv| {
            let value = String::from_utf8_lossy(&kv.value);
            format!("{}={value} c{} m{} v{}", kv.key, kv.create_revision, kv.mod_revision, kv.version)
        })
        .collect()
}

fn event(event: &Event) -> String {
    let previous = event.previous.as_ref().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
    let sign = if event.deleted { "-" } else { "+" };
    let value = String::from_utf8_lossy(&event.kv.value);
    format!("{}{sign}{}={value}<{}", event.kv.mod_revision, event.kv.key, previous.unwrap_or_default())
}

async fn events(watch: &mut Watch, upto: Revision) -> Vec<String> {
    let mut seen = Vec::new();
    while watch.progress() < upto {
        let batch = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
        seen.extend(batch.events.iter().map(event));
    }
    seen
}

async fn reads(store: Datastore) {
    assert_eq!((store.revision(), store.compacted()), (0, 0));
    assert_eq!(write(&store, vec![put("/a/1", "x"), put("/a/2", "y"), put("/b/1", "z")]).await, 1);
    assert_eq!(write(&store, vec![put("/a/1", "xx")]).await, 2);
    assert_eq!(write(&store, vec![delete("/a/2"), delete("/none")]).await, 3);
    assert_eq!(write(&store, vec![delete("/none")]).await, 3);
    assert_eq!(write(&store, vec![put("/a/2", "yy"), put("/a/3", "n")]).await, 4);
    let read =
        async |range: Range| store.range(range).await.map(|r| (short(&r.kvs), r.count, r.more, r.revision));
    let a = Range::prefix("/a/");
    let now = ["/a/1=xx c1 m2 v2", "/a/2=yy c4 m4 v1", "/a/3=n c4 m4 v1"].map(String::from);
    assert_eq!(read(a.clone()).await, Ok((now.to_vec(), 3, false, 4)));
    let limited = Range { limit: 2, ..a.clone() };
    assert_eq!(read(limited.clone()).await, Ok((now[..2].to_vec(), 3, true, 4)));
    let at = |revision| Range { revision: Some(revision), ..a.clone() };
    let first = ["/a/1=x c1 m1 v1", "/a/2=y c1 m1 v1"].map(String::from).to_vec();
    assert_eq!(read(at(1)).await, Ok((first.clone(), 2, false, 1)));
    assert_eq!(read(Range { limit: 1, ..at(1) }).await, Ok((first[..1].to_vec(), 2, true, 1)));
    assert_eq!(read(at(3)).await, Ok((vec!["/a/1=xx c1 m2 v2".into()], 1, false, 3)));
    assert_eq!(read(at(4)).await, Ok((now.to_vec(), 3, false, 4)));
    assert_eq!(read(Range { count_only: true, ..at(3) }).await, Ok((vec![], 1, false, 3)));
    assert_eq!(read(Range { count_only: true, ..a.clone() }).await, Ok((vec![], 3, false, 4)));
    let keys = store.range(Range { keys_only: true, ..a.clone() }).await.unwrap();
    assert!(keys.kvs.len() == 3 && keys.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 1));
    let all = store.range(Range { end: Some(String::new()), ..Range::default() }).await.unwrap();
    assert_eq!(all.count, 4);
    assert_eq!(read(Range::prefix("/nothing")).await, Ok((vec![], 0, false, 4)));
    assert_eq!(store.get("/a").await.unwrap(), None);
    assert_eq!(store.get("/b/1").await.unwrap().unwrap().value, "z");
    assert_eq!(read(at(9)).await, Err(Error::Future { requested: 9, current: 4 }));
    store.compact(3).await.unwrap();
    assert_eq!(read(at(2)).await, Err(Error::Compacted { requested: 2, compacted: 3 }));
    assert_eq!(read(at(3)).await, Ok((vec!["/a/1=xx c1 m2 v2".into()], 1, false, 3)));
    assert_eq!(read(a.clone()).await, Ok((now.to_vec(), 3, false, 4)));
    assert_eq!(store.compact(3).await, Err(Error::Compacted { requested: 3, compacted: 3 }));
    assert_eq!(store.compact(7).await, Err(Error::Future { requested: 7, current: 4 }));
    store.check_integrity().await.unwrap();
}

async fn conditions(store: Datastore) {
    let txn = async |key: &str, at, ops| {
        let compares = vec![Compare::ModRevision(key.into(), at)];
        store.txn(Txn { compares, success: ops }).await.unwrap()
    };
    let created = txn("k", 0, vec![put("k", "1")]).await;
    assert_eq!(created, TxnResult::Committed { revision: 1, previous: vec![None] });
    let state = store.get("k").await.unwrap();
    let refused = txn("k", 0, vec![put("k", "2")]).await;
    assert_eq!(refused, TxnResult::Conflict { revision: 1, current: vec![state.clone()] });
    let same = put("k", "1");
    let suppressed = txn("k", 1, vec![same.clone()]).await;
    assert_eq!(suppressed, TxnResult::Committed { revision: 1, previous: vec![state.clone()] });
    let mixed = txn("k", 1, vec![same.clone(), put("l", "1")]).await;
    assert_eq!(mixed, TxnResult::Committed { revision: 2, previous: vec![state.clone(), None] });
    assert_eq!(same.resulting_revision(state.as_ref(), 2), 1);
    assert_eq!(put("l", "1").resulting_revision(None, 2), 2);
    assert_eq!(store.get("k").await.unwrap(), state);
    let absent = txn("x", 3, vec![put("x", "2")]).await;
    assert_eq!(absent, TxnResult::Conflict { revision: 2, current: vec![None] });
    let twice = store.txn(Txn { compares: vec![], success: vec![put("k", "1"), delete("k")] }).await;
    assert!(matches!(twice, Err(Error::Invalid { .. })), "{twice:?}");
    // Sixty-four tasks raise one counter by compare-and-swap.
    write(&store, vec![put("n", "0")]).await;
    let raise = |store: Datastore| async move {
        loop {
            let kv = store.get("n").await.unwrap().unwrap();
            let n: i64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
            let compares = vec![Compare::ModRevision("n".into(), kv.mod_revision)];
            let success = vec![put("n", &(n + 1).to_string())];
            if let TxnResult::Committed { revision, .. } = store.txn(Txn { compares, success }).await.unwrap()
            {
                assert!(store.revision() >= revision);
                return;
            }
        }
    };
    let tasks: Vec<_> = (0..64).map(|_| tokio::spawn(raise(store.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.get("n").await.unwrap().unwrap().value, "64");
}

async fn watches(store: Datastore) {
    write(&store, vec![put("/a/1", "1"), put("/b/1", "1")]).await;
    write(&store, vec![put("/a/1", "2")]).await;
    let end = prefix_end("/a/");
    let mut history = store.watch("/a/", Some(&end), 1).await.unwrap();
    let mut live = store.watch("/a/", Some(&end), 0).await.unwrap();
    let mut future = store.watch("/a/", Some(&end), 5).await.unwrap();
    write(&store, vec![delete("/a/1"), put("/b/1", "2")]).await;
    write(&store, vec![put("/b/1", "3")]).await;
    write(&store, vec![put("/a/1", "3")]).await;
    let tail = ["3-/a/1=<2", "5+/a/1=3<"];
    // What was answered is with the watchers, without waiting.
    let mut at_hand = Vec::new();
    while let Some(batch) = live.try_next().unwrap() {
        at_hand.extend(batch.events.iter().map(event));
    }
    assert_eq!((at_hand, live.progress()), (tail.map(String::from).to_vec(), 5));
    assert_eq!(events(&mut history, 5).await, [&["1+/a/1=1<", "2+/a/1=2<1"], &tail[..]].concat());
    assert_eq!(events(&mut future, 5).await, ["5+/a/1=3<"]);
    store.compact(4).await.unwrap();
    store.close().await;
    assert_eq!(live.next().await, Err(Error::Closed));
    assert_eq!(store.txn(Txn::default()).await, Err(Error::Closed));
}

/// With a tiny ring everybody falls off it again and again: all must still see each revision once, in order.
async fn slow_watchers(store: Datastore) {
    let last = 600;
    let reader = |mut watch: Watch, pause: u64| async move {
        let mut next = 1;
        while next <= last {
            let batch = watch.next().await.unwrap();
            assert_eq!(batch.revision, next);
            assert_eq!(batch.events.len(), 2);
            for event in batch.events.iter() {
                assert_eq!(event.previous.as_ref().map_or(0, |kv| kv.mod_revision), next - 1);
            }
            next += 1;
            if next % 16 == 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        assert_eq!(watch.progress(), last);
    };
    let mut readers = Vec::new();
    for pause in [0, 1, 5, 20] {
        readers.push(tokio::spawn(reader(store.watch("/", Some("0"), 1).await.unwrap(), pause)));
    }
    for n in 0..last {
        let value = format!("{n}{}", "x".repeat(500));
        write(&store, vec![put("/a", &value), put("/b", &value)]).await;
        if n == 300 {
            readers.push(tokio::spawn(reader(store.watch("/", Some("0"), 1).await.unwrap(), 0)));
        }
    }
    for reader in readers {
        reader.await.unwrap();
    }
    let mut lagging = store.watch("/", Some("0"), 0).await.unwrap();
    for n in 0..50 {
        write(&store, vec![put("/a", &format!("{n}{}", "y".repeat(1000)))]).await;
    }
    store.compact(last + 49).await.unwrap();
    assert_eq!(lagging.next().await, Err(Error::Lagged(last + 1)));
    let late = store.watch("/", Some("0"), last + 1).await.err();
    assert_eq!(late, Some(Error::Compacted { requested: last + 1, compacted: last + 49 }));
}

async fn leases(store: Datastore) {
    let id = store.lease_grant(1).await.unwrap();
    let kept = store.lease_grant_as(77, 3600).await.unwrap();
    assert_eq!(store.leases().len(), 2);
    write(&store, vec![leased("/l/1", "a", id), leased("/l/2", "a", id), leased("/l/3", "a", kept)]).await;
    write(&store, vec![put("/l/2", "a")]).await; // no longer bound
    let status = store.lease_ttl(id).await.unwrap();
    assert_eq!(
        (status.granted_seconds, status.remaining_seconds, status.keys),
        (1, 1, vec!["/l/1".to_string()])
    );
    let mut watch = store.watch("/l/", Some("/l0"), 0).await.unwrap();
    let begun = Instant::now();
    let batch = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap().unwrap();
    assert_eq!(batch.events.iter().map(event).collect::<Vec<_>>(), ["3-/l/1=<a"]);
    assert!(begun.elapsed() < Duration::from_millis(1500));
    let unknown = Err(Error::LeaseNotFound(id));
    assert_eq!(store.lease_keep_alive(id).await, unknown);
    let bound = Txn { compares: vec![], success: vec![leased("x", "", id)] };
    assert_eq!(store.txn(bound).await.unwrap_err(), Error::LeaseNotFound(id));
    assert_eq!(store.lease_keep_alive(kept).await, Ok(3600));
    assert!(store.lease_grant_as(77, 5).await.is_err());
    store.lease_revoke(kept).await.unwrap();
    assert_eq!(store.lease_revoke(kept).await, Err(Error::LeaseNotFound(kept)));
    assert_eq!(store.get("/l/3").await.unwrap(), None);
    assert_eq!(store.get("/l/2").await.unwrap().unwrap().lease, 0);
}

/// A store that compacts itself: by number of revisions at once, by age when the time has come, and then no more.
async fn compacts_itself(store: Datastore) {
    for n in 0..500 {
        write(&store, vec![put("/k", &n.to_string()), put(&format!("/n/{}", n % 7), &n.to_string())]).await;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while store.compacted() < 500 {
        assert!(Instant::now() < deadline, "compacted only to {}", store.compacted());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.range(Range::prefix("/")).await.unwrap().count, 8);
    let mut watch = store.watch("/", Some("0"), 501).await.unwrap();
    write(&store, vec![delete("/k")]).await;
    assert_eq!(events(&mut watch, 501).await, ["501-/k=<499"]);
    store.check_integrity().await.unwrap();
}

async fn check(case: &str, options: Options) {
    let dir = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}/sub/state.db", dir.path().display());
    for endpoint in ["memory://", &file] {
        let store = Datastore::open_with(endpoint, options.clone()).await.unwrap();
        match case {
            "reads" => reads(store).await,
            "conditions" => conditions(store).await,
            "watches" => watches(store).await,
            "slow_watchers" => slow_watchers(store).await,
            "leases" => leases(store).await,
            "compacts_itself" => compacts_itself(store).await,
            other => panic!("{other}"),
        }
    }
}

macro_rules! suite {
    ($($case:ident: $options:expr,)*) => {
        $(mod $case {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_every_driver() {
                super::check(stringify!($case), { use super::*; $options }).await;
            }
        })*
    };
}

suite! {
    reads: manual(),
    conditions: manual(),
    watches: manual(),
    slow_watchers: Options { ring_bytes: 8 << 10, ..manual() },
    leases: manual(),
    compacts_itself: Options {
        compaction: Some(Compaction { retention: Duration::from_millis(500), max_revisions: 100 }),
        ..manual()
    },
}

/// Random operations on both drivers: every answer, every old state and the whole history agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drivers_agree() {
    let dir = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}/state.db", dir.path().display());
    for seed in 0..6 {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let _ = std::fs::remove_file(dir.path().join("state.db"));
        let stores = [
            Datastore::open_with("memory://", manual()).await.unwrap(),
            Datastore::open_with(&file, manual()).await.unwrap(),
        ];
        let mut states: BTreeMap<Revision, Vec<KeyValue>> = BTreeMap::new();
        for _ in 0..150 {
            let mut ops: Vec<Op> = Vec::new();
            for _ in 0..random.random_range(1..4) {
                let key = format!("/{}/{}", random.random_range(0..3), random.random_range(0..6));
                if ops.iter().all(|op| op.key() != key) {
                    let value = random.random_range(0..3).to_string();
                    ops.push(if random.random_bool(0.3) { delete(&key) } else { put(&key, &value) });
                }
            }
            let guess = random.random_range(0..3);
            let compares = if guess == 0 { vec![Compare::ModRevision("/0/0".into(), 0)] } else { vec![] };
            let txn = Txn { compares, success: ops };
            assert_eq!(stores[0].txn(txn.clone()).await, stores[1].txn(txn).await);
            if random.random_bool(0.02) && stores[0].revision() > stores[0].compacted() {
                let at = random.random_range(stores[0].compacted() + 1..=stores[0].revision());
                for store in &stores {
                    store.compact(at).await.unwrap();
                }
            }
            states.insert(stores[0].revision(), stores[0].range(Range::prefix("/")).await.unwrap().kvs);
        }
        for (revision, kvs) in &states {
            let range = Range { revision: Some(*revision), limit: 5, ..Range::prefix("/") };
            let got = [stores[0].range(range.clone()).await, stores[1].range(range).await];
            assert_eq!(got[0], got[1], "seed {seed} revision {revision}");
            if let Ok(found) = &got[0] {
                assert_eq!((found.kvs.as_slice(), found.count), (&kvs[..kvs.len().min(5)], kvs.len()));
            }
        }
        let mut logs = Vec::new();
        for store in &stores {
            let mut watch = store.watch("/1", Some("/3"), store.compacted() + 1).await.unwrap();
            logs.push(events(&mut watch, store.revision()).await);
        }
        assert_eq!(logs[0], logs[1]);
        stores[1].check_integrity().await.unwrap();
        stores[1].close().await;
    }
}
