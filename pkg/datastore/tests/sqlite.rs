//! What is particular to files: restarts, damage, foreign and newer files, a full disk, space given back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use knarr_datastore::*;
use std::process::Command;

fn manual() -> Options {
    Options { compaction: None, ..Options::default() }
}

async fn write(store: &Datastore, key: &str, value: Vec<u8>, lease: LeaseId) -> Result<TxnResult, Error> {
    let success = vec![Op::Put { key: key.into(), value: Bytes::from(value), lease }];
    store.txn(Txn { compares: vec![], success }).await
}

fn endpoint(dir: &std::path::Path) -> String {
    format!("sqlite://{}/state.db", dir.display())
}

#[tokio::test]
async fn survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let at = endpoint(dir.path());
    let store = Datastore::open_with(&at, manual()).await.unwrap();
    let lease = store.lease_grant(1).await.unwrap();
    for n in 0..20u8 {
        write(&store, &format!("/{}", n % 3), vec![n], 0).await.unwrap();
    }
    write(&store, "/leased", vec![], lease).await.unwrap();
    store.compact(10).await.unwrap();
    let second = Datastore::open(&at).await.unwrap_err();
    assert!(second.to_string().contains("another process holds"), "{second}");
    store.close().await;
    store.close().await;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let store = Datastore::open_with(&at, manual()).await.unwrap();
    assert!(store.revision() >= 21 && store.compacted() == 10);
    let mut watch = store.watch("", Some(""), 11).await.unwrap();
    for revision in 11..=22 {
        // The last is the lease, which ran out meanwhile.
        assert_eq!(watch.next().await.unwrap().revision, revision);
    }
    assert_eq!(store.get("/leased").await.unwrap(), None);
    assert_eq!(store.get("/0").await.unwrap().unwrap().value[..], [18]);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.path().join("state.db")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn refuses_what_is_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let at = endpoint(dir.path());
    let store = Datastore::open(&at).await.unwrap();
    store.close().await;
    drop(store);
    let sql = async |text: &'static str| {
        use sqlx::{ConnectOptions, Connection};
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        sqlx::query(text).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    };
    let refused = async || Datastore::open(&at).await.unwrap_err().to_string();
    sql("PRAGMA user_version = 9").await;
    let name = path.display();
    assert_eq!(refused().await, format!("datastore {name}: has schema version 9, this build supports 1"));
    sql("PRAGMA application_id = 5").await;
    assert_eq!(refused().await, format!("datastore {name}: is an SQLite file of another application"));
    std::fs::write(&path, vec![0x55; 20_000]).unwrap();
    let damaged = Datastore::open(&at).await.unwrap_err();
    assert!(matches!(&damaged, Error::Corrupt { path, .. } if *path == name.to_string()), "{damaged:?}");
    for (endpoint, text) in [
        ("etcd://x", "no driver for scheme \"etcd\", known are memory://, sqlite://"),
        ("sqlite://", "give a file"),
        ("memory://x", "takes no path"),
    ] {
        let error = Datastore::open(endpoint).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn damage_inside_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = endpoint(dir.path());
    let path = dir.path().join("state.db");
    let store = Datastore::open_with(&at, manual()).await.unwrap();
    for n in 0..200u8 {
        write(&store, &format!("/{n:03}"), vec![n; 3000], 0).await.unwrap();
    }
    store.check_integrity().await.unwrap();
    store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(u16::from_be_bytes([bytes[16], bytes[17]]), 8192);
    for page in 6..40 {
        bytes[page * 8192..page * 8192 + 64].fill(0xff);
    }
    std::fs::write(&path, bytes).unwrap();
    let is_named = |error: Error| {
        assert!(
            matches!(&error, Error::Corrupt { path: p, .. } if *p == path.display().to_string()),
            "{error:?}"
        );
    };
    let store = match Datastore::open_with(&at, manual()).await {
        Ok(store) => store,
        Err(error) => return is_named(error),
    };
    is_named(store.check_integrity().await.unwrap_err());
    is_named(store.range(Range::prefix("/")).await.unwrap_err());
}

#[tokio::test]
async fn a_bounded_store_gets_full_and_goes_on_reading() {
    let dir = tempfile::tempdir().unwrap();
    let at = endpoint(dir.path());
    let store = Datastore::open_with(&at, Options { max_bytes: Some(1 << 20), ..manual() }).await.unwrap();
    let mut written = 0u32;
    let error = loop {
        match write(&store, &format!("/{written}"), vec![7; 10_000], 0).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::Full { path: dir.path().join("state.db").display().to_string() });
    assert!(written > 50);
    let before = store.revision();
    assert_eq!(store.range(Range::prefix("/")).await.unwrap().count, written as usize);
    store.close().await;
    let store = Datastore::open_with(&at, Options { max_bytes: Some(4 << 20), ..manual() }).await.unwrap();
    assert_eq!(store.revision(), before);
    write(&store, "/more", vec![7; 10_000], 0).await.unwrap();
}

/// Runs again inside a mount namespace with a small file system of its own.
#[test]
fn a_full_disk_is_reported_and_survived() {
    let inside = "KNARR_TEST_SMALL_DISK";
    if std::env::var_os(inside).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(on_a_full_disk());
    }
    let script =
        "mount -t tmpfs -o size=6m none /mnt && exec \"$0\" --exact a_full_disk_is_reported_and_survived";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(std::env::current_exe().unwrap()).env(inside, "1");
    let Ok(probe) = Command::new("unshare").args(["-m", "true"]).status() else {
        return eprintln!("SKIPPED: no unshare program");
    };
    if !probe.success() {
        return eprintln!("SKIPPED: may not make a mount namespace");
    }
    assert!(command.status().unwrap().success());
}

async fn on_a_full_disk() {
    let dir = std::path::Path::new("/mnt/db");
    std::fs::create_dir(dir).unwrap();
    let store = Datastore::open_with(&endpoint(dir), manual()).await.unwrap();
    write(&store, "/first", vec![1], 0).await.unwrap();
    std::fs::write("/mnt/filler", vec![0; 2 << 20]).unwrap();
    let mut watch = store.watch("/", Some("0"), 0).await.unwrap();
    let mut written = 0;
    let error = loop {
        match write(&store, &format!("/{written}"), vec![7; 50_000], 0).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::Full { path: "/mnt/db/state.db".into() });
    let before = store.revision();
    assert_eq!(store.range(Range::prefix("/")).await.unwrap().count, written + 1);
    assert!(write(&store, "/x", vec![7; 50_000], 0).await.is_err());
    std::fs::remove_file("/mnt/filler").unwrap();
    write(&store, "/x", vec![7; 50_000], 0).await.unwrap();
    assert_eq!(store.revision(), before + 1);
    for revision in 2..=before + 1 {
        assert_eq!(watch.next().await.unwrap().revision, revision);
    }
    store.check_integrity().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn compaction_gives_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Datastore::open_with(&endpoint(dir.path()), manual()).await.unwrap();
    for n in 0..120u32 {
        let success =
            (0..100).map(|k| Op::Put { key: format!("/{k}"), value: vec![n as u8; 4000].into(), lease: 0 });
        store.txn(Txn { compares: vec![], success: success.collect() }).await.unwrap();
    }
    let before = store.size_bytes().await.unwrap();
    store.compact(store.revision()).await.unwrap();
    store.close().await;
    let after = std::fs::metadata(dir.path().join("state.db")).unwrap().len();
    assert!(before > 40 << 20 && after < 16 << 20, "{before} -> {after}");
}
