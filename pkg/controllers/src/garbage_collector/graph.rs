//! Who owns whom, by uid. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::discovery::ServedResource;

/// An object's uid.
pub type Uid = Arc<str>;

/// Finalizer that makes an object wait for its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that makes an object wait until its dependents are set free.
pub const ORPHAN: &str = "orphan";

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Work {
    /// Whether the object must be deleted, or may go.
    Judge(Uid),
    /// The object's dependents are to be set free.
    Orphan(Uid),
}

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `apiVersion` by which it is known.
    pub api_version: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Namespace, "" for cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// An object in the graph.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it is.
    pub place: Place,
    /// Its owners.
    pub owners: Vec<Owner>,
    /// Objects that name it as an owner.
    pub dependents: HashSet<Uid>,
    /// Seen in a watch; else only known from a reference.
    pub observed: bool,
    /// Has a deletion timestamp.
    pub deleting: bool,
    /// Waits for its dependents.
    pub foreground: bool,
    /// Waits until its dependents are set free.
    pub orphaning: bool,
}

/// An owner reference, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The owner.
    pub uid: Uid,
    /// Whether the owner's foreground deletion waits for this dependent.
    pub blocks: bool,
}

/// All objects with a uid.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
}

impl Graph {
    /// The node of a uid.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// How many nodes there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Uids of all observed objects of a kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Vec<Uid> {
        let ours = |n: &Node| n.observed && &*n.place.api_version == api_version && &*n.place.kind == kind;
        self.nodes.iter().filter(|(_, n)| ours(n)).map(|(uid, _)| uid.clone()).collect()
    }

    /// An object was added or changed.
    pub fn observe(&mut self, resource: &Names, meta: &ObjectMeta) -> Vec<Work> {
        let Some(uid) = meta.uid.as_deref() else { return Vec::new() };
        let uid: Uid = uid.into();
        let has = |f: &str| meta.finalizers.iter().flatten().any(|x| x == f);
        let deleting = meta.deletion_timestamp.is_some();
        let next = Node {
            place: Place {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
            },
            owners: owners(meta),
            dependents: HashSet::new(),
            observed: true,
            deleting,
            foreground: deleting && has(FOREGROUND),
            orphaning: deleting && has(ORPHAN),
        };
        let mut work = Vec::new();
        let old = self.nodes.remove(&uid);
        let (old_owners, was_foreground, was_orphaning) = old
            .as_ref()
            .map_or((Vec::new(), false, false), |o| (o.owners.clone(), o.foreground, o.orphaning));
        let dependents = old.map(|o| o.dependents).unwrap_or_default();
        self.relink(&uid, &old_owners, &next, meta, &mut work);
        if next.orphaning && !was_orphaning {
            work.push(Work::Orphan(uid.clone()));
        }
        if next.foreground && !was_foreground {
            work.extend(dependents.iter().cloned().map(Work::Judge));
            work.push(Work::Judge(uid.clone()));
        }
        self.nodes.insert(uid, Node { dependents, ..next });
        work
    }

    /// Follows a change of owner references.
    fn relink(&mut self, uid: &Uid, old: &[Owner], next: &Node, meta: &ObjectMeta, work: &mut Vec<Work>) {
        for gone in old.iter().filter(|o| !next.owners.iter().any(|n| n.uid == o.uid)) {
            if let Some(owner) = self.nodes.get_mut(&gone.uid) {
                owner.dependents.remove(uid);
                if owner.foreground {
                    work.push(Work::Judge(gone.uid.clone()));
                }
            }
        }
        for owner in &next.owners {
            let before = old.iter().find(|o| o.uid == owner.uid);
            if let Some(node) = self.nodes.get_mut(&owner.uid) {
                node.dependents.insert(uid.clone());
                let unblocked = before.is_some_and(|b| b.blocks && !owner.blocks);
                if node.foreground {
                    // A new dependent of an owner in foreground deletion goes with it.
                    work.push(Work::Judge(if unblocked { owner.uid.clone() } else { uid.clone() }));
                }
            } else if let Some(reference) = reference(meta, &owner.uid) {
                let node = virtual_node(reference, &next.place.namespace, uid);
                self.nodes.insert(owner.uid.clone(), node);
                work.push(Work::Judge(owner.uid.clone()));
            }
        }
        if before_differs(old, &next.owners) && !next.owners.is_empty() && !old.is_empty() {
            work.push(Work::Judge(uid.clone()));
        }
    }

    /// An object is gone: its dependents may have to follow, its owners may be free to go.
    pub fn remove(&mut self, uid: &str) -> Vec<Work> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut work: Vec<Work> = node.dependents.iter().cloned().map(Work::Judge).collect();
        for owner in &node.owners {
            let Some(above) = self.nodes.get_mut(&owner.uid) else { continue };
            above.dependents.remove(uid);
            if above.foreground {
                work.push(Work::Judge(owner.uid.clone()));
            }
            if !above.observed && above.dependents.is_empty() {
                self.nodes.remove(&owner.uid);
            }
        }
        work
    }

    /// Forgets objects of a resource that is no longer served, without consequences for others.
    pub fn forget(&mut self, uid: &str) {
        self.nodes.remove(uid);
    }

    /// Whether a dependent waits for its own dependents: then the owners may be a circle.
    pub fn has_waiting_dependent(&self, uid: &str) -> bool {
        let waits = |d: &Uid| self.nodes.get(d).is_some_and(|n| n.foreground);
        self.nodes.get(uid).is_some_and(|n| n.dependents.iter().any(waits))
    }

    /// Dependents that a foreground deletion waits for, and whether each one waits itself.
    pub fn blockers(&self, uid: &str) -> Vec<(Uid, bool)> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let blocks = |d: &&Uid| {
            self.nodes.get(*d).is_some_and(|n| n.owners.iter().any(|o| &*o.uid == uid && o.blocks))
        };
        let waits = |d: &Uid| self.nodes.get(d).is_some_and(|n| n.foreground);
        node.dependents.iter().filter(blocks).map(|d| (d.clone(), waits(d))).collect()
    }
}

/// Names of a kind, shared by all its nodes.
#[derive(Debug, Clone)]
pub struct Names {
    /// `apiVersion`.
    pub api_version: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
}

impl Names {
    /// Of a resource.
    pub fn of(resource: &ServedResource) -> Self {
        Self {
            api_version: resource.api.api_version.as_str().into(),
            kind: resource.api.kind.as_str().into(),
        }
    }
}

fn owners(meta: &ObjectMeta) -> Vec<Owner> {
    let of = |r: &OwnerReference| Owner {
        uid: r.uid.as_str().into(),
        blocks: r.block_owner_deletion == Some(true),
    };
    meta.owner_references.iter().flatten().map(of).collect()
}

fn before_differs(old: &[Owner], new: &[Owner]) -> bool {
    old.iter().any(|o| !new.iter().any(|n| n.uid == o.uid))
}

fn reference<'a>(meta: &'a ObjectMeta, uid: &str) -> Option<&'a OwnerReference> {
    meta.owner_references.iter().flatten().find(|r| r.uid == uid)
}

/// An owner that no watch has shown yet: it is looked up, and dropped when it does not exist.
fn virtual_node(reference: &OwnerReference, namespace: &str, dependent: &Uid) -> Node {
    Node {
        place: Place {
            api_version: reference.api_version.as_str().into(),
            kind: reference.kind.as_str().into(),
            namespace: namespace.to_owned(),
            name: reference.name.clone(),
        },
        owners: Vec::new(),
        dependents: HashSet::from([dependent.clone()]),
        observed: false,
        deleting: false,
        foreground: false,
        orphaning: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn names() -> Names {
        Names { api_version: "v1".into(), kind: "X".into() }
    }

    fn meta(uid: &str, owner: Option<&str>, extra: Value) -> ObjectMeta {
        let mut value = json!({"name": uid, "namespace": "n", "uid": uid});
        if let Some(owner) = owner {
            value["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "X", "name": owner, "uid": owner, "blockOwnerDeletion": true}]);
        }
        if let (Some(map), Value::Object(more)) = (value.as_object_mut(), extra) {
            map.extend(more);
        }
        serde_json::from_value(value).unwrap()
    }

    fn judge(uid: &str) -> Work {
        Work::Judge(uid.into())
    }

    #[test]
    fn dependents_follow_their_owner() {
        let mut g = Graph::default();
        assert!(g.observe(&names(), &meta("o", None, json!({}))).is_empty());
        assert!(g.observe(&names(), &meta("d", Some("o"), json!({}))).is_empty());
        assert_eq!(g.remove("o"), [judge("d")]);
    }

    #[test]
    fn unknown_owners_are_looked_up() {
        let mut g = Graph::default();
        assert_eq!(g.observe(&names(), &meta("d", Some("o"), json!({}))), [judge("o")]);
        assert!(!g.get("o").unwrap().observed);
        assert_eq!(g.remove("o"), [judge("d")], "the lookup found nothing");
        g.observe(&names(), &meta("d2", Some("p"), json!({})));
        g.remove("d2");
        assert_eq!(g.len(), 1, "a virtual owner goes with its last dependent");
    }

    #[test]
    fn foreground_and_orphan() {
        let mut g = Graph::default();
        g.observe(&names(), &meta("o", None, json!({})));
        g.observe(&names(), &meta("d", Some("o"), json!({})));
        let deleting = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND]});
        assert_eq!(g.observe(&names(), &meta("o", None, deleting.clone())), [judge("d"), judge("o")]);
        assert_eq!(g.blockers("o"), [(Uid::from("d"), false)]);
        assert_eq!(g.observe(&names(), &meta("o", None, deleting)), [], "once only");
        assert_eq!(g.remove("d"), [judge("o")]);
        assert!(g.blockers("o").is_empty());

        let orphaning = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [ORPHAN]});
        g.observe(&names(), &meta("p", None, json!({})));
        assert_eq!(g.observe(&names(), &meta("p", None, orphaning)), [Work::Orphan("p".into())]);
    }

    #[test]
    fn a_circle_is_seen_where_it_closes() {
        let mut graph = Graph::default();
        let deleting =
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]});
        graph.observe(&names(), &meta("a", Some("c"), deleting));
        graph.observe(&names(), &meta("b", Some("a"), json!({})));
        graph.observe(&names(), &meta("c", Some("b"), json!({})));
        assert!(!graph.has_waiting_dependent("b"));
        assert!(graph.has_waiting_dependent("c"));
    }

    #[test]
    fn released_dependents_unlink() {
        let mut g = Graph::default();
        g.observe(&names(), &meta("o", None, json!({})));
        g.observe(&names(), &meta("d", Some("o"), json!({})));
        g.observe(&names(), &meta("d", None, json!({})));
        assert!(g.remove("o").is_empty());
    }
}
