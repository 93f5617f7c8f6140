//! What was written survives a restart over SQLite.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use knarr_datastore::Datastore;
use knarr_harness::TestServer;
use serde_json::json;

#[tokio::test]
async fn state_survives() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("sqlite://{}/state.db", dir.path().display());
    let maps = "/api/v1/namespaces/default/configmaps";
    let services = "/api/v1/namespaces/default/services";
    let store = Datastore::open(&endpoint).await.unwrap();
    let s = TestServer::start_on(store.clone()).await;
    let made = s.post(maps, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.expect(201);
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let service = s.post(services, &service).await.expect(201);
    let kubernetes = s.get(&format!("{services}/kubernetes")).await.expect(200);
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.43.0.1");
    let before = s.post(maps, &json!({"metadata": {"name": "b"}})).await.expect(201);
    s.patch(&format!("{maps}/b"), "merge", &json!({"data": {"x": "y"}})).await.expect(200);
    s.delete(&format!("{maps}/b")).await.expect(200);
    drop(s);
    store.close().await;

    let s = TestServer::start_on(Datastore::open(&endpoint).await.unwrap()).await;
    assert_eq!(s.get(&format!("{maps}/a")).await.expect(200), made);
    assert_eq!(s.get(&format!("{services}/s")).await.expect(200), service);
    assert_eq!(s.get(&format!("{services}/kubernetes")).await.expect(200), kubernetes);
    // The addresses are held: nobody else gets them.
    let taken = json!({"metadata": {"name": "t"}, "spec": {"clusterIP": service["spec"]["clusterIP"], "ports": [{"port": 80}]}});
    let refused = s.post(services, &taken).await;
    assert!(refused.message(422).contains("provided IP is already allocated"), "{}", refused.text());

    // A watch goes on where it was before the restart.
    let version = before["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = s.watch(&format!("{maps}?watch=1&resourceVersion={version}")).await;
    assert_eq!(watch.next_name().await, "MODIFIED b");
    assert_eq!(watch.next_name().await, "DELETED b");
    s.post(maps, &json!({"metadata": {"name": "c"}})).await.expect(201);
    assert_eq!(watch.next_name().await, "ADDED c");
}
