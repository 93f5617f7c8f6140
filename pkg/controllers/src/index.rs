//! A secondary index over an informer: objects by derived keys.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use knarr_client::{Event, Store};
use kube::ResourceExt;
use parking_lot::RwLock;

use crate::context::Cached;

/// Namespace and name.
type Id = (String, String);

/// Up to this many objects under a key are kept parsed by a look at them.
const FEW: usize = 64;

/// Objects of one kind by the keys that a function derives from them.
pub struct Index<K> {
    keys: fn(&K) -> Vec<String>,
    store: Weak<Store<K>>,
    shelves: RwLock<HashMap<String, BTreeSet<Id>>>,
}

impl<K: Cached> Index<K> {
    /// An index that follows the store. Attach it before handlers that lead to reads of it.
    pub fn attach(store: &Arc<Store<K>>, keys: fn(&K) -> Vec<String>) -> Arc<Self> {
        let index =
            Arc::new(Self { keys, store: Arc::downgrade(store), shelves: RwLock::new(HashMap::new()) });
        let target = index.clone();
        store.on_event(move |event| target.follow(event));
        index
    }

    fn follow(&self, event: &Event<K>) {
        let mut shelves = self.shelves.write();
        match event {
            Event::Applied { new, old } => {
                let id = id(new.as_ref());
                if let Some(old) = old {
                    remove(&mut shelves, &(self.keys)(old), &id);
                }
                for key in (self.keys)(new) {
                    shelves.entry(key).or_default().insert(id.clone());
                }
            }
            Event::Deleted(old) => remove(&mut shelves, &(self.keys)(old), &id(old.as_ref())),
        }
    }

    /// Objects under a key, by namespace and name.
    pub fn get(&self, key: &str) -> Vec<Arc<K>> {
        let ids: Vec<Id> =
            self.shelves.read().get(key).map(|s| s.iter().cloned().collect()).unwrap_or_default();
        let Some(store) = self.store.upgrade() else { return Vec::new() };
        let few = ids.len() <= FEW;
        let read = |(ns, name): &Id| if few { store.get(ns, name) } else { store.read(ns, name) };
        ids.iter().filter_map(read).collect()
    }
}

fn id<K: Cached>(object: &K) -> Id {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn remove(shelves: &mut HashMap<String, BTreeSet<Id>>, keys: &[String], id: &Id) {
    for key in keys {
        if let Some(shelf) = shelves.get_mut(key) {
            shelf.remove(id);
            if shelf.is_empty() {
                shelves.remove(key);
            }
        }
    }
}
