//! Label selectors, as text (`a=b,c in (d)`) and as `metav1.LabelSelector`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::field::{FieldError, Path};
pub use crate::meta::validate_labels;
use crate::names;

/// The operator of a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelRequirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

fn aggregate(errors: &[FieldError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) }
}

fn key_error(key: &str, path: &Path) -> Option<FieldError> {
    let errors = names::is_qualified_name(key);
    (!errors.is_empty()).then(|| FieldError::invalid(path, key, errors.join("; ")))
}

impl LabelRequirement {
    /// A checked requirement.
    ///
    /// # Errors
    /// Bad keys, bad values, or a number of values that does not fit the operator; all of them in one text.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, String> {
        let mut errors: Vec<FieldError> = key_error(key, &Path::new("key")).into_iter().collect();
        let path = Path::new("values");
        let mut bad_count = |detail: &str| {
            errors.push(FieldError::invalid(&path, Value::from(values.clone()), detail));
        };
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                bad_count("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                bad_count("exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                bad_count("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    bad_count("for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, v) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                    let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                    errors.push(FieldError::invalid(&path.index(i), v.as_str(), detail));
                }
            }
            _ => {}
        }
        for (i, v) in values.iter().enumerate() {
            let bad = names::is_label_value(v);
            if !bad.is_empty() {
                errors.push(FieldError::invalid(&path.index(i).key(key), v.as_str(), bad.join("; ")));
            }
        }
        if errors.is_empty() {
            Ok(Self { key: key.to_string(), operator, values })
        } else {
            Err(aggregate(&errors))
        }
    }

    /// The label.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label with this value (or its absence) satisfies the requirement.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let has = |v: &str| self.values.iter().any(|x| x == v);
        let number = |v: &str| v.parse::<i64>().ok();
        match (self.operator, value) {
            (Operator::In | Operator::Equals | Operator::DoubleEquals, v) => v.is_some_and(has),
            (Operator::NotIn | Operator::NotEquals, v) => !v.is_some_and(has),
            (Operator::Exists, v) => v.is_some(),
            (Operator::DoesNotExist, v) => v.is_none(),
            (Operator::GreaterThan | Operator::LessThan, None) => false,
            (op, Some(v)) => match (number(v), self.values.first().and_then(|x| number(x))) {
                (Some(a), Some(b)) => {
                    (op == Operator::GreaterThan && a > b) || (op == Operator::LessThan && a < b)
                }
                _ => false,
            },
        }
    }
}

impl fmt::Display for LabelRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort();
        let values = values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// All requirements must hold; or nothing matches at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Selector {
    requirements: Vec<LabelRequirement>,
    nothing: bool,
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// All of these requirements.
    pub fn all_of(mut requirements: Vec<LabelRequirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Exactly these labels (Service selectors), unchecked.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let one = |(k, v): (&String, &String)| LabelRequirement {
            key: k.clone(),
            operator: Operator::Equals,
            values: vec![v.clone()],
        };
        Self { requirements: labels.iter().map(one).collect(), nothing: false }
    }

    /// Parses the text form (`labelSelector` query parameter).
    ///
    /// # Errors
    /// What is wrong, in upstream's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Parser { tokens: lex(text), at: 0 }.parse().map(Self::all_of)
    }

    /// Reads a `metav1.LabelSelector`: null selects nothing, an empty one everything.
    ///
    /// # Errors
    /// Unknown operators, bad keys or values.
    pub fn from_label_selector(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut all = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (k, v) in labels {
                let value = v.as_str().unwrap_or_default().to_string();
                all.push(LabelRequirement::new(k, Operator::Equals, vec![value])?);
            }
        }
        for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let op = e.get("operator").and_then(Value::as_str).unwrap_or_default();
            let operator = match op {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return Err(format!("\"{op}\" is not a valid label selector operator")),
            };
            let key = e.get("key").and_then(Value::as_str).unwrap_or_default();
            let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.map(|v| v.as_str().unwrap_or_default().to_string()).collect();
            all.push(LabelRequirement::new(key, operator, values)?);
        }
        Ok(Self::all_of(all))
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_fn(|k| labels.get(k).map(String::as_str))
    }

    /// Whether labels given by a look-up are selected.
    pub fn matches_fn<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches_value(get(&r.key)))
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[LabelRequirement] {
        &self.requirements
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether no object can be selected.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The value that a label must have, where the selector says so exactly.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let one = |r: &&LabelRequirement| {
            r.key == key
                && matches!(r.operator, Operator::Equals | Operator::DoubleEquals | Operator::In)
                && r.values.len() == 1
        };
        self.requirements.iter().find(one).map(|r| r.values[0].as_str())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Symbol(&'static str),
    Word,
    End,
    Error,
}

const SYMBOLS: [&str; 8] = ["!=", "==", "=", "!", "(", ")", ",", ">"];

fn lex(text: &str) -> Vec<(Kind, String)> {
    let mut out = Vec::new();
    let special = |c: char| "=!(),><".contains(c);
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else {
            break;
        };
        if special(first) {
            let symbol = SYMBOLS.iter().chain(&["<"]).find(|s| rest.starts_with(**s));
            match symbol {
                Some(s) => {
                    out.push((Kind::Symbol(s), (*s).to_string()));
                    rest = &rest[s.len()..];
                }
                None => {
                    out.push((Kind::Error, first.to_string()));
                    rest = &rest[first.len_utf8()..];
                }
            }
            continue;
        }
        let end = rest.find(|c: char| special(c) || " \t\r\n".contains(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        let kind = match word {
            "in" => Kind::Symbol("in"),
            "notin" => Kind::Symbol("notin"),
            _ => Kind::Word,
        };
        out.push((kind, word.to_string()));
        rest = &rest[end..];
    }
    out.push((Kind::End, String::new()));
    out
}

struct Parser {
    tokens: Vec<(Kind, String)>,
    at: usize,
}

impl Parser {
    /// The token at hand; `in` and `notin` are plain words unless an operator is expected.
    fn peek(&self, operator: bool) -> (Kind, String) {
        let (kind, text) = self.tokens.get(self.at).cloned().unwrap_or((Kind::End, String::new()));
        let word = !operator && matches!(kind, Kind::Symbol("in" | "notin"));
        (if word { Kind::Word } else { kind }, text)
    }

    fn take(&mut self, operator: bool) -> (Kind, String) {
        let token = self.peek(operator);
        self.at += 1;
        token
    }

    fn parse(&mut self) -> Result<Vec<LabelRequirement>, String> {
        let mut out = Vec::new();
        loop {
            match self.peek(false) {
                (Kind::Word | Kind::Symbol("!"), _) => {
                    out.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    match self.take(false) {
                        (Kind::End, _) => return Ok(out),
                        (Kind::Symbol(","), _) => {
                            let (kind, text) = self.peek(false);
                            if !matches!(kind, Kind::Word | Kind::Symbol("!")) {
                                return Err(format!("found '{text}', expected: identifier after ','"));
                            }
                        }
                        (_, text) => {
                            return Err(format!("found '{text}', expected: ',' or 'end of string'"));
                        }
                    }
                }
                (Kind::End, _) => return Ok(out),
                (_, text) => {
                    return Err(format!("found '{text}', expected: !, identifier, or 'end of string'"));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<LabelRequirement, String> {
        let (mut kind, mut key) = self.take(false);
        let negated = kind == Kind::Symbol("!");
        if negated {
            (kind, key) = self.take(false);
        }
        if kind != Kind::Word {
            return Err(format!("found '{key}', expected: identifier"));
        }
        if let Some(e) = key_error(&key, &Path::default()) {
            return Err(e.to_string());
        }
        if negated {
            return LabelRequirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(false).0, Kind::End | Kind::Symbol(",")) {
            return LabelRequirement::new(&key, Operator::Exists, Vec::new());
        }
        let (kind, text) = self.take(true);
        let operator = match kind {
            Kind::Symbol("in") => Operator::In,
            Kind::Symbol("notin") => Operator::NotIn,
            Kind::Symbol("=") => Operator::Equals,
            Kind::Symbol("==") => Operator::DoubleEquals,
            Kind::Symbol("!=") => Operator::NotEquals,
            Kind::Symbol(">") => Operator::GreaterThan,
            Kind::Symbol("<") => Operator::LessThan,
            _ => {
                return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        values.sort();
        values.dedup();
        LabelRequirement::new(&key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek(false).0, Kind::End | Kind::Symbol(",")) {
            return Ok(String::new());
        }
        match self.take(false) {
            (Kind::Word, text) => Ok(text),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (kind, text) = self.take(false);
        if kind != Kind::Symbol("(") {
            return Err(format!("found '{text}' expected: '('"));
        }
        match self.peek(false) {
            (Kind::Symbol(")"), _) => {
                self.at += 1;
                return Ok(vec![String::new()]);
            }
            (Kind::Word | Kind::Symbol(","), _) => {}
            (_, text) => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
        let mut out = Vec::new();
        // An empty place between commas or brackets is the empty value.
        let mut after_word = false;
        loop {
            match self.take(false) {
                (Kind::Word, text) => {
                    out.push(text);
                    after_word = true;
                    let (next, text) = self.peek(false);
                    if !matches!(next, Kind::Symbol("," | ")")) {
                        return Err(format!("found '{text}', expected: ',' or ')'"));
                    }
                }
                (Kind::Symbol(","), _) => {
                    if !after_word {
                        out.push(String::new());
                    }
                    after_word = false;
                }
                (Kind::Symbol(")"), _) => {
                    if !after_word {
                        out.push(String::new());
                    }
                    return Ok(out);
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

/// Errors of a `metav1.LabelSelector` in an object.
pub fn validate_label_selector(selector: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        errors.extend(validate_labels(labels, &path.child("matchLabels")));
    }
    for (i, e) in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        let path = path.child("matchExpressions").index(i);
        let op = e.get("operator").and_then(Value::as_str).unwrap_or_default();
        let values = e.get("values").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        match op {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                errors.push(FieldError::invalid(&path.child("operator"), op, "not a valid selector operator"))
            }
        }
        let key = e.get("key").and_then(Value::as_str).unwrap_or_default();
        for m in names::is_qualified_name(key) {
            errors.push(FieldError::invalid(&path.child("key"), key, m));
        }
        for (j, v) in values.iter().enumerate() {
            let v = v.as_str().unwrap_or_default();
            for m in names::is_label_value(v) {
                errors.push(FieldError::invalid(&path.child("values").index(j), v, m));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(a, b)| ((*a).to_string(), (*b).to_string())).collect()
    }

    #[test]
    #[allow(clippy::type_complexity)]
    fn text_and_match() {
        let cases: [(&str, &[(&str, &str)], bool); 16] = [
            ("", &[("a", "b")], true),
            ("a=b", &[("a", "b")], true),
            ("a==b", &[("a", "c")], false),
            ("a!=b", &[], true),
            ("a", &[("a", "")], true),
            ("!a", &[("a", "")], false),
            ("a in (b, c)", &[("a", "c")], true),
            ("a notin (b,c)", &[("a", "c")], false),
            ("a notin (b,c)", &[], true),
            ("a in ()", &[("a", "")], true),
            ("a in (,b)", &[("a", "")], true),
            ("a>5", &[("a", "6")], true),
            ("a<5", &[("a", "6")], false),
            ("a>5", &[], false),
            ("in in (in)", &[("in", "in")], true),
            ("a=,b", &[("a", ""), ("b", "x")], true),
        ];
        for (text, l, want) in cases {
            let s = Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(s.matches(&labels(l)), want, "{text}");
            assert_eq!(Selector::parse(&s.to_string()).unwrap(), s, "{text}");
        }
    }

    #[test]
    fn text_errors() {
        for (text, want) in [
            ("a=b,", "found '', expected: identifier after ','"),
            ("=b", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err(), want, "{text}");
        }
        assert!(Selector::parse("a/b/c=d").unwrap_err().starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must consist of"
        ));
    }

    #[test]
    fn documents() {
        assert!(Selector::from_label_selector(&Value::Null).unwrap().is_nothing());
        assert!(Selector::from_label_selector(&json!({})).unwrap().is_everything());
        let s = Selector::from_label_selector(&json!({"matchLabels": {"b": "1"},
            "matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["z", "y"]}]}))
        .unwrap();
        assert_eq!(s.to_string(), "a notin (y,z),b=1");
        assert_eq!(s.exact("b"), Some("1"));
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Foo"}]});
        assert_eq!(
            Selector::from_label_selector(&bad).unwrap_err(),
            "\"Foo\" is not a valid label selector operator"
        );
        let errors = validate_label_selector(&bad, &Path::new("spec.selector"));
        assert_eq!(
            errors[0].to_string(),
            "spec.selector.matchExpressions[0].operator: Invalid value: \"Foo\": not a valid selector operator"
        );
    }
}
