//! The syntax tree.

/// An expression with the place it was written at.
#[derive(Debug, Clone)]
pub(crate) struct Expr {
    /// Offset in code points.
    pub at: usize,
    pub node: Node,
}

/// What an expression is.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Literal(Literal),
    Ident(String),
    /// `operand.field`, `operand.?field`; `test` is `has(operand.field)`.
    Select {
        operand: Box<Expr>,
        field: String,
        test: bool,
        optional: bool,
    },
    /// Operators are calls of `_+_` and the like.
    Call {
        function: String,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    /// `a && b && c`, flat.
    And(Vec<Expr>),
    /// `a || b || c`, flat.
    Or(Vec<Expr>),
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    Macro(Box<Macro>),
    /// `Name{field: value}`; optional fields are `?field: value`.
    Struct {
        name: String,
        fields: Vec<(String, Expr, bool)>,
    },
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

/// The macros that walk a list or map, and those that bind a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MacroKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
    OptMap,
    OptFlatMap,
    SortBy,
}

/// A macro with its parts.
#[derive(Debug, Clone)]
pub(crate) struct Macro {
    pub kind: MacroKind,
    pub range: Expr,
    pub var: String,
    pub second: Option<String>,
    /// The condition of `map` and `transform…` with one.
    pub filter: Option<Expr>,
    pub body: Expr,
}
