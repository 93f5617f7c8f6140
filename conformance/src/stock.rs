//! The stock `e2e.test` program, for those who have it: the same selection, the same table.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use regex::Regex;

use crate::Result;
use crate::report::{Outcome, Outcomes, TestResult};
use crate::suite::names;

/// A name without its tags and repeated blanks: what our list and ginkgo's names have in common.
pub fn plain(name: &str) -> String {
    let mut out = String::new();
    let mut depth = 0;
    for c in name.chars() {
        match c {
            '[' => depth += 1,
            ']' if depth > 0 => depth -= 1,
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
    // Two SIGs may use the same words.
    let sig = Regex::new(r"\[sig-[a-z-]+\]").ok().and_then(|r| r.find(name).map(|m| m.as_str().to_string()));
    format!("{} {words}", sig.unwrap_or_default())
}

/// Runs the program over the selected official names and reads its report.
pub async fn run(program: &Path, kubeconfig: &str, selected: &[&str], nodes: usize) -> Result<Outcomes> {
    let dir = std::env::temp_dir().join(format!("knarr-conformance-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let focus: Vec<String> = selected.iter().map(|n| loose(n)).collect();
    let mut command = tokio::process::Command::new(program);
    command
        .arg(format!("--kubeconfig={kubeconfig}"))
        .arg("--provider=skeleton")
        .arg(format!("--ginkgo.focus=({}).*\\[Conformance\\]", focus.join("|")))
        .args(["--ginkgo.v", "--ginkgo.timeout=24h"])
        .arg(format!("--report-dir={}", dir.display()))
        .arg(format!("--num-nodes={nodes}"));
    let status = command.status().await.with_context(|| program.display().to_string())?;
    println!("{}: {status}", program.display());
    let report = dir.join("junit_01.xml");
    let text = std::fs::read_to_string(&report).with_context(|| report.display().to_string())?;
    let outcomes = read(&text)?;
    std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(outcomes)
}

/// A focus expression that lets tags stand between the words.
fn loose(name: &str) -> String {
    let words: Vec<String> = plain(name).split_whitespace().map(regex::escape).collect();
    words.join(".*")
}

/// Results of a JUnit report, by our names; skipped tests are left out.
fn read(xml: &str) -> Result<Outcomes> {
    let ours: BTreeMap<String, &str> = names().map(|n| (plain(n), n)).collect();
    let case = Regex::new(
        r#"(?s)<testcase name="([^"]*)"[^>]*?status="([a-z]+)"[^>]*?time="([0-9.]+)"[^>]*?(/>|>(.*?)</testcase>)"#,
    )?;
    let mut outcomes = Outcomes::new();
    for found in case.captures_iter(xml) {
        let name = found[1]
            .replace("&#34;", "\"")
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&amp;", "&");
        let Some(name) = ours.get(&plain(&name)) else { continue };
        let outcome = match &found[2] {
            "passed" => Outcome::Passed,
            "skipped" | "pending" => continue,
            other => {
                let text = found.get(5).map_or("", |m| m.as_str());
                Outcome::Failed(format!("{other}: {}", text.chars().take(2000).collect::<String>()))
            }
        };
        let time = Duration::from_secs_f64(found[3].parse().context("time in the report")?);
        outcomes.insert((*name).to_string(), TestResult { outcome, time });
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_report_is_read_by_our_names() {
        let xml = r#"<testcase name="[It] [sig-node] Pods should be updated [NodeConformance] [Conformance]" classname="c" status="passed" time="2.5"></testcase>
<testcase name="[It] [sig-node] Pods should get a host IP [NodeConformance] [Conformance]" classname="c" status="failed" time="1"><failure>no</failure></testcase>
<testcase name="[It] [sig-node] Pods should be submitted and removed [Conformance]" classname="c" status="skipped" time="0"></testcase>"#;
        let outcomes = read(xml).unwrap();
        assert_eq!(outcomes["[sig-node] Pods should be updated"].outcome, Outcome::Passed);
        assert!(
            matches!(&outcomes["[sig-node] Pods should get a host IP"].outcome, Outcome::Failed(w) if w.contains("no"))
        );
        assert_eq!(outcomes.len(), 2);
    }

    #[test]
    fn focus_lets_tags_stand_between() {
        let focus =
            Regex::new(&loose("[sig-apps] Daemon set should run and stop simple daemon [Serial]")).unwrap();
        assert!(
            focus.is_match("[sig-apps] Daemon set [Serial] should run and stop simple daemon [Conformance]")
        );
    }
}
