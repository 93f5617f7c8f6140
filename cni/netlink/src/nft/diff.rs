//! The operations that turn one table into another, in an order that one transaction accepts.

use super::{Base, Data, Rule, Set, Table};

/// One operation of a transaction on one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates the table if it is not there.
    AddTable,
    /// Creates a set or map without elements.
    AddSet(String, Set),
    /// Creates a chain.
    AddChain(String, Option<Base>),
    /// Deletes elements (with what they carry, which a map needs to be told).
    DeleteElements(String, Vec<(Vec<u8>, Data)>),
    /// Empties one chain of its rules.
    ClearChain(String),
    /// Appends a rule.
    AddRule(String, Rule),
    /// Adds elements.
    AddElements(String, Vec<(Vec<u8>, Data)>),
    /// Deletes a chain that nothing refers to any more.
    DeleteChain(String),
    /// Deletes a set that nothing refers to any more.
    DeleteSet(String),
}

/// What to do so that `current` (or nothing) becomes `desired`. Empty if nothing differs. Only what differs is
/// touched; a chain whose rules differ is rewritten within the transaction.
pub fn diff(current: Option<&Table>, desired: &Table) -> Vec<Op> {
    let mut ops = Vec::new();
    let empty = Table::default();
    if current.is_none() {
        ops.push(Op::AddTable);
    }
    let current = current.unwrap_or(&empty);
    // A chain attached elsewhere, or a set of another shape, must be made anew. Nothing of ours changes shape
    // under the same name; one left by an older version does, and is then replaced in the same transaction.
    let reshaped = |name: &String, set: &Set| current.sets.get(name).is_some_and(|old| !same_shape(old, set));
    let rehooked =
        |name: &String, base: &Option<Base>| current.chains.get(name).is_some_and(|old| old.base != *base);
    let rebuild = desired.sets.iter().any(|(n, s)| reshaped(n, s))
        || desired.chains.iter().any(|(n, c)| rehooked(n, &c.base));
    if rebuild {
        return rebuild_all(current, desired);
    }
    for (name, set) in &desired.sets {
        if !current.sets.contains_key(name) {
            ops.push(Op::AddSet(name.clone(), Set { elements: Default::default(), ..set.clone() }));
        }
    }
    for (name, chain) in &desired.chains {
        if !current.chains.contains_key(name) {
            ops.push(Op::AddChain(name.clone(), chain.base));
        }
    }
    elements(current, desired, &mut ops);
    let (mut late, mut gone) = (Vec::new(), Vec::new());
    for (name, chain) in &desired.chains {
        let old = current.chains.get(name).map(|c| c.rules.as_slice()).unwrap_or_default();
        if old != chain.rules.as_slice() {
            if !old.is_empty() {
                ops.push(Op::ClearChain(name.clone()));
            }
            late.extend(chain.rules.iter().map(|r| Op::AddRule(name.clone(), r.clone())));
        }
    }
    for name in current.chains.keys().filter(|n| !desired.chains.contains_key(*n)) {
        ops.push(Op::ClearChain(name.clone()));
        gone.push(Op::DeleteChain(name.clone()));
    }
    for name in current.sets.keys().filter(|n| !desired.sets.contains_key(*n)) {
        gone.push(Op::DeleteSet(name.clone()));
    }
    ops.append(&mut late);
    for (name, set) in &desired.sets {
        let old = current.sets.get(name);
        let add: Vec<(Vec<u8>, Data)> = set
            .elements
            .iter()
            .filter(|(k, d)| old.and_then(|o| o.elements.get(*k)) != Some(*d))
            .map(|(k, d)| (k.clone(), d.clone()))
            .collect();
        if !add.is_empty() {
            ops.push(Op::AddElements(name.clone(), add));
        }
    }
    ops.append(&mut gone);
    ops
}

/// Deletions of elements that go or change, also those of sets that go (their verdicts hold chains).
fn elements(current: &Table, desired: &Table, ops: &mut Vec<Op>) {
    for (name, old) in &current.sets {
        let new = desired.sets.get(name);
        // What the packet path put in may expire meanwhile, and goes with its set.
        if old.timeout_seconds.is_some() {
            continue;
        }
        let gone: Vec<(Vec<u8>, Data)> = old
            .elements
            .iter()
            .filter(|(k, d)| new.and_then(|n| n.elements.get(*k)) != Some(*d))
            .map(|(k, d)| (k.clone(), d.clone()))
            .collect();
        if !gone.is_empty() {
            ops.push(Op::DeleteElements(name.clone(), gone));
        }
    }
}

fn same_shape(a: &Set, b: &Set) -> bool {
    a.key == b.key && a.data == b.data && a.timeout_seconds == b.timeout_seconds
}

/// Everything out and in again, still in one transaction.
fn rebuild_all(current: &Table, desired: &Table) -> Vec<Op> {
    let mut ops = diff(Some(current), &Table::default());
    ops.extend(diff(Some(&Table::default()), desired));
    ops
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{Chain, FieldType, Key, SetData, Stmt, Verdict};

    fn table(target: &str) -> Table {
        let mut t = Table::default();
        let mut set = Set {
            key: vec![FieldType::Port],
            data: SetData::Verdict,
            timeout_seconds: None,
            elements: Default::default(),
        };
        set.elements.insert(Key::new().port(80).bytes(), Data::Verdict(Verdict::Goto(target.into())));
        t.sets.insert("m".into(), set);
        t.chains.insert(target.into(), Chain { base: None, rules: vec![vec![Stmt::Reject].into()] });
        t
    }

    #[test]
    fn orders_operations_for_one_transaction() {
        let key = Key::new().port(80).bytes();
        let goto = |c: &str| Data::Verdict(Verdict::Goto(c.into()));
        assert_eq!(diff(Some(&table("a")), &table("a")), vec![]);
        assert_eq!(
            diff(Some(&table("a")), &table("b")),
            vec![
                Op::AddChain("b".into(), None),
                Op::DeleteElements("m".into(), vec![(key.clone(), goto("a"))]),
                Op::ClearChain("a".into()),
                Op::AddRule("b".into(), vec![Stmt::Reject].into()),
                Op::AddElements("m".into(), vec![(key, goto("b"))]),
                Op::DeleteChain("a".into()),
            ]
        );
        assert_eq!(diff(None, &Table::default()), vec![Op::AddTable]);
    }

    #[test]
    fn a_set_of_another_shape_is_replaced() {
        let mut other = table("a");
        other.sets.get_mut("m").unwrap().key = vec![FieldType::Number];
        let ops = diff(Some(&table("a")), &other);
        assert!(
            ops.contains(&Op::DeleteSet("m".into()))
                && ops.iter().any(|o| matches!(o, Op::AddSet(n, _) if n == "m"))
        );
    }
}
