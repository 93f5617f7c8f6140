//! Discovery made from the built-in kinds against that of a stock server, entry by entry.
//!
//! `stock_differences.txt` lists what is known to differ; a line that no longer differs has to go.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;

use knarr_machinery::GroupVersion;
use knarr_openapi::discovery::api_resource_list;
use knarr_openapi::groups::groups;
use serde_json::Value;

const KNOWN: &str = include_str!("stock_differences.txt");

/// `group/version resource field`, and the two values.
fn compare(gv: &GroupVersion, ours: &Value, stock: &Value, out: &mut BTreeSet<String>) {
    let list = |doc: &Value| doc["resources"].as_array().cloned().unwrap_or_default();
    let find = |doc: &Value, name: &Value| list(doc).into_iter().find(|r| r["name"] == *name);
    for theirs in list(stock) {
        let name = &theirs["name"];
        let Some(mine) = find(ours, name) else {
            out.insert(format!("{gv} {} missing", name.as_str().unwrap()));
            continue;
        };
        for field in
            ["singularName", "namespaced", "kind", "group", "version", "verbs", "shortNames", "categories"]
        {
            if mine.get(field) != theirs.get(field) {
                out.insert(format!("{gv} {} {field}", name.as_str().unwrap()));
            }
        }
        let line =
            common::lines().into_iter().find(|l| l.gv == *gv && l.name == name.as_str().unwrap()).unwrap();
        if line.stored != "?" && mine.get("storageVersionHash") != theirs.get("storageVersionHash") {
            out.insert(format!("{gv} {} storageVersionHash", name.as_str().unwrap()));
        }
    }
    for mine in list(ours) {
        if find(stock, &mine["name"]).is_none() {
            out.insert(format!("{gv} {} extra", mine["name"].as_str().unwrap()));
        }
    }
}

#[test]
fn discovery_is_that_of_a_stock_server() {
    let ours = knarr_kinds::builtins();
    let stock = common::stock_kinds();
    let versions = |kinds: &[knarr_kinds::kind::Kind]| -> Vec<GroupVersion> {
        let all = groups(kinds);
        let of = |g: &knarr_openapi::groups::Group<'_>| -> Vec<GroupVersion> {
            g.versions.iter().map(|v| GroupVersion::new(g.name.to_owned(), v.name.to_owned())).collect()
        };
        all.iter().flat_map(of).collect()
    };
    let mut found = BTreeSet::new();
    let (mine, theirs) = (versions(ours), versions(&stock));
    for gv in mine.iter().filter(|gv| !theirs.contains(gv)) {
        found.insert(format!("{gv} extra"));
    }
    for gv in &theirs {
        match api_resource_list(ours, gv) {
            Some(doc) => compare(gv, &doc, &api_resource_list(&stock, gv).unwrap(), &mut found),
            None => {
                found.insert(format!("{gv} missing"));
            }
        }
    }
    // The groups that both have stand in the same order.
    let common_of = |a: &[GroupVersion], b: &[GroupVersion]| -> Vec<GroupVersion> {
        a.iter().filter(|gv| b.contains(gv)).cloned().collect()
    };
    assert_eq!(common_of(&mine, &theirs), common_of(&theirs, &mine));
    let known: BTreeSet<String> =
        KNOWN.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(str::to_owned).collect();
    let new: Vec<&String> = found.difference(&known).collect();
    let gone: Vec<&String> = known.difference(&found).collect();
    assert!(
        new.is_empty(),
        "new differences:\n{}",
        new.iter().map(|s| s.as_str()).collect::<Vec<_>>().join("\n")
    );
    assert!(gone.is_empty(), "no longer different, take out of stock_differences.txt:\n{gone:#?}");
}
