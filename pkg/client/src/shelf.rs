//! Objects of one kind at rest: the recently used ones parsed, the others as compact JSON.
//!
//! Entry point: [`Shelf`]. A parsed Pod takes 12 to 25 KB, its JSON one or two: in a cluster of ten thousand pods
//! that is the difference between 250 and 20 MB a set, while a small cluster has everything parsed. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Namespace and name; "" is the namespace of cluster-scoped objects.
pub type Key = (String, String);

/// How many objects of a kind are kept parsed.
const PARSED_MAX: usize = 512;

enum Slot<K> {
    Parsed(Arc<K>),
    Packed(Box<[u8]>),
}

/// What a look without effect finds.
pub(crate) enum Known<K> {
    /// The object.
    Parsed(Arc<K>),
    /// It has to be opened.
    Packed,
}

/// The objects of a kind by namespace and name.
pub(crate) struct Shelf<K> {
    slots: BTreeMap<Key, Slot<K>>,
    /// Keys of objects that became parsed, oldest first; some may have gone meanwhile.
    parsed: VecDeque<Key>,
}

impl<K> Default for Shelf<K> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), parsed: VecDeque::new() }
    }
}

fn unpack<K: DeserializeOwned>(bytes: &[u8]) -> Option<Arc<K>> {
    match serde_json::from_slice(bytes) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            // The bytes were written from a value of the same type a moment ago.
            tracing::error!(%error, "a packed object cannot be read");
            None
        }
    }
}

impl<K: Serialize + DeserializeOwned> Shelf<K> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All keys.
    pub(crate) fn keys(&self) -> BTreeSet<Key> {
        self.slots.keys().cloned().collect()
    }

    /// A look that changes nothing.
    pub(crate) fn peek(&self, key: &Key) -> Option<Known<K>> {
        self.slots.get(key).map(|slot| match slot {
            Slot::Parsed(object) => Known::Parsed(object.clone()),
            Slot::Packed(_) => Known::Packed,
        })
    }

    /// The object, which stays packed if it is.
    pub(crate) fn read(&self, key: &Key) -> Option<Arc<K>> {
        match self.slots.get(key)? {
            Slot::Parsed(object) => Some(object.clone()),
            Slot::Packed(bytes) => unpack(bytes),
        }
    }

    /// The object, which is kept parsed for a while.
    pub(crate) fn open(&mut self, key: &Key) -> Option<Arc<K>> {
        let object = self.read(key)?;
        if let Some(slot @ Slot::Packed(_)) = self.slots.get_mut(key) {
            *slot = Slot::Parsed(object.clone());
            self.note(key.clone());
        }
        Some(object)
    }

    /// Calls `look` with all objects, or those of a namespace, in order; packed ones stay packed.
    pub(crate) fn each(&self, namespace: Option<&str>, mut look: impl FnMut(Arc<K>)) {
        let from = Bound::Included((namespace.unwrap_or_default().to_owned(), String::new()));
        let slots = self.slots.range((from, Bound::Unbounded));
        for (_, slot) in slots.take_while(|((ns, _), _)| namespace.is_none_or(|wanted| ns == wanted)) {
            let object = match slot {
                Slot::Parsed(object) => Some(object.clone()),
                Slot::Packed(bytes) => unpack(bytes),
            };
            object.into_iter().for_each(&mut look);
        }
    }

    /// All objects, or those of a namespace, in order.
    pub(crate) fn range(&self, namespace: Option<&str>) -> Vec<Arc<K>> {
        let mut all = Vec::new();
        self.each(namespace, |object| all.push(object));
        all
    }

    /// Puts an object and gives the one that was there.
    pub(crate) fn insert(&mut self, key: Key, object: Arc<K>) -> Option<Arc<K>> {
        let before = self.slots.insert(key.clone(), Slot::Parsed(object));
        match before {
            Some(Slot::Parsed(old)) => Some(old),
            before => {
                self.note(key);
                match before {
                    Some(Slot::Packed(bytes)) => unpack(&bytes),
                    _ => None,
                }
            }
        }
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        match self.slots.remove(key)? {
            Slot::Parsed(object) => Some(object),
            Slot::Packed(bytes) => unpack(&bytes),
        }
    }

    /// Remembers that a key became parsed and packs what has been parsed for longest.
    fn note(&mut self, key: Key) {
        self.parsed.push_back(key);
        while self.parsed.len() > PARSED_MAX {
            let Some(oldest) = self.parsed.pop_front() else { return };
            if let Some(slot) = self.slots.get_mut(&oldest)
                && let Slot::Parsed(object) = slot
            {
                match serde_json::to_vec(object.as_ref()) {
                    Ok(bytes) => *slot = Slot::Packed(bytes.into_boxed_slice()),
                    Err(error) => tracing::error!(%error, "an object cannot be packed and stays as it is"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(n: usize, version: usize) -> (Key, Arc<Pod>) {
        let document = serde_json::json!({
            "metadata": {"namespace": format!("ns{}", n % 2), "name": format!("p{n:05}"), "resourceVersion": version.to_string(),
                         "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}], "nodeName": ""},
            "status": {"conditions": [], "hostIP": "10.0.0.1"},
        });
        let pod: Pod = serde_json::from_value(document).unwrap();
        ((format!("ns{}", n % 2), format!("p{n:05}")), Arc::new(pod))
    }

    #[test]
    fn large_sets_are_packed_and_nothing_is_lost() {
        let mut shelf = Shelf::default();
        let total = 3 * PARSED_MAX;
        for n in 0..total {
            let (key, object) = pod(n, 1);
            assert!(shelf.insert(key, object).is_none());
        }
        let packed = shelf.slots.values().filter(|s| matches!(s, Slot::Packed(_))).count();
        assert_eq!((shelf.len(), packed), (total, total - PARSED_MAX));
        for n in [0, 1, total - 1] {
            let (key, object) = pod(n, 1);
            assert_eq!(shelf.read(&key), Some(object.clone()), "{key:?}");
            assert_eq!(shelf.open(&key), Some(object));
            assert!(matches!(shelf.peek(&key), Some(Known::Parsed(_))), "{key:?}");
        }
        assert_eq!(shelf.range(None).len(), total);
        let second = shelf.range(Some("ns1"));
        assert_eq!(second.len(), total / 2);
        assert!(second.is_sorted_by_key(|p| p.metadata.name.clone()));
        assert!(shelf.range(Some("ns")).is_empty());
        // The one before comes back whole, packed or not.
        let (key, newer) = pod(2, 2);
        assert_eq!(shelf.insert(key.clone(), newer.clone()), Some(pod(2, 1).1));
        assert_eq!(shelf.insert(key.clone(), newer.clone()), Some(newer.clone()));
        assert_eq!(shelf.remove(&key), Some(newer));
        assert_eq!(shelf.remove(&key), None);
        assert_eq!(shelf.remove(&pod(4, 1).0), Some(pod(4, 1).1));
    }

    #[test]
    fn coming_and_going_leaves_nothing_behind() {
        let mut shelf = Shelf::default();
        for n in 0..4 * PARSED_MAX {
            let (key, object) = pod(n, 1);
            shelf.insert(key.clone(), object);
            shelf.remove(&key);
        }
        assert_eq!(shelf.len(), 0);
        assert!(shelf.parsed.len() <= PARSED_MAX);
    }
}
