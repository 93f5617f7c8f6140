//! The description of a type that pruning, strict decoding, the protobuf codec, strategic merge
//! patch and server-side apply share.
//!
//! `schema` fills a [`TypeSet`] for the built-in kinds once; every CRD version gets a small one of its own.
//! Sources: `k8s.io/client-go` `applyconfigurations/internal` (list and map topology), the `patchStrategy`
//! and `patchMergeKey` tags of `k8s.io/api`, and `generated.proto` (tags).

use std::collections::HashMap;
use std::sync::Arc;

use crate::Str;

/// Index of a struct in its [`TypeSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StructId(pub u32);

/// The type of one value.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// A leaf.
    Scalar(Scalar),
    /// A list.
    List(Arc<ListType>),
    /// A map with string keys.
    Map(Arc<MapType>),
    /// A struct of the same set.
    Struct(StructId),
    /// Any JSON (RawExtension, JSON, FieldsV1, preserve-unknown-fields): kept as it is, atomic in apply.
    Any,
}

/// Leaves, by their JSON form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// A string.
    String,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point number.
    Double,
    /// Boolean.
    Bool,
    /// Base64 in JSON, raw in protobuf.
    Bytes,
    /// `resource.Quantity`: string (or number on input).
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// RFC 3339 with seconds; null allowed.
    Time,
    /// RFC 3339 with microseconds; null allowed.
    MicroTime,
    /// `metav1.Duration`, a Go duration string.
    Duration,
}

/// How apply merges a list (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// Replaced as a whole, one owner.
    Atomic,
    /// Scalars, each owned by itself.
    Set,
    /// Structs identified by these keys, with the default of a key where the schema gives one.
    Map(Vec<ListKey>),
}

/// A key of a list of kind map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListKey {
    /// JSON field name in the item.
    pub name: Str,
    /// Value assumed when the item lacks the key (for example `TCP`), as JSON.
    pub default: Option<serde_json::Value>,
}

/// A list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListType {
    /// Type of each item.
    pub item: Type,
    /// Topology for apply.
    pub kind: ListKind,
}

/// A map with string keys.
#[derive(Debug, Clone, PartialEq)]
pub struct MapType {
    /// Type of each value.
    pub value: Type,
    /// Whether apply treats it as one value.
    pub atomic: bool,
}

/// The `patchStrategy` of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    /// `merge`: lists are merged (by the merge key, or as sets of scalars).
    pub merge: bool,
    /// `replace`: a map or struct is replaced.
    pub replace: bool,
    /// `retainKeys`: keys absent from `$retainKeys` are dropped.
    pub retain_keys: bool,
}

/// One field of a struct.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// JSON name.
    pub name: Str,
    /// Type of its value.
    pub ty: Type,
    /// Protobuf tag; 0 where the type has no protobuf form.
    pub tag: u32,
    /// Whether OpenAPI marks the field as required. Go always writes such a field in JSON.
    pub required: bool,
    /// Strategic merge patch behaviour.
    pub strategy: PatchStrategy,
    /// Key for `strategy.merge` on lists of structs.
    pub merge_key: Option<Str>,
    /// Default in the schema (used for keys of lists and CRD defaulting).
    pub default: Option<serde_json::Value>,
    /// Whether null is a value of its own (CRD `nullable`), else null means absent.
    pub nullable: bool,
}

/// The name of a struct that stands for values of any form; maps among them are told apart field by field.
pub const DEDUCED: &str = "deduced";

/// A struct.
#[derive(Debug, Clone, PartialEq)]
pub struct StructType {
    /// Definition name, for example `io.k8s.api.core.v1.Pod`.
    pub name: Str,
    /// Fields in declaration order.
    pub fields: Vec<Field>,
    /// JSON name to position in `fields`.
    pub by_name: HashMap<Str, u32>,
    /// Whether apply treats it as one value (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// Whether unknown fields are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
}

impl StructType {
    /// The field with this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.by_name.get(name).map(|i| &self.fields[*i as usize])
    }
}

/// A closed set of structs that refer to each other by index.
#[derive(Debug, Default)]
pub struct TypeSet {
    structs: Vec<StructType>,
    by_name: HashMap<Str, StructId>,
}

impl TypeSet {
    /// Adds a struct (filling `by_name` of its fields) and returns its index; a later one of the same name wins.
    pub fn add(&mut self, mut s: StructType) -> StructId {
        s.by_name = s.fields.iter().enumerate().map(|(i, f)| (f.name.clone(), i as u32)).collect();
        let id = StructId(self.structs.len() as u32);
        self.by_name.insert(s.name.clone(), id);
        self.structs.push(s);
        id
    }

    /// The struct at `id`. Panics on an index of another set: ids never leave their set.
    pub fn get(&self, id: StructId) -> &StructType {
        &self.structs[id.0 as usize]
    }

    /// Finds a struct by definition name.
    pub fn find(&self, name: &str) -> Option<StructId> {
        self.by_name.get(name).copied()
    }

    /// All structs.
    pub fn iter(&self) -> impl Iterator<Item = &StructType> {
        self.structs.iter()
    }
}

/// A type together with the set that resolves it: what patch, apply and prune take.
#[derive(Debug, Clone)]
pub struct TypeRef {
    /// The set.
    pub set: Arc<TypeSet>,
    /// The root type of a document.
    pub root: Type,
}
