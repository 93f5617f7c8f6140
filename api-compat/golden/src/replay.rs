//! All scenarios against ours, compared with their recordings and with the list of known differences.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use futures::StreamExt as _;

use crate::compare::{Names, diff};
use crate::{drive, script};

/// What came of one exchange.
#[derive(Debug)]
pub struct Outcome {
    /// `theme/scenario exchange`, as in `gaps.txt`.
    pub id: String,
    /// How it differs, None if it does not.
    pub difference: Option<String>,
}

/// Scenarios below a directory of scripts, by `theme/scenario`.
pub fn scenarios(scripts: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for theme in std::fs::read_dir(scripts).with_context(|| scripts.display().to_string())? {
        let theme = theme?;
        if !theme.file_type()?.is_dir() || theme.file_name() == "crds" {
            continue;
        }
        for file in std::fs::read_dir(theme.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "yaml") {
                let scenario = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                found.push((format!("{}/{scenario}", theme.file_name().to_string_lossy()), path));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// How often a scenario is played that a passing second may have disturbed.
const PLAYS: usize = 4;

/// Plays one scenario and compares. On both sides the order of managers in `managedFields` depends on whether a second
/// passed between two requests, so a play that differs and did not fit into one second is done again; one that did, counts.
pub async fn replay(id: &str, path: &Path, scripts: &Path) -> anyhow::Result<Vec<Outcome>> {
    let script = script::read(path)?;
    let recorded = recording(&path.with_extension("recorded"))?;
    let mut plays = 1;
    loop {
        let began = second();
        let answered = drive::play(&script, scripts).await.with_context(|| id.to_string())?;
        let undisturbed = second() == began;
        let outcomes = compare(id, &recorded, &answered)?;
        if undisturbed || plays == PLAYS || outcomes.iter().all(|o| o.difference.is_none()) {
            return Ok(outcomes);
        }
        plays += 1;
    }
}

/// The second it is.
fn second() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn compare(id: &str, recorded: &drive::Blocks, answered: &drive::Blocks) -> anyhow::Result<Vec<Outcome>> {
    let names: Vec<_> = recorded.iter().map(|(name, _)| name).collect();
    if names != answered.iter().map(|(name, _)| name).collect::<Vec<_>>() {
        bail!("{id}: the recording is of another script; run record.sh");
    }
    let mut known = Names::default();
    let compared = recorded.iter().zip(answered).map(|((name, theirs), (_, ours))| Outcome {
        id: format!("{id} {name}"),
        difference: (!known.equal(theirs, ours)).then(|| diff(theirs, ours)),
    });
    Ok(compared.collect())
}

/// Plays all scenarios whose id contains the filter, several at a time.
pub async fn replay_all(scripts: &Path, filter: &str) -> anyhow::Result<Vec<Outcome>> {
    let chosen = scenarios(scripts)?.into_iter().filter(|(id, _)| id.contains(filter));
    let runs = chosen.map(|(id, path)| async move { replay(&id, &path, scripts).await });
    let all: Vec<_> = futures::stream::iter(runs).buffered(6).collect().await;
    let mut outcomes = Vec::new();
    for outcome in all {
        outcomes.extend(outcome?);
    }
    Ok(outcomes)
}

/// The blocks of a recording.
fn recording(path: &Path) -> anyhow::Result<drive::Blocks> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut blocks: drive::Blocks = Vec::new();
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("### ") {
            Some(name) => blocks.push((name.trim_end().to_string(), String::new())),
            None => blocks.last_mut().context("a recording starts with ###")?.1.push_str(line),
        }
    }
    Ok(blocks)
}

/// The known differences: every line that is no comment.
pub fn gaps(path: &Path) -> anyhow::Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_string).collect())
}
