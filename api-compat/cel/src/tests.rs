//! Expressions and what they come to.

use serde_json::{Value as Json, json};

use crate::{Binding, ObjectType, Program, Type, Val};

fn self_type() -> Type {
    let fields = [
        ("replicas", Type::Int),
        ("max", Type::Int),
        ("name", Type::String),
        ("ratio", Type::Double),
        ("tags", Type::list(Type::String)),
        ("ports", Type::list(Type::Int)),
        ("labels", Type::map(Type::String)),
        ("when", Type::Timestamp),
        ("wait", Type::Duration),
        ("any", Type::Dyn),
        ("a__dash__b", Type::Int),
        ("missing", Type::String),
    ];
    let fields = fields.into_iter().map(|(n, t)| (n.to_string(), t)).collect();
    Type::Object(std::sync::Arc::new(ObjectType { name: "selfType".into(), fields }))
}

fn document() -> Json {
    json!({"replicas": 3, "max": 5, "name": "web-1", "ratio": 2, "tags": ["a", "b"], "ports": [80, 443],
        "labels": {"app": "x", "tier": "y"}, "when": "2026-01-02T03:04:05Z", "wait": "1h30m", "any": "50%", "a-b": 7})
}

fn run(source: &str) -> Result<bool, String> {
    let program = Program::compile(source, vec![("self".into(), self_type())]).map_err(|e| e.to_string())?;
    let doc = document();
    let out = program.evaluate(&[Binding::Value(&doc)], 1_000_000);
    match out.value {
        Ok(Val::Bool(b)) => Ok(b),
        Ok(other) => Err(format!("{other:?}")),
        Err(e) => Err(e.to_string()),
    }
}

#[test]
fn true_expressions() {
    for source in [
        "self.replicas <= self.max && self.replicas > 0",
        "self.replicas + 1 == 4 && -self.replicas == -3 && 7 / 2 == 3 && 7 % 2 == 1",
        "self.ratio == 2.0 && self.ratio * 1.5 == 3.0 && self.replicas < 3.5",
        "self.a__dash__b == 7",
        "has(self.name) && !has(self.missing)",
        "self.name.startsWith('web') && self.name.matches('^web-[0-9]+$') && self.name.size() == 5",
        "self.tags.all(t, t.size() == 1) && self.tags.exists(t, t == 'b') && self.tags.exists_one(t, t == 'a')",
        "self.ports.map(p, p * 2) == [160, 886] && self.ports.filter(p, p > 100) == [443]",
        "self.ports.map(p, p > 100, p + 1) == [444]",
        "self.labels.all(k, k.size() >= 3) && 'app' in self.labels && self.labels['tier'] == 'y'",
        "self.labels.all(k, v, k != v) && self.tags.transformList(i, v, v + string(i)) == ['a0', 'b1']",
        "self.labels.transformMap(k, v, v + '!')['app'] == 'x!'",
        "80 in self.ports && !(81 in self.ports)",
        "self.ports.sum() == 523 && self.ports.min() == 80 && self.ports.max() == 443 && self.ports.isSorted()",
        "self.ports.indexOf(443) == 1 && [3, 1, 2].sort() == [1, 2, 3] && [1, 1, 2].distinct() == [1, 2]",
        "self.when > timestamp('2026-01-01T00:00:00Z') && self.when.getFullYear() == 2026 && self.when.getMonth() == 0",
        "self.wait == duration('90m') && self.wait.getMinutes() == 90 && self.when + self.wait > self.when",
        "self.any == '50%' && type(self.any) == string && self.any != 5",
        "self.?missing.orValue('none') == 'none' && self.?name.hasValue() && self.labels[?'app'].value() == 'x'",
        "[?self.?missing, 'z'] == ['z'] && self.?name.optMap(n, n + '!').orValue('') == 'web-1!'",
        "'a,b'.split(',') == self.tags && ['x', 'y'].join('-') == 'x-y' && 'Hi'.lowerAscii() == 'hi'",
        "'%s is %d of %.2f'.format(['a', 3, 2.5]) == 'a is 3 of 2.50'",
        "'abc'.substring(1) == 'bc' && 'abc'.charAt(1) == 'b' && 'abcabc'.lastIndexOf('b') == 4 && 'a b'.replace(' ', '_') == 'a_b'",
        "'a1b22'.findAll('[0-9]+') == ['1', '22'] && 'a1'.find('[0-9]') == '1'",
        "quantity('1Gi').compareTo(quantity('1024Mi')) == 0 && quantity('500m').isLessThan(quantity('1')) && isQuantity('3k')",
        "ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3') && !isIP('x') && isCIDR('::/0')",
        "url('https://a.b:80/p?q=1').getHost() == 'a.b:80' && url('https://a.b:80/p').getPort() == '80' && isURL('/x')",
        "sets.contains([1, 2, 3], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 1], [1])",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && !isSemver('x')",
        "!format.dns1123Label().validate('ok-name').hasValue() && format.dns1123Label().validate('Bad').hasValue()",
        "true || 1 / 0 > 1",
        "1 / 0 > 1 || true",
        "!(false && 1 / 0 > 1)",
        "self.replicas > 2 ? true : false",
        "{'a': 1}['a'] == 1 && size({'a': 1}) == 1 && dyn(1) == dyn(1.0)",
        "int('7') == 7 && string(7) == '7' && double('1.5') == 1.5 && bool('true') && b'ab'.size() == 2",
        r#"r'\d' == '\\d' && 'a\u0041' == 'aA' && """x"y""" == 'x"y' "#,
        "optional.of(1).or(optional.of(2)).value() == 1 && !optional.none().hasValue()",
        "self.tags.exists(t, t == 'a' || 1 / 0 == 1)",
        "['c', 'a'].sortBy(s, s) == ['a', 'c'] && lists.range(3) == [0, 1, 2]",
    ] {
        assert_eq!(run(source), Ok(true), "{source}");
    }
}

#[test]
fn failures() {
    for (source, want) in [
        ("1 / 0 == 1", "division by zero"),
        ("self.missing == 'x'", "no such key: missing"),
        ("self.ports[9] == 1", "index out of bounds: 9"),
        ("self.labels['none'] == 'x'", "no such key: none"),
        ("9223372036854775807 + self.replicas > 0", "integer overflow"),
        ("self.any > 5", "no such overload"),
        ("self.name.matches('(')", "error parsing regexp"),
    ] {
        let error = run(source).unwrap_err();
        assert!(error.starts_with(want), "{source}: {error}");
    }
}

#[test]
fn refused() {
    for (source, want) in [
        ("self.foo > 1", "ERROR: <input>:1:5: undefined field 'foo'\n | self.foo > 1\n | ....^"),
        (
            "other > 1",
            "ERROR: <input>:1:1: undeclared reference to 'other' (in container '')\n | other > 1\n | ^",
        ),
        (
            "self.replicas > 'a'",
            "ERROR: <input>:1:15: found no matching overload for '_>_' applied to '(int, string)'\n | self.replicas > 'a'\n | ..............^",
        ),
        ("1 + 'a' == 2", "found no matching overload for '_+_' applied to '(int, string)'"),
        ("self.name.startsWith(1)", "found no matching overload for 'startsWith' applied to 'string.(int)'"),
        ("self.replicas == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.replicas.foo > 1", "type 'int' does not support field selection"),
        ("nothing(1)", "undeclared reference to 'nothing' (in container '')"),
        ("self.tags.all(t, t)", "found no matching overload for '_&&_' applied to '(bool, string)'"),
        (
            "self.replicas.all(t, true)",
            "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("[1, 'a'].size() == 2", "expected type 'int' but found 'string'"),
        ("self.name +", "Syntax error"),
        ("true && self.replicas", "found no matching overload for '_&&_' applied to '(bool, int)'"),
    ] {
        let error = run(source).unwrap_err();
        assert!(error.contains(want), "{source}:\n{error}\nwanted\n{want}");
    }
}

#[test]
fn deep_expressions_fit_the_stack() {
    // As deep as the parser lets it be, on the stack of a test thread.
    let sum = format!("{}1{} > 0", "(1 + ".repeat(50), ")".repeat(50));
    assert_eq!(run(&sum), Ok(true));
    let chain = format!("1{} > 0", " + 1".repeat(110));
    assert_eq!(run(&chain), Ok(true));
    let calls = format!("'a'{} == 'a'", ".trim()".repeat(110));
    assert_eq!(run(&calls), Ok(true));
    let lists = format!("{}1{}.size() == 1", "[".repeat(50), "]".repeat(50));
    assert_eq!(run(&lists), Ok(true));
    let bangs = format!("{}true", "!".repeat(10_000));
    assert_eq!(run(&bangs), Ok(true));
}

#[test]
fn costs_are_bounded() {
    let many: Vec<Json> = (0..2000).map(Json::from).collect();
    let doc = json!({"l": many, "s": "a".repeat(100_000)});
    let fields = [("l".to_string(), Type::list(Type::Int)), ("s".to_string(), Type::String)];
    let ty = Type::Object(std::sync::Arc::new(ObjectType {
        name: "t".into(),
        fields: fields.into_iter().collect(),
    }));
    for source in [
        "self.l.all(x, self.l.all(y, self.l.all(z, x + y + z >= 0)))",
        "self.l.map(x, self.s + self.s).size() > 0",
        "self.l.all(x, !self.s.matches('.*b'))",
        "lists.range(1000000000).size() > 0",
        "self.s.replace('', self.s).size() > 0",
    ] {
        let program = Program::compile(source, vec![("self".into(), ty.clone())]).unwrap();
        let out = program.evaluate(&[Binding::Value(&doc)], 1_000_000);
        assert_eq!(out.value.unwrap_err(), crate::EvalError::CostLimit, "{source}");
        assert!(out.cost > 1_000_000 || source.contains("replace"), "{source}");
    }
}
