//! Every recorded answer of the stock server against ours.
//!
//! `GOLDEN=text` plays only scenarios with that text in their name and shows all differences, listed or not.
//! `GOLDEN_GAPS=write` writes the list anew instead of comparing with it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;

use knarr_golden::replay::{gaps, replay_all};

const HEAD: &str = "# Exchanges whose answers are known to differ from the stock server's: theme/scenario exchange.\n\
                    # May only shrink: one that matches must be removed, one that is new and differs is a defect.\n\
                    # ~ marks an answer that depends on the moment on both sides, and is not judged.\n";

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_the_stock_server() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let filter = std::env::var("GOLDEN").unwrap_or_default();
    let outcomes = replay_all(&root.join("scripts"), &filter).await.unwrap();
    let differing: BTreeSet<String> =
        outcomes.iter().filter(|o| o.difference.is_some()).map(|o| o.id.clone()).collect();
    println!("{} exchanges, {} differ", outcomes.len(), differing.len());
    let list = root.join("gaps.txt");
    if std::env::var("GOLDEN_GAPS").is_ok_and(|v| v == "write") && filter.is_empty() {
        let timed: BTreeSet<String> =
            gaps(&list).unwrap().into_iter().filter(|l| l.starts_with('~')).collect();
        let plain = differing.iter().filter(|id| !timed.contains(&format!("~ {id}")));
        let lines: String = plain.chain(&timed).map(|id| format!("{id}\n")).collect();
        std::fs::write(&list, format!("{HEAD}{lines}")).unwrap();
    }
    let (timed, known): (BTreeSet<String>, BTreeSet<String>) =
        gaps(&list).unwrap().into_iter().partition(|l| l.starts_with('~'));
    let mut failures = String::new();
    for outcome in outcomes.iter().filter(|o| !timed.contains(&format!("~ {}", o.id))) {
        match &outcome.difference {
            Some(difference) if !filter.is_empty() || !known.contains(&outcome.id) => {
                failures.push_str(&format!("{}\n{difference}", outcome.id));
            }
            None if known.contains(&outcome.id) => {
                failures.push_str(&format!("{}\n    matches now: remove it from gaps.txt\n", outcome.id));
            }
            _ => {}
        }
    }
    let played: BTreeSet<&str> = outcomes.iter().map(|o| o.id.as_str()).collect();
    for id in known.iter().filter(|id| filter.is_empty() && !played.contains(id.as_str())) {
        failures.push_str(&format!("{id}\n    is in gaps.txt and in no script\n"));
    }
    print!("{failures}");
    assert!(failures.is_empty(), "answers differ from the stock server's, see above");
}
