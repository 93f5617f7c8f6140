//! The JSONPath of printer columns and selectable fields: fields, indexes, wildcards and comparisons.

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Descend(String),
    Filter { left: Vec<Step>, operator: String, right: Value },
}

impl JsonPath {
    /// Parses `.spec.x[0]['a.b'][?(@.type=="Ready")].status`.
    ///
    /// # Errors
    /// What is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        steps(text.trim().trim_start_matches('$')).map(Self)
    }

    /// All values that the path leads to.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        walk(&self.0, vec![root])
    }
}

fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            let (name, left) = identifier(after);
            out.push(Step::Descend(name));
            rest = left;
        } else if let Some(after) = rest.strip_prefix('.') {
            let (name, left) = identifier(after);
            match name.as_str() {
                "" => {}
                "*" => out.push(Step::All),
                _ => out.push(Step::Field(name)),
            }
            rest = left;
        } else if rest.starts_with('[') {
            let end = closing(rest).ok_or_else(|| format!("unterminated array in {text:?}"))?;
            out.push(bracket(&rest[1..end])?);
            rest = &rest[end + 1..];
        } else if out.is_empty() {
            let (name, left) = identifier(rest);
            out.push(Step::Field(name));
            rest = left;
        } else {
            return Err(format!("unrecognized character in {text:?}"));
        }
    }
    Ok(out)
}

/// A field name up to the next `.` or `[`; a backslash takes the next character as it is.
fn identifier(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, c)) = letters.next() {
        match c {
            '\\' => name.extend(letters.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(c),
        }
    }
    (name, "")
}

fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn unquote(text: &str) -> Option<&str> {
    let quoted = text.len() >= 2
        && (text.starts_with('\'') && text.ends_with('\'') || text.starts_with('"') && text.ends_with('"'));
    quoted.then(|| &text[1..text.len() - 1])
}

fn bracket(inner: &str) -> Result<Step, String> {
    let inner = inner.trim();
    if inner == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquote(inner) {
        return Ok(Step::Field(name.to_string()));
    }
    if let Some(condition) = inner.strip_prefix("?(").and_then(|c| c.strip_suffix(')')) {
        return filter(condition);
    }
    let number = |t: &str| t.trim().parse::<i64>().map_err(|_| format!("invalid array index {inner:?}"));
    if let Some((from, to)) = inner.split_once(':') {
        let bound = |t: &str| if t.trim().is_empty() { Ok(None) } else { number(t).map(Some) };
        return Ok(Step::Slice(bound(from)?, bound(to)?));
    }
    number(inner).map(Step::Index)
}

fn filter(condition: &str) -> Result<Step, String> {
    for operator in ["==", "!=", "<=", ">=", "<", ">"] {
        let Some((left, right)) = condition.split_once(operator) else { continue };
        let left = left.trim().strip_prefix('@').ok_or_else(|| format!("invalid filter {condition:?}"))?;
        let right = right.trim();
        let right = match unquote(right) {
            Some(s) => Value::from(s),
            None => serde_json::from_str(right).map_err(|_| format!("invalid filter {condition:?}"))?,
        };
        return Ok(Step::Filter { left: steps(left)?, operator: operator.to_string(), right });
    }
    let left = condition.trim().strip_prefix('@').ok_or_else(|| format!("invalid filter {condition:?}"))?;
    Ok(Step::Filter { left: steps(left)?, operator: String::new(), right: Value::Null })
}

fn walk<'a>(steps: &[Step], mut values: Vec<&'a Value>) -> Vec<&'a Value> {
    for step in steps {
        values = values.into_iter().flat_map(|v| take(step, v)).collect();
    }
    values
}

fn take<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    let items = || value.as_array().map(Vec::as_slice).unwrap_or_default();
    let place = |i: i64, len: usize| -> usize {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        usize::try_from(if i < 0 { len + i } else { i }.clamp(0, len)).unwrap_or(0)
    };
    match step {
        Step::Field(name) => match value {
            Value::Array(list) => list.iter().filter_map(|v| v.get(name)).collect(),
            _ => value.get(name).into_iter().collect(),
        },
        Step::Index(i) => {
            let list = items();
            let reachable = *i >= 0 || i.unsigned_abs() <= list.len() as u64;
            if reachable { list.get(place(*i, list.len())).into_iter().collect() } else { Vec::new() }
        }
        Step::Slice(from, to) => {
            let list = items();
            let (a, b) =
                (place(from.unwrap_or(0), list.len()), to.map_or(list.len(), |t| place(t, list.len())));
            list.get(a..b).map(|l| l.iter().collect()).unwrap_or_default()
        }
        Step::All => match value {
            Value::Object(map) => map.values().collect(),
            _ => items().iter().collect(),
        },
        Step::Descend(name) => {
            let mut found = Vec::new();
            descend(value, name, &mut found);
            found
        }
        Step::Filter { left, operator, right } => items()
            .iter()
            .filter(|item| {
                let found = walk(left, vec![item]);
                match (found.first(), operator.as_str()) {
                    (None, _) => false,
                    (Some(_), "") => true,
                    (Some(v), op) => compare(v, op, right),
                }
            })
            .collect(),
    }
}

fn descend<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(name));
            map.values().for_each(|v| descend(v, name, found));
        }
        Value::Array(list) => list.iter().for_each(|v| descend(v, name, found)),
        _ => {}
    }
}

fn compare(left: &Value, operator: &str, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => a.partial_cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.partial_cmp(b),
        _ => None,
    };
    let Some(order) = order else { return operator == "!=" };
    match operator {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        ">" => order.is_gt(),
        "<=" => order.is_le(),
        _ => order.is_ge(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let doc =
            json!({"a": {"b.c": 1, "l": [{"t": "x", "s": "1"}, {"t": "Ready", "s": "True"}], "m": {"k": 2}}});
        for (path, want) in [
            (".a.m.k", json!([2])),
            (r".a.b\.c", json!([1])),
            (".a['b.c']", json!([1])),
            (".a.l[0].s", json!(["1"])),
            (".a.l[-1].s", json!(["True"])),
            (".a.l[*].s", json!(["1", "True"])),
            (".a.l[?(@.t==\"Ready\")].s", json!(["True"])),
            (".a.l[?(@.t=='none')].s", json!([])),
            (".a.l[0:1].t", json!(["x"])),
            (".x.y", json!([])),
            ("..k", json!([2])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&doc)), want, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a[?(b)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
