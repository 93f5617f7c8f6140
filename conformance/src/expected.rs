//! `expected.txt`: every official name with its state. States may only improve.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::Result;
use crate::report::{Outcome, Outcomes};
use crate::suite::names;

/// The states by name.
pub type States = BTreeMap<String, String>;

/// Reads `<state> <name>` lines; a name that is missing counts as unwritten.
pub fn parse(text: &str) -> Result<States> {
    let mut states: States = names().map(|n| (n.to_string(), "unwritten".to_string())).collect();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (state, name) = line.split_once(' ').with_context(|| format!("expected.txt: {line:?}"))?;
        anyhow::ensure!(
            matches!(state, "pass" | "fail" | "unwritten"),
            "expected.txt: state {state:?} of {name:?}"
        );
        let slot =
            states.get_mut(name).with_context(|| format!("expected.txt: no official test {name:?}"))?;
        *slot = state.to_string();
    }
    Ok(states)
}

/// The file's text.
pub fn render(states: &States) -> String {
    let passed = states.values().filter(|s| *s == "pass").count();
    let mut out = format!(
        "# {passed} of {} official tests pass. Written by knarr-conformance --update-expected; a pass may not be lost.\n",
        states.len()
    );
    for name in names() {
        if let Some(state) = states.get(name) {
            out.push_str(&format!("{state} {name}\n"));
        }
    }
    out
}

/// Tests that were known to pass and did not.
pub fn lost<'a>(states: &States, outcomes: &'a Outcomes) -> Vec<&'a str> {
    let failed = outcomes.iter().filter(|(_, r)| matches!(r.outcome, Outcome::Failed(_)));
    failed.map(|(n, _)| n.as_str()).filter(|n| states.get(*n).is_some_and(|s| s == "pass")).collect()
}

/// The states after a run: what ran is as it ran, but a pass stays one (losing it failed the run).
pub fn improved(states: &States, outcomes: &Outcomes) -> States {
    let mut states = states.clone();
    for (name, result) in outcomes {
        let Some(state) = states.get_mut(name) else { continue };
        match result.outcome {
            Outcome::Passed => *state = "pass".to_string(),
            Outcome::Failed(_) if state != "pass" => *state = "fail".to_string(),
            _ => {}
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::TestResult;

    fn run(name: &str, outcome: Outcome) -> Outcomes {
        Outcomes::from([(name.to_string(), TestResult { outcome, time: Duration::ZERO })])
    }

    #[test]
    fn a_pass_is_kept_and_its_loss_is_named() {
        let name = names().next().unwrap();
        let none = parse("").unwrap();
        let passed = improved(&none, &run(name, Outcome::Passed));
        assert_eq!(passed[name], "pass");
        let failed = run(name, Outcome::Failed("x".into()));
        assert_eq!(improved(&none, &failed)[name], "fail");
        assert_eq!(improved(&passed, &failed)[name], "pass");
        assert_eq!(lost(&passed, &failed), [name]);
        assert!(lost(&none, &failed).is_empty());
        assert_eq!(parse(&render(&passed)).unwrap(), passed);
        assert!(parse("maybe x").is_err());
    }

    #[test]
    fn the_committed_file_is_whole() {
        let text = include_str!("../expected.txt");
        let rendered = render(&parse(text).unwrap());
        // Line by line first: a failure shows the line, not both files.
        for (ours, line) in rendered.lines().zip(text.lines()) {
            assert_eq!(ours, line);
        }
        assert!(rendered == text, "one is longer, or ends otherwise");
        for test in crate::suite::all() {
            assert!(text.contains(test.name));
        }
    }
}
