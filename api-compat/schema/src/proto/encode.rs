//! JSON to protobuf.

use knarr_machinery::types::StructId;
use serde_json::{Map, Value};

use super::wire::Writer;
use super::{MAX_DEPTH, ProtoError, forms};
use crate::facts::{Facts, Member, Wire};

pub(crate) struct Encoder<'a> {
    pub facts: &'a Facts,
}

fn expected(want: &str, got: &Value) -> ProtoError {
    ProtoError::encode(format!("expected {want}, got {}", forms::kind_of(got)))
}

impl Encoder<'_> {
    /// Writes the fields of a message in the order of their tags.
    pub(crate) fn message(
        &self,
        id: StructId,
        obj: &Map<String, Value>,
        out: &mut Writer,
        depth: usize,
    ) -> Result<(), ProtoError> {
        if depth > MAX_DEPTH {
            return Err(ProtoError::encode(format!("objects nest deeper than {MAX_DEPTH}")));
        }
        let members = &self.facts.members[id.0 as usize];
        for index in &self.facts.by_tag[id.0 as usize] {
            let member = &members[*index as usize];
            if member.name.is_empty() {
                self.embedded(member, obj, out, depth)?;
                continue;
            }
            let value = obj.get(member.name).filter(|v| !v.is_null());
            let written = match value {
                Some(value) => self.field(&member.wire, member.tag, value, out, depth),
                None if member.pointer => Ok(()),
                None => self.zero(&member.wire, member.tag, out, depth),
            };
            written.map_err(|e| e.under(member.name))?;
        }
        Ok(())
    }

    /// An embedded struct reads the same JSON object.
    fn embedded(
        &self,
        member: &Member,
        obj: &Map<String, Value>,
        out: &mut Writer,
        depth: usize,
    ) -> Result<(), ProtoError> {
        let Wire::Message(id) = member.wire else {
            return Ok(());
        };
        let inner = &self.facts.members[id.0 as usize];
        if member.pointer && !inner.iter().any(|m| obj.get(m.name).is_some_and(|v| !v.is_null())) {
            return Ok(());
        }
        let at = out.begin(member.tag);
        self.message(id, obj, out, depth + 1)?;
        out.end(at);
        Ok(())
    }

    pub(crate) fn field(
        &self,
        wire: &Wire,
        tag: u32,
        value: &Value,
        out: &mut Writer,
        depth: usize,
    ) -> Result<(), ProtoError> {
        match wire {
            Wire::List(item) => {
                let Value::Array(list) = value else {
                    return Err(expected("an array", value));
                };
                for (i, v) in list.iter().enumerate() {
                    let written = if v.is_null() {
                        self.zero(item, tag, out, depth)
                    } else {
                        self.field(item, tag, v, out, depth)
                    };
                    written.map_err(|e| e.at_index(i))?;
                }
            }
            Wire::Wrapped(item) => {
                if !value.is_array() {
                    return Err(expected("an array", value));
                }
                let at = out.begin(tag);
                self.field(&Wire::List(item.clone()), 1, value, out, depth + 1)?;
                out.end(at);
            }
            Wire::Map(item) => self.map(item, tag, value, out, depth)?,
            Wire::Message(id) => {
                let Value::Object(obj) = value else {
                    return Err(expected("an object", value));
                };
                let at = out.begin(tag);
                self.message(*id, obj, out, depth + 1)?;
                out.end(at);
            }
            Wire::OrBool(id) | Wire::OrArray(id) | Wire::OrStrings(id) => {
                let at = out.begin(tag);
                self.union(wire, *id, value, out, depth)?;
                out.end(at);
            }
            _ => leaf(wire, tag, value, out)?,
        }
        Ok(())
    }

    fn map(
        &self,
        item: &Wire,
        tag: u32,
        value: &Value,
        out: &mut Writer,
        depth: usize,
    ) -> Result<(), ProtoError> {
        let Value::Object(map) = value else {
            return Err(expected("an object", value));
        };
        let mut keys: Vec<&String> = map.keys().collect();
        keys.sort_unstable();
        for key in keys {
            let at = out.begin(tag);
            out.bytes(1, key.as_bytes());
            let written = match &map[key] {
                Value::Null => self.zero(item, 2, out, depth),
                v => self.field(item, 2, v, out, depth),
            };
            written.map_err(|e| e.under(key))?;
            out.end(at);
        }
        Ok(())
    }

    fn union(
        &self,
        wire: &Wire,
        id: StructId,
        value: &Value,
        out: &mut Writer,
        depth: usize,
    ) -> Result<(), ProtoError> {
        let schema = Wire::Message(id);
        match (wire, value) {
            (Wire::OrBool(_), Value::Bool(b)) => {
                out.varint(1, u64::from(*b));
                Ok(())
            }
            (Wire::OrBool(_), Value::Object(_)) => {
                out.varint(1, 1);
                self.field(&schema, 2, value, out, depth + 1)
            }
            (Wire::OrArray(_) | Wire::OrStrings(_), Value::Object(_)) => {
                self.field(&schema, 1, value, out, depth + 1)
            }
            (Wire::OrArray(_), Value::Array(_)) => {
                self.field(&Wire::List(schema.into()), 2, value, out, depth + 1)
            }
            (Wire::OrStrings(_), Value::Array(_)) => {
                self.field(&Wire::List(Wire::String.into()), 2, value, out, depth + 1)
            }
            (Wire::OrBool(_), _) => Err(expected("a boolean or an object", value)),
            _ => Err(expected("an object or an array", value)),
        }
    }

    /// What Go writes for a value (not a pointer) that JSON does not name.
    pub(crate) fn zero(
        &self,
        wire: &Wire,
        tag: u32,
        out: &mut Writer,
        depth: usize,
    ) -> Result<(), ProtoError> {
        match wire {
            Wire::String => out.bytes(tag, b""),
            Wire::Int32 | Wire::Int64 | Wire::Bool => out.varint(tag, 0),
            Wire::Double => out.fixed64(tag, 0),
            Wire::Bytes | Wire::List(_) | Wire::Wrapped(_) | Wire::Map(_) => {}
            Wire::Time | Wire::MicroTime | Wire::Raw | Wire::OrArray(_) | Wire::OrStrings(_) => {
                out.bytes(tag, b"");
            }
            Wire::OrBool(_) => leaf_in(tag, out, |o| o.varint(1, 0)),
            Wire::Quantity => leaf_in(tag, out, |o| o.bytes(1, b"0")),
            Wire::Duration => leaf_in(tag, out, |o| o.varint(1, 0)),
            Wire::IntOrString => int_or_string(tag, 0, 0, "", out),
            Wire::Message(id) => {
                let at = out.begin(tag);
                self.message(*id, &Map::new(), out, depth + 1)?;
                out.end(at);
            }
        }
        Ok(())
    }
}

pub(crate) fn leaf_in(tag: u32, out: &mut Writer, write: impl FnOnce(&mut Writer)) {
    let at = out.begin(tag);
    write(out);
    out.end(at);
}

pub(crate) fn int_or_string(tag: u32, kind: u64, number: i64, text: &str, out: &mut Writer) {
    leaf_in(tag, out, |o| {
        o.varint(1, kind);
        o.varint(2, number as u64);
        o.bytes(3, text.as_bytes());
    });
}

fn text(value: &Value) -> Result<&str, ProtoError> {
    value.as_str().ok_or_else(|| expected("a string", value))
}

fn int64(value: &Value) -> Result<i64, ProtoError> {
    value.as_i64().ok_or_else(|| match value {
        Value::Number(n) => ProtoError::encode(format!("{n} is not a 64-bit integer")),
        _ => expected("an integer", value),
    })
}

fn int32(value: &Value) -> Result<i64, ProtoError> {
    let n = int64(value)?;
    match i32::try_from(n) {
        Ok(_) => Ok(n),
        Err(_) => Err(ProtoError::encode(format!("{n} is not a 32-bit integer"))),
    }
}

fn leaf(wire: &Wire, tag: u32, value: &Value, out: &mut Writer) -> Result<(), ProtoError> {
    match wire {
        Wire::String => out.bytes(tag, text(value)?.as_bytes()),
        Wire::Int32 => out.varint(tag, int32(value)? as u64),
        Wire::Int64 => out.varint(tag, int64(value)? as u64),
        Wire::Bool => {
            let b = value.as_bool().ok_or_else(|| expected("a boolean", value))?;
            out.varint(tag, u64::from(b));
        }
        Wire::Double => {
            let n = value.as_f64().ok_or_else(|| expected("a number", value))?;
            out.fixed64(tag, n.to_bits());
        }
        Wire::Bytes => {
            out.bytes(tag, &forms::bytes_from_json(text(value)?).map_err(ProtoError::encode)?);
        }
        Wire::Quantity => {
            let quantity = match value {
                Value::Number(n) => n.to_string(),
                _ => text(value)?.to_owned(),
            };
            leaf_in(tag, out, |o| o.bytes(1, quantity.as_bytes()));
        }
        Wire::IntOrString => match value {
            Value::Number(_) => int_or_string(tag, 0, int32(value)?, "", out),
            Value::String(s) => int_or_string(tag, 1, 0, s, out),
            _ => return Err(expected("an integer or a string", value)),
        },
        Wire::Time | Wire::MicroTime => {
            let (seconds, nanos) = forms::time_from_json(text(value)?, matches!(wire, Wire::MicroTime))
                .map_err(ProtoError::encode)?;
            leaf_in(tag, out, |o| {
                o.varint(1, seconds as u64);
                o.varint(2, i64::from(nanos) as u64);
            });
        }
        Wire::Duration => {
            let nanos = forms::duration_from_json(text(value)?).map_err(ProtoError::encode)?;
            leaf_in(tag, out, |o| o.varint(1, nanos as u64));
        }
        Wire::Raw => {
            let raw = serde_json::to_vec(value).map_err(|e| ProtoError::encode(e.to_string()))?;
            leaf_in(tag, out, |o| o.bytes(1, &raw));
        }
        _ => return Err(ProtoError::encode("not a leaf")),
    }
    Ok(())
}
