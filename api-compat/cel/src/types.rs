//! Types, and how they fit each other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Anything, judged at run time.
    Dyn,
    /// null.
    Null,
    /// bool.
    Bool,
    /// int.
    Int,
    /// uint.
    Uint,
    /// double.
    Double,
    /// string.
    String,
    /// bytes.
    Bytes,
    /// google.protobuf.Duration.
    Duration,
    /// google.protobuf.Timestamp.
    Timestamp,
    /// list(T).
    List(Arc<Type>),
    /// map(K, V).
    Map(Arc<Type>, Arc<Type>),
    /// optional_type(T).
    Optional(Arc<Type>),
    /// type(T).
    Type(Arc<Type>),
    /// A struct.
    Object(Arc<ObjectType>),
    /// A type of a library, such as `kubernetes.Quantity`.
    Opaque(&'static str),
    /// A struct that expressions make themselves, `Object.spec` or `JSONPatch`.
    Message(String),
    /// A type parameter of a signature.
    Param(u32),
}

/// The fields of a struct, by their names in expressions.
#[derive(Debug, PartialEq)]
pub struct ObjectType {
    /// Name for messages.
    pub name: String,
    /// Fields.
    pub fields: BTreeMap<String, Type>,
}

impl Type {
    /// A list.
    pub fn list(item: Self) -> Self {
        Self::List(Arc::new(item))
    }

    /// A map with string keys.
    pub fn map(value: Self) -> Self {
        Self::Map(Arc::new(Self::String), Arc::new(value))
    }

    /// An optional value.
    pub fn optional(value: Self) -> Self {
        Self::Optional(Arc::new(value))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn | Self::Param(_) => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("google.protobuf.Duration"),
            Self::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Self::List(t) => write!(f, "list({t})"),
            Self::Map(k, v) => write!(f, "map({k}, {v})"),
            Self::Optional(t) => write!(f, "optional_type({t})"),
            Self::Type(t) => write!(f, "type({t})"),
            Self::Object(o) => f.write_str(&o.name),
            Self::Opaque(name) => f.write_str(name),
            Self::Message(name) => f.write_str(name),
        }
    }
}

/// What is known of type parameters during a check.
#[derive(Debug, Default, Clone)]
pub(crate) struct Substitution {
    known: BTreeMap<u32, Type>,
    next: u32,
}

impl Substitution {
    /// How many parameters were made.
    pub fn age(&self) -> u32 {
        self.next
    }

    /// Makes sure that new parameters are none of `other`'s.
    pub fn skip_to(&mut self, other: &Self) {
        self.next = self.next.max(other.next);
    }

    /// A parameter that nobody knows yet.
    pub fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Param(self.next)
    }

    /// Parameters of a signature as new ones of this check.
    pub fn instantiate(&mut self, ty: &Type, names: &mut BTreeMap<u32, Type>) -> Type {
        match ty {
            Type::Param(p) => {
                if !names.contains_key(p) {
                    let fresh = self.fresh();
                    names.insert(*p, fresh);
                }
                names.get(p).cloned().unwrap_or(Type::Dyn)
            }
            Type::List(t) => Type::list(self.instantiate(t, names)),
            Type::Map(k, v) => {
                Type::Map(Arc::new(self.instantiate(k, names)), Arc::new(self.instantiate(v, names)))
            }
            Type::Optional(t) => Type::optional(self.instantiate(t, names)),
            Type::Type(t) => Type::Type(Arc::new(self.instantiate(t, names))),
            other => other.clone(),
        }
    }

    /// The type with what is known put in; unknown parameters become dyn when `last`.
    pub fn resolve(&self, ty: &Type, last: bool) -> Type {
        match ty {
            Type::Param(p) => match self.known.get(p) {
                Some(t) => self.resolve(t, last),
                None if last => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(t) => Type::list(self.resolve(t, last)),
            Type::Map(k, v) => Type::Map(Arc::new(self.resolve(k, last)), Arc::new(self.resolve(v, last))),
            Type::Optional(t) => Type::optional(self.resolve(t, last)),
            Type::Type(t) => Type::Type(Arc::new(self.resolve(t, last))),
            other => other.clone(),
        }
    }

    /// Whether a value of `given` can stand where `wanted` is; learns parameters. After a failure the substitution
    /// is in disorder: keep a copy.
    pub fn fits(&mut self, wanted: &Type, given: &Type) -> bool {
        let (wanted, given) = (self.resolve(wanted, false), self.resolve(given, false));
        match (&wanted, &given) {
            (Type::Param(a), Type::Param(b)) if a == b => true,
            (Type::Param(p), other) | (other, Type::Param(p)) => {
                if occurs(*p, other) {
                    return false;
                }
                self.known.insert(*p, other.clone());
                true
            }
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (
                Type::Null,
                Type::Object(_) | Type::Opaque(_) | Type::Duration | Type::Timestamp | Type::Optional(_),
            )
            | (
                Type::Object(_) | Type::Opaque(_) | Type::Duration | Type::Timestamp | Type::Optional(_),
                Type::Null,
            ) => true,
            (Type::List(a), Type::List(b))
            | (Type::Optional(a), Type::Optional(b))
            | (Type::Type(a), Type::Type(b)) => self.fits(a, b),
            (Type::Map(ak, av), Type::Map(bk, bv)) => self.fits(ak, bk) && self.fits(av, bv),
            (a, b) => a == b,
        }
    }

    /// The type of two branches.
    pub fn join(&mut self, a: &Type, b: &Type) -> Option<Type> {
        let before = self.clone();
        if self.fits(a, b) {
            let (a, b) = (self.resolve(a, false), self.resolve(b, false));
            // The more general one of the two.
            return Some(if a == Type::Null || b == Type::Dyn { b } else { a });
        }
        *self = before;
        None
    }
}

fn occurs(p: u32, ty: &Type) -> bool {
    match ty {
        Type::Param(q) => p == *q,
        Type::List(t) | Type::Optional(t) | Type::Type(t) => occurs(p, t),
        Type::Map(k, v) => occurs(p, k) || occurs(p, v),
        _ => false,
    }
}
