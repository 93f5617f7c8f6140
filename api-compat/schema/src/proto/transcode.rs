//! JSON text to protobuf without a document in between, for lists and watches that are served from stored JSON.
//!
//! The message is the same as that of [`super::encode_raw`], with its fields in the order of the JSON. A structure that
//! needs more than one look at its JSON (structs embedded twice, the unions of a CRD's schema) goes through a document.

use std::fmt;

use knarr_machinery::types::StructId;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::encode::{Encoder, int_or_string, leaf_in};
use super::wire::Writer;
use super::{MAX_DEPTH, ProtoError, forms};
use crate::facts::{Facts, Wire};

/// Writes a message from a JSON object.
pub(crate) struct MessageSeed<'f, 'o> {
    pub facts: &'f Facts,
    pub id: StructId,
    pub out: &'o mut Writer,
    pub depth: usize,
}

impl MessageSeed<'_, '_> {
    fn through_document<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut object = Map::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            object.insert(key, value);
        }
        let encoder = Encoder { facts: self.facts };
        encoder.message(self.id, &object, self.out, self.depth).map_err(A::Error::custom)
    }
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.depth > MAX_DEPTH {
            return Err(A::Error::custom("too deep"));
        }
        let facts = self.facts;
        let members = &facts.members[self.id.0 as usize];
        let Some(mut parts) = Part::all(facts, self.id) else {
            return self.through_document(map);
        };
        while let Some(place) = map.next_key_seed(KeySeed(|key: &str| {
            parts.iter().enumerate().find_map(|(at, part)| Some((at, part.find(facts, key)?)))
        }))? {
            let Some((at, index)) = place else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let part = &mut parts[at];
            let member = &facts.members[part.id.0 as usize][index as usize];
            part.seen |= 1 << index;
            map.next_value_seed(ValueSeed {
                facts,
                wire: &member.wire,
                tag: member.tag,
                pointer: member.pointer,
                out: if at == 0 { &mut *self.out } else { &mut part.out },
                depth: self.depth,
            })?;
        }
        for (at, part) in parts.iter_mut().enumerate().rev() {
            let out = if at == 0 { &mut *self.out } else { &mut part.out };
            zeros(facts, part.id, part.seen, out, self.depth).map_err(A::Error::custom)?;
        }
        for part in parts.drain(1..) {
            let member = &members[part.member as usize];
            if part.seen != 0 || !member.pointer {
                self.out.bytes(member.tag, &part.out.into_bytes());
            }
        }
        Ok(())
    }
}

/// Writes the values (not pointers) that the JSON did not name.
fn zeros(facts: &Facts, id: StructId, seen: u128, out: &mut Writer, depth: usize) -> Result<(), ProtoError> {
    let encoder = Encoder { facts };
    for (index, member) in facts.members[id.0 as usize].iter().enumerate() {
        if seen & (1 << index) == 0 && member.tag != 0 && !member.pointer && !member.name.is_empty() {
            encoder.zero(&member.wire, member.tag, out, depth)?;
        }
    }
    Ok(())
}

/// A message that takes fields of the JSON object at hand: the struct itself, or one that it embeds.
struct Part {
    id: StructId,
    /// Position of the embedding member; of no meaning for the struct itself.
    member: u16,
    seen: u128,
    /// What an embedded struct's message has so far.
    out: Writer,
}

impl Part {
    /// The struct and the structs it embeds; `None` where that is not enough (these embed others, or have too many fields).
    fn all(facts: &Facts, id: StructId) -> Option<Vec<Self>> {
        let part = |id, member| Self { id, member, seen: 0, out: Writer::default() };
        let mut parts = vec![part(id, 0)];
        let members = &facts.members[id.0 as usize];
        if facts.embeds[id.0 as usize] {
            for (index, member) in members.iter().enumerate() {
                if let (Wire::Message(inner), "", true) = (&member.wire, member.name, member.tag != 0) {
                    parts.push(part(*inner, index as u16));
                }
            }
        }
        let fits = |p: &Self| facts.members[p.id.0 as usize].len() <= 128;
        let flat = parts[1..].iter().all(|p| !facts.embeds[p.id.0 as usize]);
        (flat && parts.iter().all(fits)).then_some(parts)
    }

    fn find(&self, facts: &Facts, key: &str) -> Option<u16> {
        let index = facts.member_named(self.id, key)?;
        (facts.members[self.id.0 as usize][index as usize].tag != 0).then_some(index)
    }
}

/// Looks a key up without copying it.
struct KeySeed<F>(F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for KeySeed<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for KeySeed<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<T, E> {
        Ok((self.0)(key))
    }
}

/// Writes one field from its JSON value.
struct ValueSeed<'f, 'o> {
    facts: &'f Facts,
    wire: &'f Wire,
    tag: u32,
    /// Whether null means that nothing is written.
    pointer: bool,
    out: &'o mut Writer,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.wire {
            Wire::Raw => {
                let raw: &RawValue = serde::Deserialize::deserialize(deserializer)?;
                if raw.get() == "null" {
                    return self.visit_unit();
                }
                leaf_in(self.tag, self.out, |o| o.bytes(1, raw.get().as_bytes()));
                Ok(())
            }
            Wire::OrBool(_) | Wire::OrArray(_) | Wire::OrStrings(_) => {
                let value: Value = serde::Deserialize::deserialize(deserializer)?;
                if value.is_null() {
                    return self.visit_unit();
                }
                let encoder = Encoder { facts: self.facts };
                encoder.field(self.wire, self.tag, &value, self.out, self.depth).map_err(D::Error::custom)
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of the field's type")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if self.pointer {
            return Ok(());
        }
        let encoder = Encoder { facts: self.facts };
        encoder.zero(self.wire, self.tag, self.out, self.depth).map_err(E::custom)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        match self.wire {
            Wire::Bool => self.out.varint(self.tag, u64::from(value)),
            _ => return Err(E::custom("a boolean")),
        }
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        let small = i32::try_from(value).is_ok();
        match self.wire {
            Wire::Int64 => self.out.varint(self.tag, value as u64),
            Wire::Int32 if small => self.out.varint(self.tag, value as u64),
            Wire::IntOrString if small => int_or_string(self.tag, 0, value, "", self.out),
            Wire::Double => self.out.fixed64(self.tag, (value as f64).to_bits()),
            Wire::Quantity => leaf_in(self.tag, self.out, |o| o.bytes(1, value.to_string().as_bytes())),
            _ => return Err(E::custom("an integer")),
        }
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::custom("an integer of more than 63 bits")),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        match self.wire {
            Wire::Double => self.out.fixed64(self.tag, value.to_bits()),
            _ => return Err(E::custom("a number with a fraction")),
        }
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        match self.wire {
            Wire::String => self.out.bytes(self.tag, text.as_bytes()),
            Wire::Bytes => self.out.bytes(self.tag, &forms::bytes_from_json(text).map_err(E::custom)?),
            Wire::Quantity => leaf_in(self.tag, self.out, |o| o.bytes(1, text.as_bytes())),
            Wire::IntOrString => int_or_string(self.tag, 1, 0, text, self.out),
            Wire::Time | Wire::MicroTime => {
                let micro = matches!(self.wire, Wire::MicroTime);
                let (seconds, nanos) = forms::time_from_json(text, micro).map_err(E::custom)?;
                leaf_in(self.tag, self.out, |o| {
                    o.varint(1, seconds as u64);
                    o.varint(2, i64::from(nanos) as u64);
                });
            }
            Wire::Duration => {
                let nanos = forms::duration_from_json(text).map_err(E::custom)?;
                leaf_in(self.tag, self.out, |o| o.varint(1, nanos as u64));
            }
            _ => return Err(E::custom("a string")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let (item, wrapper) = match self.wire {
            Wire::List(item) => (item, None),
            Wire::Wrapped(item) => (item, Some(self.out.begin(self.tag))),
            _ => return Err(A::Error::custom("an array")),
        };
        let tag = if wrapper.is_some() { 1 } else { self.tag };
        while list
            .next_element_seed(ValueSeed {
                facts: self.facts,
                wire: item,
                tag,
                pointer: false,
                out: &mut *self.out,
                depth: self.depth,
            })?
            .is_some()
        {}
        if let Some(at) = wrapper {
            self.out.end(at);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.wire {
            Wire::Message(id) => {
                let at = self.out.begin(self.tag);
                let depth = self.depth + 1;
                MessageSeed { facts: self.facts, id: *id, out: &mut *self.out, depth }.visit_map(map)?;
                self.out.end(at);
            }
            Wire::Map(item) => loop {
                let out = &mut *self.out;
                let Some(at) = map.next_key_seed(KeySeed(|key: &str| {
                    let at = out.begin(self.tag);
                    out.bytes(1, key.as_bytes());
                    at
                }))?
                else {
                    break;
                };
                map.next_value_seed(ValueSeed {
                    facts: self.facts,
                    wire: item,
                    tag: 2,
                    pointer: false,
                    out: &mut *self.out,
                    depth: self.depth,
                })?;
                self.out.end(at);
            },
            _ => return Err(A::Error::custom("an object")),
        }
        Ok(())
    }
}
