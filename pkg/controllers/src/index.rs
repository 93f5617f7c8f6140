//! A secondary index over an informer: objects by derived keys.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use knarr_client::{Event, Store};
use kube::ResourceExt;
use parking_lot::RwLock;

use crate::context::Cached;

type Shelf<K> = BTreeMap<(String, String), Arc<K>>;

/// Objects of one kind by the keys that a function derives from them.
pub struct Index<K> {
    keys: fn(&K) -> Vec<String>,
    shelves: RwLock<HashMap<String, Shelf<K>>>,
}

impl<K: Cached> Index<K> {
    /// An index that follows the store. Attach it before handlers that lead to reads of it.
    pub fn attach(store: &Arc<Store<K>>, keys: fn(&K) -> Vec<String>) -> Arc<Self> {
        let index = Arc::new(Self { keys, shelves: RwLock::new(HashMap::new()) });
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
                    shelves.entry(key).or_default().insert(id.clone(), new.clone());
                }
            }
            Event::Deleted(old) => remove(&mut shelves, &(self.keys)(old), &id(old.as_ref())),
        }
    }

    /// Objects under a key, by namespace and name.
    pub fn get(&self, key: &str) -> Vec<Arc<K>> {
        self.shelves.read().get(key).map(|shelf| shelf.values().cloned().collect()).unwrap_or_default()
    }
}

fn id<K: Cached>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn remove<K>(shelves: &mut HashMap<String, Shelf<K>>, keys: &[String], id: &(String, String)) {
    for key in keys {
        if let Some(shelf) = shelves.get_mut(key) {
            shelf.remove(id);
            if shelf.is_empty() {
                shelves.remove(key);
            }
        }
    }
}
