//! What the kernel accepts as a transaction on one nftables table, for the kernel in memory.

use crate::nft::{Chain, Data, Op, SetData, Stmt, Table, Verdict};

/// Performs one operation of a transaction on the model.
pub(crate) fn apply(table: &mut Option<Table>, op: &Op) -> std::result::Result<(), &'static str> {
    if *op == Op::AddTable {
        table.get_or_insert_default();
        return Ok(());
    }
    let t = table.as_mut().ok_or("no such table")?;
    match op {
        Op::AddTable => {}
        Op::AddSet(name, set) => drop(t.sets.entry(name.clone()).or_insert_with(|| set.clone())),
        Op::AddChain(name, base) => {
            t.chains.entry(name.clone()).or_insert_with(|| Chain { base: *base, rules: Vec::new() });
        }
        Op::DeleteElements(name, list) => {
            let set = t.sets.get_mut(name).ok_or("no such set")?;
            for (key, _) in list {
                set.elements.remove(key).ok_or("no such element")?;
            }
        }
        Op::AddElements(name, list) => {
            let set = t.sets.get_mut(name).ok_or("no such set")?;
            for (key, data) in list {
                let fits = matches!(
                    (data, &set.data),
                    (Data::None, SetData::None)
                        | (Data::Value(_), SetData::Value(_))
                        | (Data::Verdict(_), SetData::Verdict)
                );
                if !fits || set.elements.insert(key.clone(), data.clone()).is_some_and(|old| old != *data) {
                    return Err("element does not fit, or is there with other data");
                }
            }
        }
        Op::ClearChain(name) => t.chains.get_mut(name).ok_or("no such chain")?.rules.clear(),
        Op::AddRule(name, rule) => t.chains.get_mut(name).ok_or("no such chain")?.rules.push(rule.clone()),
        Op::DeleteChain(name) => drop(t.chains.remove(name).ok_or("no such chain")?),
        Op::DeleteSet(name) => drop(t.sets.remove(name).ok_or("no such set")?),
    }
    Ok(())
}

/// Every chain and set that is referred to must be there.
pub(crate) fn check(t: &Table) -> std::result::Result<(), String> {
    let chain = |v: &Verdict| match v {
        Verdict::Jump(c) | Verdict::Goto(c) if !t.chains.contains_key(c) => Err(format!("no chain {c}")),
        _ => Ok(()),
    };
    for data in t.sets.values().flat_map(|s| s.elements.values()) {
        if let Data::Verdict(v) = data {
            chain(v)?;
        }
    }
    for stmt in t.chains.values().flat_map(|c| &c.rules).flat_map(|r| &r.stmts) {
        match stmt {
            Stmt::Verdict(v) => chain(v)?,
            Stmt::InSet(_, _, s)
            | Stmt::VerdictMap(_, s)
            | Stmt::Resolve(_, s)
            | Stmt::ResolveRandom(_, s)
            | Stmt::Remember(_, s)
                if !t.sets.contains_key(s) =>
            {
                return Err(format!("no set {s}"));
            }
            _ => {}
        }
    }
    Ok(())
}
