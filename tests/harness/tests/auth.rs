//! RBAC, escalation, impersonation, reviews.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use knarr_machinery::UserInfo;
use serde_json::json;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn wait_allowed(s: &TestServer, user: &UserInfo, path: &str) {
    for _ in 0..100 {
        if s.raw_as(Some(user.clone()), "GET", path, &[], "").await.status == 200 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{} never got {path}", user.username);
}

#[tokio::test]
async fn roles_decide() {
    let s = TestServer::start_with_auth().await;
    let jane = UserInfo::component("jane", &[]);
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(s.raw_as(Some(jane.clone()), "GET", maps, &[], "").await.status, 403);
    let role = json!({"metadata": {"name": "reader"}, "rules": [
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps"]},
        {"verbs": ["create", "get", "list"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]}]});
    s.post(&format!("{RBAC}/namespaces/default/roles"), &role).await.expect(201);
    let binding = json!({"metadata": {"name": "jane"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    s.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding).await.expect(201);
    wait_allowed(&s, &jane, maps).await;
    assert_eq!(
        s.raw_as(Some(jane.clone()), "GET", "/api/v1/namespaces/kube-system/configmaps", &[], "")
            .await
            .status,
        403
    );

    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "configmaps", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = s.raw_as(Some(jane.clone()), "POST", path, &[], review.to_string()).await.expect(201);
    assert_eq!(answer["status"]["allowed"], true);

    // Impersonation needs its own right.
    let as_jane = ["impersonate-user: jane"];
    assert_eq!(s.raw("GET", maps, &as_jane, "").await.status, 200);
    assert_eq!(s.raw("GET", "/api/v1/nodes", &as_jane, "").await.status, 403);
    let refused = s.raw_as(Some(jane.clone()), "GET", maps, &["impersonate-user: admin"], "").await;
    assert!(refused.message(403).contains("cannot impersonate resource \"users\""), "{}", refused.text());

    // Nobody grants more than he has.
    let more = json!({"metadata": {"name": "more"}, "rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"]}]});
    let path = format!("{RBAC}/namespaces/default/roles");
    let refused = s.raw_as(Some(jane.clone()), "POST", &path, &[], more.to_string()).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let own = json!({"metadata": {"name": "own"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]}]});
    let granted = s.raw_as(Some(jane), "POST", &path, &[], own.to_string()).await;
    assert_eq!(granted.status, 201, "{}", granted.text());
}
