//! What strict decoding finds in the JSON of a built-in kind, in the order of the text.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::decode::{FINDINGS_MAX, Finding};
use crate::types::{Type, TypeRef, TypeSet};

/// Unknown and repeated fields, each told once. What is in an unknown field is not looked at.
/// Text that is no JSON ends the search: whoever parses the document tells of that.
pub fn findings(types: &TypeRef, bytes: &[u8]) -> Vec<Finding> {
    let mut search = Search { set: &types.set, path: String::new(), told: HashSet::new(), found: Vec::new() };
    let text = String::from_utf8_lossy(bytes);
    let mut de = serde_json::Deserializer::from_str(&text);
    let _broken = Node { ty: &types.root, search: &mut search }.deserialize(&mut de);
    search.found
}

struct Search<'t> {
    set: &'t TypeSet,
    path: String,
    told: HashSet<String>,
    found: Vec<Finding>,
}

impl Search<'_> {
    fn tell(&mut self, what: &str, key: &str) {
        let dot = if self.path.is_empty() { "" } else { "." };
        let message = format!("{what} field {:?}", format!("{}{dot}{key}", self.path));
        if self.found.len() < FINDINGS_MAX && self.told.insert(message.clone()) {
            self.found.push(Finding { message });
        }
    }
}

/// One value of a known type.
struct Node<'s, 't> {
    ty: &'t Type,
    search: &'s mut Search<'t>,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, de: D) -> Result<(), D::Error> {
        match self.ty {
            // What has any form is kept as it was sent.
            Type::Scalar(_) | Type::Any => de.deserialize_ignored_any(IgnoredAny).map(|_| ()),
            _ => de.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let item = match self.ty {
            Type::List(list) => &list.item,
            _ => &Type::Any,
        };
        let len = self.search.path.len();
        for at in 0.. {
            self.search.path.push_str(&format!("[{at}]"));
            let next = seq.next_element_seed(Node { ty: item, search: &mut *self.search })?;
            self.search.path.truncate(len);
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let set = self.search.set;
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let field = match self.ty {
                Type::Struct(id) => {
                    let known = set.get(*id);
                    match known.field(&key) {
                        Some(field) => Some(&field.ty),
                        None if known.preserve_unknown => Some(&Type::Any),
                        None => None,
                    }
                }
                Type::Map(map) => Some(&map.value),
                _ => Some(&Type::Any),
            };
            let Some(ty) = field else {
                self.search.tell("unknown", &key);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let len = self.search.path.len();
            if seen.contains(&key) {
                self.search.tell("duplicate", &key);
            }
            if len > 0 {
                self.search.path.push('.');
            }
            self.search.path.push_str(&key);
            map.next_value_seed(Node { ty, search: &mut *self.search })?;
            self.search.path.truncate(len);
            seen.insert(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_types;

    #[test]
    fn order_of_the_text() {
        let text = br#"{"kind": "Pod", "spec": {"unknown": {"a": 1, "a": 2}, "unknown": 1, "containers": [
            {"name": "a", "nam": 1, "name": "b", "resources": {"limits": {"cpu": 1, "cpu": 2}}}], "containers": []}, "kind": "Pod"}"#;
        let found: Vec<String> = findings(&pod_types(), text).into_iter().map(|f| f.message).collect();
        assert_eq!(
            found,
            [
                "unknown field \"spec.unknown\"",
                "unknown field \"spec.containers[0].nam\"",
                "duplicate field \"spec.containers[0].name\"",
                "duplicate field \"spec.containers[0].resources.limits.cpu\"",
                "duplicate field \"spec.containers\"",
                "duplicate field \"kind\"",
            ]
        );
        assert!(findings(&pod_types(), b"{").is_empty());
    }
}
