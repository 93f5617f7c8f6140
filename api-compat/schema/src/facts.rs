//! Reads `data/types.txt`.
//!
//! Line form, words separated by one space:
//! ```text
//! S <definition name> [a]                               a struct; a = atomic in apply
//! I <tag> @<struct>                                     Go embeds the struct: its fields are in line in JSON, and are
//!                                                       a message of their own in protobuf (absent there if tag 0)
//! F <json name> <type> <tag> <flags> [~<merge key>] [=<default as JSON>]
//! K <group>/<version> <kind> <definition name>
//! ```
//! Types: `s` string, `i` int32, `l` int64, `d` double, `b` bool, `y` bytes, `q` Quantity, `x` IntOrString, `t` Time,
//! `m` MicroTime, `n` Duration, `*` any JSON, `*B *A *S` the three unions of a CRD's schema, `@name` a struct (`@.Name` of
//! the same package), `[k]T` a list (k: a atomic, s set, m:keys map; a leading w: Go wraps the list in a message),
//! `{}T` a map, `{a}T` an atomic one.
//! Flags: p pointer, o omitempty, z omitzero, r required, M merge, R replace, K retainKeys; `-` for none.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use knarr_machinery::Str;
use knarr_machinery::types::{
    Field, ListKey, ListKind, ListType, MapType, PatchStrategy, Scalar, StructId, StructType, Type, TypeSet,
};

static TEXT: &str = include_str!("../data/types.txt");

/// A kind of upstream's scheme.
#[derive(Debug)]
pub(crate) struct KindFact {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub definition: &'static str,
}

/// The protobuf form of a value.
#[derive(Debug, Clone)]
pub(crate) enum Wire {
    String,
    Int32,
    Int64,
    Double,
    Bool,
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Duration,
    /// A message with the raw JSON in field 1.
    Raw,
    /// `JSONSchemaPropsOrBool`; the struct is JSONSchemaProps, as in the next two.
    OrBool(StructId),
    /// `JSONSchemaPropsOrArray`.
    OrArray(StructId),
    /// `JSONSchemaPropsOrStringArray`.
    OrStrings(StructId),
    Message(StructId),
    List(Arc<Wire>),
    /// A list inside a message of its own, as field 1.
    Wrapped(Arc<Wire>),
    Map(Arc<Wire>),
}

/// One field of a protobuf message, with what Go's JSON encoder does with it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// JSON name; "" for an embedded struct, whose fields stand in line.
    pub name: &'static str,
    /// Protobuf field number, 0 for none.
    pub tag: u32,
    pub wire: Wire,
    pub pointer: bool,
    pub omit_empty: bool,
    pub omit_zero: bool,
}

/// All facts.
pub(crate) struct Facts {
    pub types: Arc<TypeSet>,
    /// By [`StructId`]: members in declaration order.
    pub members: Vec<Vec<Member>>,
    /// By [`StructId`]: positions in `members`, sorted by tag, tag 0 left out.
    pub by_tag: Vec<Vec<u16>>,
    /// By [`StructId`]: [`name_key`] and position in `members`, sorted; embedded structs left out.
    pub by_name: Vec<Vec<(u64, u16)>>,
    /// By [`StructId`]: whether a member is an embedded struct with a message of its own.
    pub embeds: Vec<bool>,
    pub kinds: Vec<KindFact>,
}

impl Facts {
    /// The member of a struct with this JSON name.
    pub(crate) fn member_named(&self, id: StructId, name: &str) -> Option<u16> {
        let (members, by_name) = (&self.members[id.0 as usize], &self.by_name[id.0 as usize]);
        let key = name_key(name);
        let first = by_name.partition_point(|(k, _)| *k < key);
        let same = by_name[first..].iter().take_while(|(k, _)| *k == key);
        same.map(|(_, i)| *i).find(|i| members[*i as usize].name == name)
    }

    pub(crate) fn definition(&self, group: &str, version: &str, kind: &str) -> Option<&'static str> {
        self.kinds
            .binary_search_by(|k| (k.group, k.version, k.kind).cmp(&(group, version, kind)))
            .ok()
            .map(|i| self.kinds[i].definition)
    }
}

/// A number that tells most names apart: the first and the last four bytes.
pub(crate) fn name_key(name: &str) -> u64 {
    let bytes = name.as_bytes();
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(head), Some(tail)) => {
            u64::from(u32::from_ne_bytes(*head)) << 32 | u64::from(u32::from_ne_bytes(*tail))
        }
        _ => bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)),
    }
}

/// The facts, decoded on the first call.
pub(crate) fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| Reader::default().read(TEXT))
}

/// A struct as its lines tell.
struct RawStruct {
    name: &'static str,
    atomic: bool,
    lines: Vec<RawLine>,
}

enum RawLine {
    Field(Box<Field>, Member),
    Inline(Member, StructId),
}

/// The file is part of the program and a test reads all of it, so a malformed line is left out rather than reported.
#[derive(Default)]
struct Reader {
    ids: HashMap<&'static str, StructId>,
    by_package: HashMap<(&'static str, &'static str), StructId>,
}

impl Reader {
    fn read(mut self, text: &'static str) -> Facts {
        self.index(text);
        let (raw, mut kinds) = self.lines(text);
        kinds.sort_by_key(|k| (k.group, k.version, k.kind));
        let mut set = TypeSet::default();
        let mut members = Vec::with_capacity(raw.len());
        let mut by_tag = Vec::with_capacity(raw.len());
        let mut by_name = Vec::with_capacity(raw.len());
        let mut embeds = Vec::with_capacity(raw.len());
        for s in &raw {
            let mut fields = Vec::with_capacity(s.lines.len());
            flatten(&raw, s, false, &mut fields);
            fill_key_defaults(&raw, &mut fields);
            set.add(StructType {
                name: Str::Borrowed(s.name),
                fields,
                by_name: HashMap::new(),
                atomic: s.atomic,
                preserve_unknown: false,
            });
            let own: Vec<Member> = s.lines.iter().map(|l| l.member().clone()).collect();
            let mut order: Vec<u16> = (0..own.len() as u16).filter(|i| own[*i as usize].tag != 0).collect();
            order.sort_by_key(|i| own[*i as usize].tag);
            let named = own.iter().enumerate().filter(|(_, m)| !m.name.is_empty());
            let mut names: Vec<(u64, u16)> = named.map(|(i, m)| (name_key(m.name), i as u16)).collect();
            names.sort_unstable();
            embeds.push(own.iter().any(|m| m.name.is_empty() && m.tag != 0));
            members.push(own);
            by_tag.push(order);
            by_name.push(names);
        }
        Facts { types: Arc::new(set), members, by_tag, by_name, embeds, kinds }
    }

    /// First pass: an id for each struct, in file order.
    fn index(&mut self, text: &'static str) {
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("S ") {
                let name = rest.split(' ').next().unwrap_or(rest);
                let id = StructId(self.ids.len() as u32);
                self.ids.insert(name, id);
                if let Some((package, short)) = name.rsplit_once('.') {
                    self.by_package.insert((package, short), id);
                }
            }
        }
    }

    fn lines(&self, text: &'static str) -> (Vec<RawStruct>, Vec<KindFact>) {
        let mut structs: Vec<RawStruct> = Vec::with_capacity(self.ids.len());
        let mut kinds = Vec::new();
        let mut package = "";
        for line in text.lines() {
            let mut words = line.split(' ');
            match words.next() {
                Some("S") => {
                    let name = words.next().unwrap_or("");
                    package = name.rsplit_once('.').map_or("", |(p, _)| p);
                    let atomic = words.next() == Some("a");
                    structs.push(RawStruct { name, atomic, lines: Vec::new() });
                }
                Some("F") => {
                    if let (Some(s), Some(l)) = (structs.last_mut(), self.field(package, line)) {
                        s.lines.push(l);
                    }
                }
                Some("I") => {
                    if let (Some(s), Some(l)) = (structs.last_mut(), self.inline(package, line)) {
                        s.lines.push(l);
                    }
                }
                Some("K") => kinds.extend(kind(line)),
                _ => {}
            }
        }
        (structs, kinds)
    }

    fn inline(&self, package: &'static str, line: &'static str) -> Option<RawLine> {
        let mut words = line.split(' ').skip(1);
        let tag = words.next()?.parse().ok()?;
        let id = self.resolve(package, words.next()?.strip_prefix('@')?)?;
        let pointer = words.next() == Some("p");
        let member =
            Member { name: "", tag, wire: Wire::Message(id), pointer, omit_empty: false, omit_zero: false };
        Some(RawLine::Inline(member, id))
    }

    fn field(&self, package: &'static str, line: &'static str) -> Option<RawLine> {
        let (line, default) = match line.split_once(" =") {
            Some((head, json)) => (head, serde_json::from_str(json).ok()),
            None => (line, None),
        };
        let mut words = line.split(' ').skip(1);
        let name = words.next()?;
        let (ty, wire) = self.ty(package, words.next()?)?;
        let tag = words.next()?.parse().ok()?;
        let flags = words.next()?;
        let merge_key = words.next().and_then(|w| w.strip_prefix('~')).map(Str::Borrowed);
        let field = Field {
            name: Str::Borrowed(name),
            ty,
            tag,
            required: flags.contains('r'),
            strategy: PatchStrategy {
                merge: flags.contains('M'),
                replace: flags.contains('R'),
                retain_keys: flags.contains('K'),
            },
            merge_key,
            default,
            nullable: false,
        };
        let member = Member {
            name,
            tag,
            wire,
            pointer: flags.contains('p'),
            omit_empty: flags.contains('o'),
            omit_zero: flags.contains('z'),
        };
        Some(RawLine::Field(Box::new(field), member))
    }

    fn resolve(&self, package: &'static str, name: &'static str) -> Option<StructId> {
        match name.strip_prefix('.') {
            Some(short) => self.by_package.get(&(package, short)).copied(),
            None => self.ids.get(name).copied(),
        }
    }

    fn ty(&self, package: &'static str, text: &'static str) -> Option<(Type, Wire)> {
        let scalar = |s, w| Some((Type::Scalar(s), w));
        match text {
            "s" => scalar(Scalar::String, Wire::String),
            "i" => scalar(Scalar::Int32, Wire::Int32),
            "l" => scalar(Scalar::Int64, Wire::Int64),
            "d" => scalar(Scalar::Double, Wire::Double),
            "b" => scalar(Scalar::Bool, Wire::Bool),
            "y" => scalar(Scalar::Bytes, Wire::Bytes),
            "q" => scalar(Scalar::Quantity, Wire::Quantity),
            "x" => scalar(Scalar::IntOrString, Wire::IntOrString),
            "t" => scalar(Scalar::Time, Wire::Time),
            "m" => scalar(Scalar::MicroTime, Wire::MicroTime),
            "n" => scalar(Scalar::Duration, Wire::Duration),
            "*" => Some((Type::Any, Wire::Raw)),
            "*B" | "*A" | "*S" => {
                let id = self.resolve(package, ".JSONSchemaProps")?;
                let wire = match text {
                    "*B" => Wire::OrBool(id),
                    "*A" => Wire::OrArray(id),
                    _ => Wire::OrStrings(id),
                };
                Some((Type::Any, wire))
            }
            _ => self.composite(package, text),
        }
    }

    fn composite(&self, package: &'static str, text: &'static str) -> Option<(Type, Wire)> {
        if let Some(name) = text.strip_prefix('@') {
            let id = self.resolve(package, name)?;
            return Some((Type::Struct(id), Wire::Message(id)));
        }
        if let Some((kind, item)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
            let (item, wire) = self.ty(package, item)?;
            let (wire, kind) = match kind.strip_prefix('w') {
                Some(kind) => (Wire::Wrapped(Arc::new(wire)), kind),
                None => (Wire::List(Arc::new(wire)), kind),
            };
            let kind = match kind.strip_prefix("m:") {
                Some(keys) => ListKind::Map(
                    keys.split(',').map(|k| ListKey { name: Str::Borrowed(k), default: None }).collect(),
                ),
                None if kind == "s" => ListKind::Set,
                None => ListKind::Atomic,
            };
            return Some((Type::List(Arc::new(ListType { item, kind })), wire));
        }
        let (flag, value) = text.strip_prefix('{')?.split_once('}')?;
        let (value, wire) = self.ty(package, value)?;
        let map = MapType { value, atomic: flag == "a" };
        Some((Type::Map(Arc::new(map)), Wire::Map(Arc::new(wire))))
    }
}

impl RawLine {
    fn member(&self) -> &Member {
        match self {
            Self::Field(_, m) | Self::Inline(m, _) => m,
        }
    }
}

fn kind(line: &'static str) -> Option<KindFact> {
    let mut words = line.split(' ').skip(1);
    let (gv, kind, definition) = (words.next()?, words.next()?, words.next()?);
    let (group, version) = gv.split_once('/').unwrap_or(("", gv));
    Some(KindFact { group, version, kind, definition })
}

/// Fields as JSON shows them, embedded structs in line. An embedded field's tag is that of the inner message, or 0
/// where the embedded struct has no protobuf form (TypeMeta).
fn flatten(all: &[RawStruct], s: &RawStruct, untagged: bool, out: &mut Vec<Field>) {
    for line in &s.lines {
        match line {
            RawLine::Field(f, _) => {
                let mut f = Field::clone(f);
                if untagged {
                    f.tag = 0;
                }
                out.push(f);
            }
            RawLine::Inline(m, id) => {
                if let Some(inner) = all.get(id.0 as usize) {
                    flatten(all, inner, untagged || m.tag == 0, out);
                }
            }
        }
    }
}

/// Gives the keys of lists the defaults that the item's fields have.
fn fill_key_defaults(all: &[RawStruct], fields: &mut [Field]) {
    for field in fields {
        let Type::List(list) = &field.ty else {
            continue;
        };
        let (ListKind::Map(keys), Type::Struct(id)) = (&list.kind, &list.item) else {
            continue;
        };
        let Some(item) = all.get(id.0 as usize) else {
            continue;
        };
        let mut inner = Vec::new();
        flatten(all, item, false, &mut inner);
        let keys = keys
            .iter()
            .map(|k| ListKey {
                name: k.name.clone(),
                default: inner.iter().find(|f| f.name == k.name).and_then(|f| f.default.clone()),
            })
            .collect();
        field.ty = Type::List(Arc::new(ListType { item: list.item.clone(), kind: ListKind::Map(keys) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing of the file is left out.
    #[test]
    fn every_line_is_read() {
        let f = facts();
        let count = |prefix: &str| TEXT.lines().filter(|l| l.starts_with(prefix)).count();
        assert_eq!(f.types.iter().count(), count("S "));
        assert_eq!(f.kinds.len(), count("K "));
        assert_eq!(f.members.iter().map(Vec::len).sum::<usize>(), count("F ") + count("I "));
        let defaults = f.types.iter().flat_map(|s| &s.fields).filter(|f| f.default.is_some()).count();
        assert!(defaults >= count("F ").min(TEXT.matches(" =").count()), "{defaults}");
        for s in f.types.iter() {
            assert_eq!(s.by_name.len(), s.fields.len(), "{}: a field name twice", s.name);
        }
        for k in &f.kinds {
            assert!(f.types.find(k.definition).is_some(), "{}", k.definition);
        }
    }

    #[test]
    fn service_ports_keep_protocol_with_its_default() {
        let f = facts();
        let spec = f.types.get(f.types.find("io.k8s.api.core.v1.ServiceSpec").unwrap());
        let ports = spec.field("ports").unwrap();
        assert_eq!(ports.merge_key.as_deref(), Some("port"));
        let Type::List(list) = &ports.ty else { panic!("{ports:?}") };
        let ListKind::Map(keys) = &list.kind else { panic!("{list:?}") };
        assert_eq!(keys[1].name, "protocol");
        assert_eq!(keys[1].default, Some(serde_json::json!("TCP")));
        assert_eq!(f.definition("apps", "v1", "Deployment"), Some("io.k8s.api.apps.v1.Deployment"));
        assert_eq!(f.definition("apps", "v1", "Nothing"), None);
    }

    /// Decoding has to be cheap: it is part of start-up (measured with `--release` it is 2-3 ms).
    #[test]
    fn decoding_is_quick() {
        let start = std::time::Instant::now();
        let read = Reader::default().read(TEXT);
        let took = start.elapsed();
        eprintln!("decoded {} structs in {took:?}", read.members.len());
        assert!(took.as_millis() < 500, "{took:?}");
    }
}
