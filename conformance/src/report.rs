//! The closing table and the JUnit file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::suite::{names, sig};

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of its steps held.
    Passed,
    /// One did not; why.
    Failed(String),
}

/// A test that ran.
#[derive(Clone, Debug)]
pub struct TestResult {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub time: Duration,
}

/// Results by official name.
pub type Outcomes = BTreeMap<String, TestResult>;

/// The table: a line per SIG and one for all. `written` tells which official tests exist.
pub fn table(outcomes: &Outcomes, written: impl Fn(&str) -> bool) -> String {
    let mut rows: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
    for name in names() {
        let row = rows.entry(sig(name)).or_default();
        row[0] += 1;
        match outcomes.get(name).map(|r| (&r.outcome, r.time.as_millis() as u64)) {
            Some((Outcome::Passed, t)) => (row[1], row[4]) = (row[1] + 1, row[4] + t),
            Some((Outcome::Failed(_), t)) => (row[2], row[4]) = (row[2] + 1, row[4] + t),
            None if !written(name) => row[3] += 1,
            None => {}
        }
    }
    let mut out = format!(
        "{:<22}{:>9}{:>8}{:>8}{:>13}{:>9}{:>10}\n",
        "SIG", "official", "passed", "failed", "not written", "not run", "seconds"
    );
    let mut sum = [0; 5];
    for (sig, row) in &rows {
        line(&mut out, sig, row);
        sum.iter_mut().zip(row).for_each(|(s, r)| *s += r);
    }
    line(&mut out, "all", &sum);
    out
}

fn line(out: &mut String, sig: &str, row: &[u64; 5]) {
    let [all, passed, failed, unwritten, millis] = row;
    let rest = all - passed - failed - unwritten;
    let seconds = *millis as f64 / 1000.0;
    let _ = writeln!(out, "{sig:<22}{all:>9}{passed:>8}{failed:>8}{unwritten:>13}{rest:>9}{seconds:>10.1}");
}

/// The JUnit document.
pub fn junit(outcomes: &Outcomes, time: Duration) -> String {
    let failed = outcomes.values().filter(|r| r.outcome != Outcome::Passed).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"knarr-conformance\" tests=\"{}\" failures=\"{failed}\" time=\"{:.1}\">\n",
        outcomes.len(),
        time.as_secs_f64()
    );
    for (name, result) in outcomes {
        let head = format!(
            "  <testcase name=\"{}\" classname=\"{}\" time=\"{:.3}\"",
            escape(name),
            sig(name),
            result.time.as_secs_f64()
        );
        match &result.outcome {
            Outcome::Passed => out.push_str(&format!("{head}/>\n")),
            Outcome::Failed(why) => {
                out.push_str(&format!("{head}><failure>{}</failure></testcase>\n", escape(why)));
            }
        }
    }
    out.push_str("</testsuite>\n");
    out
}

fn escape(text: &str) -> String {
    let kept = text.chars().filter(|c| !c.is_control() || *c == '\n' || *c == '\t').collect::<String>();
    kept.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_counts_and_the_file_is_escaped() {
        let mut names = names();
        let (a, b) = (names.next().unwrap(), names.next().unwrap());
        let time = Duration::from_millis(1500);
        let outcomes = Outcomes::from([
            (a.to_string(), TestResult { outcome: Outcome::Passed, time }),
            (b.to_string(), TestResult { outcome: Outcome::Failed("1 < 2 & \u{1}".into()), time }),
        ]);
        let text = table(&outcomes, |n| n == a || n == b);
        let all: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(all, ["all", "462", "1", "1", "460", "0", "3.0"]);
        let xml = junit(&outcomes, time);
        assert!(xml.contains("<failure>1 &lt; 2 &amp; </failure>"), "{xml}");
        assert!(xml.contains("tests=\"2\" failures=\"1\""));
    }
}
