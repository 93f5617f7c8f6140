//! Nobody grants rights that they do not hold: checks for writes of roles and bindings.

use knarr_machinery::{ApiError, GroupResource, UserInfo, meta};
use serde_json::Value;

use crate::attributes::{Attributes, Authorizer, Decision, ResourceAttributes};
use crate::rbac::Policy;
use crate::rules::{Rule, describe_all, missing};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A write of a role or binding.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Who writes.
    pub user: &'a UserInfo,
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
    pub resource: &'a str,
    /// Namespace, "" for cluster scope.
    pub namespace: &'a str,
    /// The new document.
    pub new: &'a Value,
    /// The present document, None on create.
    pub old: Option<&'a Value>,
}

fn strings(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_string)).collect()
}

pub(crate) fn rules_of(doc: &Value) -> Vec<Rule> {
    let rule = |r: &Value| Rule {
        verbs: strings(&r["verbs"]),
        groups: strings(&r["apiGroups"]),
        resources: strings(&r["resources"]),
        names: strings(&r["resourceNames"]),
        urls: strings(&r["nonResourceURLs"]),
    };
    doc["rules"].as_array().into_iter().flatten().map(rule).collect()
}

fn privileged(user: &UserInfo) -> bool {
    user.in_group("system:masters")
}

async fn has_verb(
    authorizer: &dyn Authorizer,
    write: &Write<'_>,
    verb: &str,
    resource: &str,
    name: &str,
) -> bool {
    let attributes = Attributes {
        user: write.user.clone(),
        verb: verb.to_string(),
        resource: Some(ResourceAttributes {
            group: GROUP.to_string(),
            version: "*".to_string(),
            resource: resource.to_string(),
            namespace: write.namespace.to_string(),
            name: name.to_string(),
            ..ResourceAttributes::default()
        }),
        path: String::new(),
    };
    matches!(authorizer.authorize(&attributes).await, Decision::Allow(_))
}

fn confirm(policy: &Policy, write: &Write<'_>, rules: &[Rule]) -> Result<(), ApiError> {
    let (owned, errors) = policy.rules_for(write.user, write.namespace);
    let gone = missing(&owned, rules);
    if gone.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = write.user.groups.iter().map(|g| format!("{g:?}")).collect();
    let mut text = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        write.user.username,
        groups.join(" "),
        describe_all(&gone)
    );
    if !errors.is_empty() {
        text.push_str(&format!("; resolution errors: [{}]", errors.join(" ")));
    }
    let gr = GroupResource::new(GROUP, write.resource.to_string());
    Err(ApiError::forbidden(&gr, meta::name(write.new), &text))
}

/// The check for a write of a Role or ClusterRole.
///
/// # Errors
/// 403 naming the rights that the user lacks.
pub async fn check_role(
    authorizer: &dyn Authorizer,
    policy: &Policy,
    write: &Write<'_>,
) -> Result<(), ApiError> {
    let same = write.old.is_some_and(|old| {
        rules_of(old) == rules_of(write.new) && old["aggregationRule"] == write.new["aggregationRule"]
    });
    if same
        || privileged(write.user)
        || has_verb(authorizer, write, "escalate", write.resource, meta::name(write.new)).await
    {
        return Ok(());
    }
    let aggregation = &write.new["aggregationRule"];
    let changed = write.old.is_none_or(|old| old["aggregationRule"] != *aggregation);
    if !aggregation.is_null() && changed {
        // What such a role will contain is not known: only somebody who may do everything may write it.
        let all = || vec!["*".to_string()];
        let everything = [
            Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
            Rule { verbs: all(), urls: all(), ..Rule::default() },
        ];
        confirm(policy, write, &everything)?;
    }
    confirm(policy, write, &rules_of(write.new))
}

/// The check for a write of a RoleBinding or ClusterRoleBinding.
///
/// # Errors
/// 403 naming the rights that the user lacks, 404 for a role that does not exist.
pub async fn check_binding(
    authorizer: &dyn Authorizer,
    policy: &Policy,
    write: &Write<'_>,
) -> Result<(), ApiError> {
    let text = |f: &str| write.new["roleRef"][f].as_str().unwrap_or_default();
    let same = write.old.is_some_and(|old| {
        old["roleRef"] == write.new["roleRef"] && old["subjects"] == write.new["subjects"]
    });
    if same || privileged(write.user) {
        return Ok(());
    }
    let resource = if text("kind") == "Role" { "roles" } else { "clusterroles" };
    if has_verb(authorizer, write, "bind", resource, text("name")).await {
        return Ok(());
    }
    let rules = policy.role_rules(text("kind"), write.namespace, text("name")).map_err(|_| {
        let singular = if text("kind") == "Role" { "role" } else { "clusterrole" };
        ApiError::not_found(&GroupResource::new(GROUP, singular), text("name"))
    })?;
    confirm(policy, write, &rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
    use serde_json::json;
    use std::sync::Arc;

    struct Fixed(Policy);

    #[async_trait]
    impl Authorizer for Fixed {
        async fn authorize(&self, a: &Attributes) -> Decision {
            self.0.decide(a)
        }
    }

    fn policy() -> Policy {
        let role = |name: &str, rules: Value| -> Arc<ClusterRole> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "rules": rules})).unwrap())
        };
        let bind = |name: &str, role: &str, user: &str| -> Arc<ClusterRoleBinding> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name},
                    "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
                    "subjects": [{"kind": "User", "name": user}]}))
                .unwrap(),
            )
        };
        Policy::new(
            &[
                role("reader", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])),
                role("writer", json!([{"verbs": ["create"], "apiGroups": [""], "resources": ["pods"]}])),
                role(
                    "binder",
                    json!([{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["writer"]}]),
                ),
                role(
                    "escalator",
                    json!([{"verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["roles"]}]),
                ),
            ],
            &[],
            &[
                bind("r", "reader", "jane"),
                bind("b", "binder", "bob"),
                bind("e", "escalator", "eve"),
                bind("x", "gone", "jane"),
            ],
            &[],
        )
    }

    #[tokio::test]
    async fn roles() {
        let p = policy();
        let a = Fixed(policy());
        let doc = |verb: &str| json!({"metadata": {"name": "n"}, "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]});
        let users = [
            UserInfo::component("jane", &[]),
            UserInfo::component("eve", &[]),
            UserInfo::component("x", &["system:masters"]),
        ];
        let check = |user: usize, verb: &'static str| {
            let (p, a, new, user) = (&p, &a, doc(verb), &users[user]);
            async move {
                let write = Write { user, resource: "roles", namespace: "ns", new: &new, old: None };
                check_role(a, p, &write).await
            }
        };
        assert!(check(0, "get").await.is_ok());
        let e = check(0, "delete").await.unwrap_err();
        assert_eq!(e.code, 403);
        assert_eq!(
            e.message,
            "roles.rbac.authorization.k8s.io \"n\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}; resolution errors: [clusterrole.rbac.authorization.k8s.io \"gone\" not found]"
        );
        assert!(check(1, "delete").await.is_ok());
        assert!(check(2, "delete").await.is_ok());
    }

    #[tokio::test]
    async fn bindings() {
        let p = policy();
        let a = Fixed(policy());
        let jane = UserInfo::component("jane", &[]);
        let bob = UserInfo::component("bob", &[]);
        let check = |user: &'static str, role: &'static str| {
            let (p, a, jane, bob) = (&p, &a, &jane, &bob);
            async move {
                let new =
                    json!({"metadata": {"name": "n"}, "roleRef": {"kind": "ClusterRole", "name": role}});
                let user = if user == "jane" { jane } else { bob };
                let write =
                    Write { user, resource: "clusterrolebindings", namespace: "", new: &new, old: None };
                check_binding(a, p, &write).await
            }
        };
        assert!(check("jane", "reader").await.is_ok());
        assert_eq!(check("jane", "writer").await.unwrap_err().code, 403);
        assert!(check("bob", "writer").await.is_ok());
        assert_eq!(check("bob", "reader").await.unwrap_err().code, 403);
        assert_eq!(check("jane", "none").await.unwrap_err().code, 404);
    }

    #[test]
    fn reasons() {
        let ask = |user: &str, verb: &str| {
            policy().decide(&Attributes {
                user: UserInfo::component(user, &[]),
                verb: verb.into(),
                resource: Some(ResourceAttributes { resource: "pods".into(), ..Default::default() }),
                path: String::new(),
            })
        };
        assert_eq!(
            ask("jane", "get"),
            Decision::Allow(
                "RBAC: allowed by ClusterRoleBinding \"r\" of ClusterRole \"reader\" to User \"jane\"".into()
            )
        );
        assert_eq!(
            ask("jane", "list"),
            Decision::NoOpinion("RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found".into())
        );
        assert_eq!(ask("nobody", "get"), Decision::NoOpinion(String::new()));
    }
}
