//! Role-based access control: bindings and roles compiled for look-up, the authorizer, and the checks that keep
//! users from granting rights they do not hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding, RoleRef, Subject};
use knarr_client::{Informers, Store};
use knarr_machinery::UserInfo;

use crate::attributes::{Attributes, Authorizer, Decision, ResourceRule, RuleList};
use crate::rules::Rule;

/// All roles and bindings at one moment.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    cluster_roles: HashMap<String, Arc<Vec<Rule>>>,
    roles: HashMap<(String, String), Arc<Vec<Rule>>>,
    /// By subject; the position keeps the order of bindings.
    grants: HashMap<Who, Vec<Arc<Grant>>>,
    count: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
}

#[derive(Debug)]
struct Grant {
    position: usize,
    /// Namespace of the binding, "" for a ClusterRoleBinding.
    namespace: String,
    binding: String,
    role: RoleRef,
    subject: String,
}

impl Grant {
    fn describe(&self) -> String {
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.binding.clone())
        } else {
            ("RoleBinding", format!("{}/{}", self.binding, self.namespace))
        };
        format!("{kind} {name:?} of {} {:?} to {}", self.role.kind, self.role.name, self.subject)
    }
}

fn rules_of(rules: Option<&Vec<k8s_openapi::api::rbac::v1::PolicyRule>>) -> Arc<Vec<Rule>> {
    Arc::new(rules.into_iter().flatten().map(Rule::from).collect())
}

impl Policy {
    /// Compiles roles and bindings.
    pub fn new(
        cluster_roles: &[Arc<ClusterRole>],
        roles: &[Arc<Role>],
        cluster_bindings: &[Arc<ClusterRoleBinding>],
        bindings: &[Arc<RoleBinding>],
    ) -> Self {
        let mut policy = Self::default();
        for r in cluster_roles {
            let name = r.metadata.name.clone().unwrap_or_default();
            policy.cluster_roles.insert(name, rules_of(r.rules.as_ref()));
        }
        for r in roles {
            let key = (
                r.metadata.namespace.clone().unwrap_or_default(),
                r.metadata.name.clone().unwrap_or_default(),
            );
            policy.roles.insert(key, rules_of(r.rules.as_ref()));
        }
        for b in cluster_bindings {
            policy.bind(
                "",
                b.metadata.name.as_deref().unwrap_or_default(),
                &b.role_ref,
                b.subjects.as_deref(),
            );
        }
        for b in bindings {
            let namespace = b.metadata.namespace.as_deref().unwrap_or_default();
            policy.bind(
                namespace,
                b.metadata.name.as_deref().unwrap_or_default(),
                &b.role_ref,
                b.subjects.as_deref(),
            );
        }
        policy
    }

    fn bind(&mut self, namespace: &str, binding: &str, role: &RoleRef, subjects: Option<&[Subject]>) {
        self.count += 1;
        for s in subjects.unwrap_or_default() {
            let home = s.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
            let (who, subject) = match s.kind.as_str() {
                "User" => (Who::User(s.name.clone()), format!("User {:?}", s.name)),
                "Group" => (Who::Group(s.name.clone()), format!("Group {:?}", s.name)),
                "ServiceAccount" if !home.is_empty() => (
                    Who::User(format!("system:serviceaccount:{home}:{}", s.name)),
                    format!("ServiceAccount {:?}", format!("{}/{home}", s.name)),
                ),
                _ => continue,
            };
            let grant = Grant {
                position: self.count,
                namespace: namespace.to_string(),
                binding: binding.to_string(),
                role: role.clone(),
                subject,
            };
            self.grants.entry(who).or_default().push(Arc::new(grant));
        }
    }

    /// The bindings that reach a user in a namespace (cluster-wide ones included), in order.
    fn grants_for(&self, user: &UserInfo, namespace: &str) -> Vec<Arc<Grant>> {
        let mut out: Vec<Arc<Grant>> = Vec::new();
        let subjects = std::iter::once(Who::User(user.username.clone()))
            .chain(user.groups.iter().cloned().map(Who::Group));
        for who in subjects {
            let grants = self.grants.get(&who).into_iter().flatten();
            out.extend(
                grants
                    .filter(|g| g.namespace.is_empty() || (!namespace.is_empty() && g.namespace == namespace))
                    .cloned(),
            );
        }
        out.sort_by_key(|g| g.position);
        out.dedup_by_key(|g| g.position);
        out
    }

    /// The rules of a role reference.
    ///
    /// # Errors
    /// The role does not exist, or its kind is unknown.
    pub fn role_rules(&self, kind: &str, namespace: &str, name: &str) -> Result<Arc<Vec<Rule>>, String> {
        let missing = |what: &str| format!("{what}.rbac.authorization.k8s.io {name:?} not found");
        match kind {
            "ClusterRole" => self.cluster_roles.get(name).cloned().ok_or_else(|| missing("clusterrole")),
            "Role" => {
                let key = (namespace.to_string(), name.to_string());
                self.roles.get(&key).cloned().ok_or_else(|| missing("role"))
            }
            _ => Err(format!("unsupported role reference kind: {kind:?}")),
        }
    }

    /// The decision about a request.
    pub fn decide(&self, a: &Attributes) -> Decision {
        let namespace = a.resource.as_ref().map_or("", |r| r.namespace.as_str());
        let mut errors = Vec::new();
        for grant in self.grants_for(&a.user, namespace) {
            match self.role_rules(&grant.role.kind, &grant.namespace, &grant.role.name) {
                Ok(rules) if rules.iter().any(|r| r.allows(a)) => {
                    return Decision::Allow(format!("RBAC: allowed by {}", grant.describe()));
                }
                Ok(_) => {}
                Err(e) => errors.push(e),
            }
        }
        Decision::NoOpinion(match errors.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }

    /// All rules of a user in a namespace, and what could not be resolved.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for grant in self.grants_for(user, namespace) {
            match self.role_rules(&grant.role.kind, &grant.namespace, &grant.role.name) {
                Ok(r) => rules.extend(r.iter().cloned()),
                Err(e) => errors.push(e),
            }
        }
        (rules, errors)
    }
}

/// The RBAC authorizer over the shared informers.
pub struct Rbac {
    cluster_roles: Arc<Store<ClusterRole>>,
    roles: Arc<Store<Role>>,
    cluster_bindings: Arc<Store<ClusterRoleBinding>>,
    bindings: Arc<Store<RoleBinding>>,
    policy: ArcSwap<Policy>,
    stale: Arc<AtomicBool>,
    rebuilding: parking_lot::Mutex<()>,
}

impl Rbac {
    /// Starts to watch roles and bindings. The informers' client must be of `system:masters`.
    pub fn new(informers: &Informers) -> Arc<Self> {
        let rbac = Arc::new(Self {
            cluster_roles: informers.of(),
            roles: informers.of(),
            cluster_bindings: informers.of(),
            bindings: informers.of(),
            policy: ArcSwap::default(),
            stale: Arc::new(AtomicBool::new(true)),
            rebuilding: parking_lot::Mutex::new(()),
        });
        let stale = || {
            let flag = rbac.stale.clone();
            move || flag.store(true, Ordering::Release)
        };
        let f = stale();
        rbac.cluster_roles.on_event(move |_| f());
        let f = stale();
        rbac.roles.on_event(move |_| f());
        let f = stale();
        rbac.cluster_bindings.on_event(move |_| f());
        let f = stale();
        rbac.bindings.on_event(move |_| f());
        rbac
    }

    /// The present policy; waits for the first complete view of roles and bindings.
    pub async fn policy(&self) -> Arc<Policy> {
        self.cluster_roles.synced().await;
        self.roles.synced().await;
        self.cluster_bindings.synced().await;
        self.bindings.synced().await;
        // One at a time: whoever finds the flag down must find the policy it belongs to.
        let _turn = self.rebuilding.lock();
        if self.stale.swap(false, Ordering::AcqRel) {
            let policy = Policy::new(
                &self.cluster_roles.list(),
                &self.roles.list(),
                &self.cluster_bindings.list(),
                &self.bindings.list(),
            );
            self.policy.store(Arc::new(policy));
        }
        self.policy.load_full()
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        self.policy().await.decide(attributes)
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> RuleList {
        let (rules, errors) = self.policy().await.rules_for(user, namespace);
        let mut list = RuleList { incomplete: !errors.is_empty(), errors, ..RuleList::default() };
        for r in rules {
            if !r.resources.is_empty() {
                list.resources.push(ResourceRule {
                    verbs: r.verbs.clone(),
                    groups: r.groups,
                    resources: r.resources,
                    names: r.names,
                });
            }
            if !r.urls.is_empty() {
                list.urls.push((r.verbs, r.urls));
            }
        }
        list
    }
}
