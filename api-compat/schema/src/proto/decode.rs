//! Protobuf to JSON.

use knarr_machinery::types::StructId;
use serde_json::{Map, Value};

use super::wire::{Reader, WireField};
use super::{Lookup, MAGIC, MAX_DEPTH, ProtoError, forms};
use crate::facts::{Facts, Member, Wire};

/// A decoded value and whether it is the zero value of its Go type.
type Decoded = (Value, bool);

/// What the occurrences of one field have come to.
enum Slot {
    Absent,
    Value(Decoded),
    List(Vec<Value>),
    Map(Map<String, Value>),
    /// An embedded struct.
    Inline(Map<String, Value>, bool),
}

pub(crate) struct Decoder<'a> {
    pub facts: &'a Facts,
    pub lookup: Option<Lookup<'a>>,
}

impl Decoder<'_> {
    /// The document's own message.
    pub(crate) fn root(
        &self,
        id: StructId,
        buf: &[u8],
        base: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), ProtoError> {
        self.message(id, buf, base, out, 0).map(|_| ())
    }

    /// Reads a message into JSON fields; tells whether all of them are zero.
    fn message(
        &self,
        id: StructId,
        buf: &[u8],
        base: usize,
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<bool, ProtoError> {
        if depth > MAX_DEPTH {
            return Err(ProtoError::decode(base, format!("messages nest deeper than {MAX_DEPTH}")));
        }
        let members = &self.facts.members[id.0 as usize];
        let by_tag = &self.facts.by_tag[id.0 as usize];
        let mut slots: Vec<Slot> = Vec::new();
        slots.resize_with(members.len(), || Slot::Absent);
        let find = |tag: u32| {
            by_tag.binary_search_by_key(&tag, |i| members[*i as usize].tag).ok().map(|p| by_tag[p] as usize)
        };
        let mut reader = Reader::new(buf, base);
        loop {
            let field = match reader.noted_field() {
                Ok(Some(field)) => field,
                Ok(None) => break,
                Err(e) => return Err(name_error(e, |tag| find(tag).map(|i| members[i].name))),
            };
            // A field of a newer version is passed over, as Go does.
            let Some(index) = find(field.tag) else {
                continue;
            };
            let member = &members[index];
            self.occurrence(member, field, &mut slots[index], depth).map_err(|e| e.under(member.name))?;
        }
        let mut zero = true;
        for (member, slot) in members.iter().zip(slots) {
            zero &= self.emit(member, slot, out, depth)?;
        }
        Ok(zero)
    }

    /// One occurrence of a field.
    fn occurrence(
        &self,
        member: &Member,
        field: WireField<'_>,
        slot: &mut Slot,
        depth: usize,
    ) -> Result<(), ProtoError> {
        match &member.wire {
            Wire::List(item) => {
                if !matches!(slot, Slot::List(_)) {
                    *slot = Slot::List(Vec::new());
                }
                if let Slot::List(list) = slot {
                    self.item(item, field, list, depth)?;
                }
            }
            Wire::Map(value) => {
                let (key, value) = self.entry(value, field, depth)?;
                match slot {
                    Slot::Map(map) => {
                        map.insert(key, value);
                    }
                    _ => *slot = Slot::Map(Map::from_iter([(key, value)])),
                }
            }
            Wire::Message(id) if member.name.is_empty() => {
                let (bytes, at) = field.payload()?;
                let mut map = Map::new();
                let zero = self.message(*id, bytes, at, &mut map, depth + 1)?;
                *slot = Slot::Inline(map, zero);
            }
            wire => *slot = Slot::Value(self.value(wire, field, depth)?),
        }
        Ok(())
    }

    /// Items of a list; numbers may come packed.
    fn item(
        &self,
        wire: &Wire,
        field: WireField<'_>,
        list: &mut Vec<Value>,
        depth: usize,
    ) -> Result<(), ProtoError> {
        let number = matches!(wire, Wire::Int32 | Wire::Int64 | Wire::Bool);
        if number && let Ok(mut packed) = field.reader() {
            while !packed.is_empty() {
                list.push(integer(wire, packed.varint().map_err(|e| e.at_index(list.len()))?).0);
            }
            return Ok(());
        }
        let (value, _) = self.value(wire, field, depth).map_err(|e| e.at_index(list.len()))?;
        list.push(value);
        Ok(())
    }

    fn entry(&self, wire: &Wire, field: WireField<'_>, depth: usize) -> Result<(String, Value), ProtoError> {
        let mut reader = field.reader()?;
        let (mut key, mut value) = (String::new(), None);
        while let Some(f) = reader.field()? {
            match f.tag {
                1 => key = f.string()?.to_owned(),
                2 => value = Some(self.value(wire, f, depth).map_err(|e| e.under(&key))?.0),
                _ => {}
            }
        }
        // Go makes an entry's value before it reads it: empty, not nil.
        let value = match (value, wire) {
            (Some(v), _) => v,
            (None, Wire::Bytes) => Value::String(String::new()),
            (None, Wire::Wrapped(_)) => Value::Array(Vec::new()),
            (None, _) => self.zero(wire, depth)?,
        };
        Ok((key, value))
    }

    fn value(&self, wire: &Wire, field: WireField<'_>, depth: usize) -> Result<Decoded, ProtoError> {
        Ok(match wire {
            Wire::String => {
                let s = field.string()?;
                (Value::String(s.to_owned()), s.is_empty())
            }
            Wire::Int32 | Wire::Int64 | Wire::Bool => integer(wire, field.varint()?),
            Wire::Double => double(f64::from_bits(field.fixed64()?), field.offset)?,
            Wire::Bytes => {
                let (bytes, _) = field.payload()?;
                (Value::String(forms::bytes_to_json(bytes)), bytes.is_empty())
            }
            Wire::Message(id) => {
                let (bytes, at) = field.payload()?;
                let mut map = Map::new();
                let zero = self.message(*id, bytes, at, &mut map, depth + 1)?;
                (Value::Object(map), zero)
            }
            Wire::Wrapped(item) => {
                let mut list = Vec::new();
                let mut reader = field.reader()?;
                while let Some(f) = reader.field()? {
                    if f.tag == 1 {
                        self.item(item, f, &mut list, depth + 1)?;
                    }
                }
                let zero = list.is_empty();
                (Value::Array(list), zero)
            }
            Wire::Raw => self.raw(field)?,
            Wire::Quantity => quantity(field)?,
            Wire::IntOrString => int_or_string(field)?,
            Wire::Time => time(field, false)?,
            Wire::MicroTime => time(field, true)?,
            Wire::Duration => duration(field)?,
            Wire::OrBool(id) | Wire::OrArray(id) | Wire::OrStrings(id) => {
                self.union(wire, *id, field, depth)?
            }
            Wire::List(_) | Wire::Map(_) => {
                return Err(ProtoError::decode(field.offset, "a list inside a list has no protobuf form"));
            }
        })
    }

    /// RawExtension, FieldsV1, JSON: JSON text in field 1, or an enveloped document there.
    fn raw(&self, field: WireField<'_>) -> Result<Decoded, ProtoError> {
        let mut reader = field.reader()?;
        let mut raw: (&[u8], usize) = (&[], 0);
        while let Some(f) = reader.field()? {
            if f.tag == 1 {
                raw = f.payload()?;
            }
        }
        let (bytes, at) = raw;
        if bytes.is_empty() {
            return Ok((Value::Null, true));
        }
        if bytes.starts_with(&MAGIC)
            && let Some(lookup) = self.lookup
        {
            let (_, value) = super::decode(bytes, lookup).map_err(|mut e| {
                e.offset = e.offset.map(|o| o + at);
                e
            })?;
            return Ok((value, false));
        }
        let value = serde_json::from_slice(bytes)
            .map_err(|e| ProtoError::decode(at, format!("the raw value is not JSON: {e}")))?;
        Ok((value, false))
    }

    /// The unions of a CRD's schema: one schema, or else a boolean, schemas, strings.
    fn union(
        &self,
        wire: &Wire,
        id: StructId,
        field: WireField<'_>,
        depth: usize,
    ) -> Result<Decoded, ProtoError> {
        let schema_tag = if matches!(wire, Wire::OrBool(_)) { 2 } else { 1 };
        let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
        let mut reader = field.reader()?;
        while let Some(f) = reader.field()? {
            match (f.tag, wire) {
                (1, Wire::OrBool(_)) => allows = f.varint()? != 0,
                (2, Wire::OrStrings(_)) => list.push(Value::String(f.string()?.to_owned())),
                (2, Wire::OrArray(_)) => {
                    list.push(self.value(&Wire::Message(id), f, depth + 1)?.0);
                }
                (tag, _) if tag == schema_tag => {
                    schema = Some(self.value(&Wire::Message(id), f, depth + 1)?.0);
                }
                _ => {}
            }
        }
        if !list.is_empty() {
            return Ok((Value::Array(list), false));
        }
        Ok(match (schema, wire) {
            (Some(schema), _) => (schema, false),
            (None, Wire::OrBool(_)) => (Value::Bool(allows), !allows),
            (None, _) => (Value::Null, true),
        })
    }

    /// Writes a field as Go's JSON encoder does; tells whether it is zero.
    fn emit(
        &self,
        member: &Member,
        slot: Slot,
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<bool, ProtoError> {
        let (value, zero) = match slot {
            Slot::Inline(map, zero) => {
                out.extend(map);
                return Ok(zero);
            }
            Slot::Absent if member.name.is_empty() => {
                if let (Wire::Message(id), false, true) = (&member.wire, member.pointer, member.tag != 0) {
                    self.message(*id, &[], 0, out, depth + 1)?;
                }
                return Ok(true);
            }
            Slot::Absent if member.pointer => (Value::Null, true),
            Slot::Absent => (self.zero(&member.wire, depth)?, true),
            Slot::Value((value, zero)) => (value, zero && !member.pointer),
            Slot::List(list) => (Value::Array(list), false),
            Slot::Map(map) => (Value::Object(map), false),
        };
        if !(zero && member.omits_zero()) {
            out.insert(member.name.to_owned(), value);
        }
        Ok(zero)
    }

    /// What Go's JSON encoder writes for the zero value.
    fn zero(&self, wire: &Wire, depth: usize) -> Result<Value, ProtoError> {
        Ok(match wire {
            Wire::String => Value::String(String::new()),
            Wire::Int32 | Wire::Int64 | Wire::IntOrString | Wire::Double => Value::from(0),
            Wire::Bool | Wire::OrBool(_) => Value::Bool(false),
            Wire::Quantity => Value::String("0".into()),
            Wire::Duration => Value::String("0s".into()),
            Wire::Message(id) => {
                let mut map = Map::new();
                self.message(*id, &[], 0, &mut map, depth + 1)?;
                Value::Object(map)
            }
            Wire::Bytes
            | Wire::Time
            | Wire::MicroTime
            | Wire::Raw
            | Wire::OrArray(_)
            | Wire::OrStrings(_)
            | Wire::List(_)
            | Wire::Wrapped(_)
            | Wire::Map(_) => Value::Null,
        })
    }
}

impl Member {
    /// Whether Go leaves the zero value out: `omitempty` knows nothing of structs, `omitzero` does.
    fn omits_zero(&self) -> bool {
        let is_struct = matches!(
            self.wire,
            Wire::Message(_)
                | Wire::Quantity
                | Wire::IntOrString
                | Wire::Time
                | Wire::MicroTime
                | Wire::Duration
                | Wire::Raw
                | Wire::OrBool(_)
                | Wire::OrArray(_)
                | Wire::OrStrings(_)
        );
        self.omit_zero || self.omit_empty && (self.pointer || !is_struct)
    }
}

/// Puts the field's name where the wire reader noted its number.
fn name_error(e: ProtoError, name: impl Fn(u32) -> Option<&'static str>) -> ProtoError {
    let Some(tag) = e.noted() else { return e };
    let e = ProtoError { path: String::new(), ..e };
    match name(tag) {
        Some(name) => e.under(name),
        None => e,
    }
}

fn integer(wire: &Wire, n: u64) -> Decoded {
    match wire {
        Wire::Bool => (Value::Bool(n != 0), n == 0),
        Wire::Int32 => (Value::from(n as i32), n as i32 == 0),
        _ => (Value::from(n as i64), n == 0),
    }
}

fn double(n: f64, offset: usize) -> Result<Decoded, ProtoError> {
    // Go writes whole numbers without a fraction.
    let value = if n.fract() == 0.0 && n.abs() < 1e15 {
        Value::from(n as i64)
    } else {
        serde_json::Number::from_f64(n)
            .map(Value::Number)
            .ok_or_else(|| ProtoError::decode(offset, format!("{n} has no JSON form")))?
    };
    Ok((value, n == 0.0))
}

fn quantity(field: WireField<'_>) -> Result<Decoded, ProtoError> {
    let mut reader = field.reader()?;
    let mut text = "";
    while let Some(f) = reader.field()? {
        if f.tag == 1 {
            text = f.string()?;
        }
    }
    let text = if text.is_empty() { "0" } else { text };
    Ok((Value::String(text.to_owned()), text == "0"))
}

fn int_or_string(field: WireField<'_>) -> Result<Decoded, ProtoError> {
    let mut reader = field.reader()?;
    let (mut kind, mut number, mut text) = (0, 0i32, "");
    while let Some(f) = reader.field()? {
        match f.tag {
            1 => kind = f.varint()?,
            2 => number = f.varint()? as i32,
            3 => text = f.string()?,
            _ => {}
        }
    }
    match kind {
        0 => Ok((Value::from(number), number == 0)),
        1 => Ok((Value::String(text.to_owned()), false)),
        other => Err(ProtoError::decode(field.offset, format!("{other} is no type of an IntOrString"))),
    }
}

fn time(field: WireField<'_>, micro: bool) -> Result<Decoded, ProtoError> {
    let (bytes, at) = field.payload()?;
    if bytes.is_empty() {
        return Ok((Value::Null, true));
    }
    let mut reader = Reader::new(bytes, at);
    let (mut seconds, mut nanos) = (0, 0);
    while let Some(f) = reader.field()? {
        match f.tag {
            1 => seconds = f.varint()? as i64,
            2 => nanos = f.varint()? as i32,
            _ => {}
        }
    }
    let value = forms::time_to_json(seconds, nanos, micro).ok_or_else(|| {
        ProtoError::decode(at, format!("{seconds} seconds are outside the years 1 to 9999"))
    })?;
    let zero = value.is_null();
    Ok((value, zero))
}

fn duration(field: WireField<'_>) -> Result<Decoded, ProtoError> {
    let mut reader = field.reader()?;
    let mut nanos = 0;
    while let Some(f) = reader.field()? {
        if f.tag == 1 {
            nanos = f.varint()? as i64;
        }
    }
    Ok((Value::String(forms::duration_to_json(nanos)), nanos == 0))
}
