//! The table of tests. A file of tests is one line in the `mod.rs` of its SIG.

use std::future::Future;
use std::pin::Pin;

use crate::context::Context;
use crate::{
    Result, apimachinery, apps, architecture, auth, cli, instrumentation, network, node, scheduling, storage,
};

/// What runs a test.
pub type Run = fn(Context) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One official test.
#[derive(Clone, Copy)]
pub struct Test {
    /// The official name, without the `[Conformance]` label.
    pub name: &'static str,
    /// Its steps.
    pub run: Run,
}

impl Test {
    /// Whether it must run alone.
    pub fn serial(&self) -> bool {
        self.name.contains("[Serial]")
    }

    /// Whether it is known to take minutes.
    pub fn slow(&self) -> bool {
        self.name.contains("[Slow]")
    }
}

/// The official list, one name a line.
pub const NAMES: &str = include_str!("../names.txt");

/// The official names.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.lines().filter(|l| !l.is_empty())
}

/// `sig-node` of `[sig-node] Pods should ...`.
pub fn sig(name: &str) -> &str {
    name.strip_prefix('[').and_then(|n| n.split(']').next()).unwrap_or("")
}

/// Every test that is written.
pub fn all() -> Vec<Test> {
    let sigs: [&[&[Test]]; 10] = [
        apimachinery::FILES,
        apps::FILES,
        architecture::FILES,
        auth::FILES,
        cli::FILES,
        instrumentation::FILES,
        network::FILES,
        node::FILES,
        scheduling::FILES,
        storage::FILES,
    ];
    sigs.iter().flat_map(|files| files.iter()).flat_map(|tests| tests.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_test_bears_an_official_name_and_none_is_there_twice() {
        let official: BTreeSet<&str> = names().collect();
        assert_eq!(official.len(), 462);
        let mut seen = BTreeSet::new();
        for test in all() {
            assert!(official.contains(test.name), "no official test is called {:?}", test.name);
            assert!(seen.insert(test.name), "registered twice: {:?}", test.name);
        }
    }

    #[test]
    fn names_stay_distinct_without_their_tags() {
        let plain: BTreeSet<String> = names().map(crate::stock::plain).collect();
        assert_eq!(plain.len(), 462);
    }
}
