//! The parser: recursive descent, with a limit on nesting.

use crate::ast::{Expr, Literal, Macro, MacroKind, Node};
use crate::check::qualified;
use crate::error::Issue;
use crate::lex::{Kind, Token, tokens};

/// Levels of an expression, chains of operators included: evaluation recurses as deep.
const DEPTH_MAX: usize = 120;
/// Levels of parentheses and brackets: parsing recurses as deep.
const NESTING_MAX: usize = 60;
/// Code points of an expression.
const LENGTH_MAX: usize = 100_000;

const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];

/// Parses a source.
pub(crate) fn parse(source: &str) -> Result<Expr, Issue> {
    let length = source.chars().count();
    if length > LENGTH_MAX {
        return Err(Issue::new(
            0,
            format!("expression code point size exceeds limit: size: {length}, limit {LENGTH_MAX}"),
        ));
    }
    let mut parser = Parser { tokens: tokens(source)?, at: 0, depth: 0 };
    let expr = parser.expr()?;
    match parser.kind() {
        Kind::End => {}
        _ => return Err(parser.unexpected("<EOF>")),
    }
    if height(&expr) > DEPTH_MAX {
        return Err(too_deep(0));
    }
    Ok(expr)
}

fn too_deep(at: usize) -> Issue {
    Issue::new(at, format!("expression recursion limit exceeded: {NESTING_MAX}"))
}

/// The height of a tree, counted without recursion of its own on chains: stops above the limit.
fn height(expr: &Expr) -> usize {
    let mut level = vec![expr];
    let mut height = 0;
    while !level.is_empty() && height <= DEPTH_MAX {
        height += 1;
        level = level.into_iter().flat_map(children).collect();
    }
    height
}

/// The parts of an expression.
pub(crate) fn children(expr: &Expr) -> Vec<&Expr> {
    match &expr.node {
        Node::Literal(_) | Node::Ident(_) => Vec::new(),
        Node::Select { operand, .. } => vec![operand],
        Node::Call { target, args, .. } => target.iter().map(|t| &**t).chain(args).collect(),
        Node::And(list) | Node::Or(list) => list.iter().collect(),
        Node::List(items) => items.iter().map(|(e, _)| e).collect(),
        Node::Map(entries) => entries.iter().flat_map(|(k, v, _)| [k, v]).collect(),
        Node::Struct { fields, .. } => fields.iter().map(|(_, e, _)| e).collect(),
        Node::Macro(m) => [Some(&m.range), m.filter.as_ref(), Some(&m.body)].into_iter().flatten().collect(),
    }
}

/// Operators with their strength.
const OPERATORS: &[(&str, u8, &str)] = &[
    ("||", 0, "_||_"),
    ("&&", 1, "_&&_"),
    ("==", 2, "_==_"),
    ("!=", 2, "_!=_"),
    ("<", 2, "_<_"),
    ("<=", 2, "_<=_"),
    (">", 2, "_>_"),
    (">=", 2, "_>=_"),
    ("in", 2, "@in"),
    ("+", 3, "_+_"),
    ("-", 3, "_-_"),
    ("*", 4, "_*_"),
    ("/", 4, "_/_"),
    ("%", 4, "_%_"),
];

fn joined(mut list: Vec<Expr>, more: Expr) -> Vec<Expr> {
    list.push(more);
    list
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn token(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn kind(&self) -> &Kind {
        &self.token().kind
    }

    fn place(&self) -> usize {
        self.token().at
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.kind(), Kind::Symbol(s) if *s == symbol)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        if found {
            self.at += 1;
        }
        found
    }

    fn unexpected(&self, wanted: &str) -> Issue {
        let got = match self.kind() {
            Kind::End => "<EOF>".to_string(),
            Kind::Symbol(s) => (*s).to_string(),
            Kind::Ident(name) | Kind::Quoted(name) => name.clone(),
            Kind::Literal(Literal::String(s)) => format!("{s:?}"),
            Kind::Literal(l) => match l {
                Literal::Int(i) => i.to_string(),
                Literal::Bool(b) => b.to_string(),
                Literal::Null => "null".into(),
                other => format!("{other:?}"),
            },
        };
        Issue::new(self.place(), format!("Syntax error: mismatched input '{got}' expecting {wanted}"))
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Issue> {
        if self.take(symbol) { Ok(()) } else { Err(self.unexpected(&format!("'{symbol}'"))) }
    }

    fn expr(&mut self) -> Result<Expr, Issue> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(too_deep(self.place()));
        }
        let condition = self.operators(0)?;
        let at = self.place();
        let out = if self.take("?") {
            let yes = self.operators(0)?;
            self.expect(":")?;
            let no = self.expr()?;
            call(at, "_?_:_", vec![condition, yes, no])
        } else {
            condition
        };
        self.depth -= 1;
        Ok(out)
    }

    /// Operators that bind at least as strongly as `least`, by climbing: few frames for each level of nesting.
    fn operators(&mut self, least: u8) -> Result<Expr, Issue> {
        let mut left = self.unary()?;
        loop {
            let at = self.place();
            let text = match self.kind() {
                Kind::Symbol(s) => *s,
                Kind::Ident(w) if w == "in" => "in",
                _ => return Ok(left),
            };
            let Some((_, strength, function)) = OPERATORS.iter().find(|(t, ..)| *t == text) else {
                return Ok(left);
            };
            if *strength < least {
                return Ok(left);
            }
            self.at += 1;
            let right = self.operators(strength + 1)?;
            left = match (text, left.node) {
                ("&&", Node::And(list)) => Expr { at: left.at, node: Node::And(joined(list, right)) },
                ("||", Node::Or(list)) => Expr { at: left.at, node: Node::Or(joined(list, right)) },
                ("&&", node) => Expr { at, node: Node::And(vec![Expr { at: left.at, node }, right]) },
                ("||", node) => Expr { at, node: Node::Or(vec![Expr { at: left.at, node }, right]) },
                (_, node) => call(at, function, vec![Expr { at: left.at, node }, right]),
            };
        }
    }

    fn unary(&mut self) -> Result<Expr, Issue> {
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            let at = self.place();
            let mut count = 0;
            while self.take(symbol) {
                count += 1;
            }
            if count == 0 {
                continue;
            }
            let operand = self.member()?;
            if count % 2 == 0 {
                return Ok(operand);
            }
            // A minus belongs to the number after it.
            return Ok(match (symbol, &operand.node) {
                ("-", Node::Literal(Literal::Int(i))) => literal(at, Literal::Int(i.wrapping_neg())),
                ("-", Node::Literal(Literal::Double(d))) => literal(at, Literal::Double(-d)),
                _ => call(at, function, vec![operand]),
            });
        }
        let operand = self.member()?;
        if let Node::Literal(Literal::Int(i64::MIN)) = operand.node {
            return Err(Issue::new(operand.at, "invalid int literal".into()));
        }
        Ok(operand)
    }

    fn member(&mut self) -> Result<Expr, Issue> {
        let mut left = self.primary()?;
        loop {
            let at = self.place();
            if self.take(".") {
                let optional = self.take("?");
                let field = self.field_name()?;
                let open = self.place();
                if !optional && self.take("(") {
                    let args = self.arguments(")")?;
                    left = member_call(open, left, field, args)?;
                } else {
                    let operand = Box::new(left);
                    left = Expr { at, node: Node::Select { operand, field, test: false, optional } };
                }
            } else if self.take("[") {
                let optional = self.take("?");
                let index = self.expr()?;
                self.expect("]")?;
                left = call(at, if optional { "_[?_]" } else { "_[_]" }, vec![left, index]);
            } else if let Some(name) = qualified(&left).filter(|_| self.is("{")) {
                self.at += 1;
                let fields = self.struct_fields()?;
                left = Expr { at: left.at, node: Node::Struct { name, fields } };
            } else {
                return Ok(left);
            }
        }
    }

    /// What stands between the braces of a struct.
    fn struct_fields(&mut self) -> Result<Vec<(String, Expr, bool)>, Issue> {
        let mut fields = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let name = self.field_name()?;
            self.expect(":")?;
            fields.push((name, self.expr()?, optional));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(fields)
    }

    fn field_name(&mut self) -> Result<String, Issue> {
        let name = match self.kind() {
            Kind::Ident(name) | Kind::Quoted(name) => name.clone(),
            _ => return Err(self.unexpected("IDENTIFIER")),
        };
        if matches!(self.kind(), Kind::Ident(_)) && name == "in" {
            return Err(self.unexpected("IDENTIFIER"));
        }
        self.at += 1;
        Ok(name)
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Expr>, Issue> {
        let mut out = Vec::new();
        while !self.take(close) {
            out.push(self.expr()?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(out)
    }

    fn primary(&mut self) -> Result<Expr, Issue> {
        let at = self.place();
        match self.kind().clone() {
            Kind::Literal(l) => {
                self.at += 1;
                Ok(literal(at, l))
            }
            Kind::Ident(name) => self.named(at, name),
            Kind::Symbol(".") => {
                self.at += 1;
                let name = self.field_name()?;
                self.at -= 1;
                self.named(at, name)
            }
            Kind::Symbol("(") => {
                self.at += 1;
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Kind::Symbol("[") => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.take("]") {
                    let optional = self.take("?");
                    items.push((self.expr()?, optional));
                    if !self.take(",") {
                        self.expect("]")?;
                        break;
                    }
                }
                Ok(Expr { at, node: Node::List(items) })
            }
            Kind::Symbol("{") => {
                self.at += 1;
                let mut entries = Vec::new();
                while !self.take("}") {
                    let optional = self.take("?");
                    let key = self.expr()?;
                    self.expect(":")?;
                    entries.push((key, self.expr()?, optional));
                    if !self.take(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                Ok(Expr { at, node: Node::Map(entries) })
            }
            _ => Err(self.unexpected("{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}")),
        }
    }

    fn named(&mut self, at: usize, name: String) -> Result<Expr, Issue> {
        if RESERVED.contains(&name.as_str()) {
            return Err(Issue::new(at, format!("reserved identifier: {name}")));
        }
        self.at += 1;
        let open = self.place();
        if !self.take("(") {
            return Ok(Expr { at, node: Node::Ident(name) });
        }
        let mut args = self.arguments(")")?;
        if name == "has" && args.len() == 1 {
            return match args.remove(0).node {
                Node::Select { operand, field, optional: false, .. } => {
                    Ok(Expr { at: open, node: Node::Select { operand, field, test: true, optional: false } })
                }
                _ => Err(Issue::new(open, "invalid argument to has() macro".into())),
            };
        }
        Ok(call(open, &name, args))
    }
}

fn literal(at: usize, l: Literal) -> Expr {
    Expr { at, node: Node::Literal(l) }
}

fn call(at: usize, function: &str, args: Vec<Expr>) -> Expr {
    Expr { at, node: Node::Call { function: function.to_string(), target: None, args } }
}

/// A member call, or the macro of that name.
fn member_call(at: usize, target: Expr, name: String, mut args: Vec<Expr>) -> Result<Expr, Issue> {
    use MacroKind::{
        All, Exists, ExistsOne, Filter, Map, OptFlatMap, OptMap, SortBy, TransformList, TransformMap,
        TransformMapEntry,
    };
    let (kind, vars, filters) = match (name.as_str(), args.len()) {
        ("all", 2) => (All, 1, false),
        ("all", 3) => (All, 2, false),
        ("exists", 2) => (Exists, 1, false),
        ("exists", 3) => (Exists, 2, false),
        ("exists_one" | "existsOne", 2) => (ExistsOne, 1, false),
        ("exists_one" | "existsOne", 3) => (ExistsOne, 2, false),
        ("filter", 2) => (Filter, 1, false),
        ("map", 2) => (Map, 1, false),
        ("map", 3) => (Map, 1, true),
        ("optMap", 2) => (OptMap, 1, false),
        ("optFlatMap", 2) => (OptFlatMap, 1, false),
        ("sortBy", 2) => (SortBy, 1, false),
        ("transformList", 3) => (TransformList, 2, false),
        ("transformList", 4) => (TransformList, 2, true),
        ("transformMap", 3) => (TransformMap, 2, false),
        ("transformMap", 4) => (TransformMap, 2, true),
        ("transformMapEntry", 3) => (TransformMapEntry, 2, false),
        ("transformMapEntry", 4) => (TransformMapEntry, 2, true),
        _ => {
            let target = Some(Box::new(target));
            return Ok(Expr { at, node: Node::Call { function: name, target, args } });
        }
    };
    let mut names = Vec::new();
    for arg in args.drain(..vars) {
        match arg.node {
            Node::Ident(n) => names.push(n),
            _ => return Err(Issue::new(arg.at, "argument must be a simple name".into())),
        }
    }
    let filter = filters.then(|| args.remove(0));
    let (Some(body), Some(var)) = (args.pop(), names.first().cloned()) else {
        return Err(Issue::new(at, format!("invalid arguments of {name}")));
    };
    let second = names.get(1).cloned();
    Ok(Expr { at, node: Node::Macro(Box::new(Macro { kind, range: target, var, second, filter, body })) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_sources() {
        for (source, want) in [
            ("self.", "mismatched input '<EOF>'"),
            ("1 +", "mismatched input '<EOF>'"),
            ("for > 1", "reserved identifier: for"),
            ("has(self)", "invalid argument to has() macro"),
            ("'a", "unterminated string"),
            ("[1].all(1, true)", "argument must be a simple name"),
            ("a b", "mismatched input 'b'"),
        ] {
            let message = parse(source).unwrap_err().message;
            assert!(message.contains(want), "{source}: {message}");
        }
        assert!(parse(&"(".repeat(1000)).unwrap_err().message.contains("recursion limit"));
        assert!(parse(&format!("1{}", "+1".repeat(1000))).unwrap_err().message.contains("recursion limit"));
        assert!(parse(&format!("true{}", " && true".repeat(1000))).is_ok());
        assert!(parse("-9223372036854775808").is_ok());
        assert!(parse("9223372036854775808").is_err());
    }
}
