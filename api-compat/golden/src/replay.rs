//! All scenarios against ours, compared with their recordings and with the list of known differences.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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

/// Plays one scenario and compares.
pub async fn replay(id: &str, path: &Path, scripts: &Path) -> anyhow::Result<Vec<Outcome>> {
    let script = script::read(path)?;
    let recorded = recording(&path.with_extension("recorded"))?;
    let answered = drive::play(&script, scripts).await.with_context(|| id.to_string())?;
    let names: Vec<_> = recorded.iter().map(|(name, _)| name).collect();
    if names != answered.iter().map(|(name, _)| name).collect::<Vec<_>>() {
        bail!("{id}: the recording is of another script; run record.sh");
    }
    let mut known = Names::default();
    let compared = recorded.iter().zip(&answered).map(|((name, theirs), (_, ours))| Outcome {
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

/// How often a scenario is played again before a new difference counts.
const PLAYS: usize = 3;

/// Plays the scenarios of differences that are not known again: on both sides the order of managers in `managedFields`
/// depends on whether a second passed between two requests. What agrees in one of the plays is no difference.
pub async fn settle(
    outcomes: &mut [Outcome],
    known: &BTreeSet<String>,
    scripts: &Path,
) -> anyhow::Result<()> {
    for (id, path) in scenarios(scripts)? {
        let mut open: Vec<&mut Outcome> = outcomes
            .iter_mut()
            .filter(|o| o.difference.is_some() && !known.contains(&o.id))
            .filter(|o| o.id.strip_prefix(&id).is_some_and(|rest| rest.starts_with(' ')))
            .collect();
        for _ in 0..PLAYS {
            if open.is_empty() {
                break;
            }
            let again = replay(&id, &path, scripts).await?;
            let agrees = |id: &str| again.iter().any(|o| o.id == id && o.difference.is_none());
            open.retain_mut(|outcome| {
                let settled = agrees(&outcome.id);
                if settled {
                    outcome.difference = None;
                }
                !settled
            });
        }
    }
    Ok(())
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
