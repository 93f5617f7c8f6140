//! Recording against answer: equal up to the numbers that normalization gave, and a diff that can be read.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;
use serde_json::value::RawValue;

static NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("<(?:rv|uid|gen|continue)-[0-9]+>").expect("a constant pattern"));

/// Which of our numbered values stands for which of the recording's, as far as equal answers have shown.
///
/// One missing answer shifts all later numbers; with this table only that answer counts as different.
#[derive(Debug, Default)]
pub struct Names {
    ours: HashMap<String, String>,
    theirs: HashMap<String, String>,
}

impl Names {
    /// Whether two blocks are equal; learns which names stand for each other if so. The order of keys in JSON objects
    /// does not count: ours splices the resourceVersion into stored bytes.
    pub fn equal(&mut self, recorded: &str, answered: &str) -> bool {
        let (recorded, answered) = (&canonical(recorded), &canonical(answered));
        if anonymous(recorded) != anonymous(answered) {
            return false;
        }
        let mut learnt: Vec<(String, String)> = Vec::new();
        for (theirs, ours) in NAME.find_iter(recorded).zip(NAME.find_iter(answered)) {
            let (theirs, ours) = (theirs.as_str().to_string(), ours.as_str().to_string());
            let known = |t: &str, o: &str| {
                let fresh = learnt.iter().find(|(a, b)| a == t || b == o).map(|(a, b)| a == t && b == o);
                let forth = self.ours.get(t).map(|v| v == o);
                let back = self.theirs.get(o).map(|v| v == t);
                [fresh, forth, back].into_iter().flatten().reduce(|a, b| a && b)
            };
            match known(&theirs, &ours) {
                Some(true) => {}
                Some(false) => return false,
                None => learnt.push((theirs, ours)),
            }
        }
        for (theirs, ours) in learnt {
            self.ours.insert(theirs.clone(), ours.clone());
            self.theirs.insert(ours, theirs);
        }
        true
    }
}

/// A block whose JSON bodies have sorted keys; numbers, strings and everything else stay as they are written.
fn canonical(block: &str) -> String {
    let lines: Vec<&str> = block.lines().collect();
    let first = lines.iter().position(|line| line.starts_with("| ")).unwrap_or(lines.len());
    let (head, body) = lines.split_at(first);
    let (body, tail): (Vec<&str>, Vec<&str>) = body.iter().partition(|line| line.starts_with("| "));
    let texts: Vec<&str> = body.iter().map(|line| &line[2..]).collect();
    let mut out = head.join("\n");
    // One document over many lines is indented; otherwise each line is a document.
    if texts.len() > 1
        && let Some(whole) = sorted(&texts.join("\n"))
    {
        out.push_str("\nindented ");
        out.push_str(&whole);
    } else {
        for text in texts {
            out.push('\n');
            out.push_str(&sorted(text).unwrap_or_else(|| text.to_string()));
        }
    }
    out + "\n" + &tail.join("\n")
}

fn sorted(text: &str) -> Option<String> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    let text = raw.get();
    if text.starts_with('{') {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
        let fields =
            fields.iter().map(|(k, v)| Some(format!("{}:{}", Value::from(k.as_str()), sorted(v.get())?)));
        return Some(format!("{{{}}}", fields.collect::<Option<Vec<_>>>()?.join(",")));
    }
    if text.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
        let items = items.iter().map(|v| sorted(v.get()));
        return Some(format!("[{}]", items.collect::<Option<Vec<_>>>()?.join(",")));
    }
    // A string is the same whichever of its letters are escaped; a number is not.
    if text.starts_with('"') {
        Some(serde_json::from_str::<Value>(text).ok()?.to_string())
    } else {
        Some(text.to_string())
    }
}

/// The text with only the classes of its numbered values.
fn anonymous(text: &str) -> std::borrow::Cow<'_, str> {
    NAME.replace_all(text, |found: &regex::Captures<'_>| {
        found[0].trim_end_matches(|c: char| c.is_ascii_digit() || c == '>').to_string()
    })
}

/// The lines that differ, with `-` for the recording and `+` for ours; JSON bodies are laid out first.
pub fn diff(recorded: &str, answered: &str) -> String {
    let (old, new) = (laid_out(recorded), laid_out(answered));
    let mut out = String::new();
    for (mark, line) in changes(&old, &new) {
        let shown: String = line.chars().take(400).collect();
        out.push_str(&format!("    {mark} {shown}\n"));
    }
    if out.is_empty() {
        return format!("    only the layout or the order differs:\n    - {recorded}\n    + {answered}\n");
    }
    out
}

fn laid_out(block: &str) -> Vec<String> {
    let mut out = Vec::new();
    for line in block.lines() {
        let pretty = line
            .strip_prefix("| ")
            .filter(|body| body.starts_with(['{', '[']))
            .and_then(|body| serde_json::from_str::<Value>(body).ok())
            .and_then(|value| serde_json::to_string_pretty(&value).ok());
        match pretty {
            Some(pretty) => out.extend(pretty.lines().map(str::to_string)),
            None => out.push(line.to_string()),
        }
    }
    out
}

/// Longest common subsequence for blocks of ordinary size, a plain listing of both beyond.
fn changes(old: &[String], new: &[String]) -> Vec<(char, String)> {
    const MOST: usize = 4_000_000;
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    if old.len() * new.len() > MOST {
        let first = |lines: &[String]| lines.iter().take(20).cloned().collect::<Vec<_>>();
        return first(old)
            .into_iter()
            .map(|l| ('-', l))
            .chain(first(new).into_iter().map(|l| ('+', l)))
            .collect();
    }
    let mut length = vec![vec![0u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            length[i][j] = if old[i] == new[j] {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && length[i + 1][j] >= length[i][j + 1] {
            out.push(('-', old[i].clone()));
            i += 1;
        } else {
            out.push(('+', new[j].clone()));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_equal_up_to_a_consistent_renaming() {
        let mut names = Names::default();
        assert!(names.equal("<rv-1> <rv-2> <rv-1>", "<rv-3> <rv-1> <rv-3>"));
        assert!(names.equal("<rv-2>", "<rv-1>"));
        assert!(!names.equal("<rv-2>", "<rv-3>"), "another value");
        assert!(!names.equal("<rv-9> <rv-9>", "<rv-8> <rv-7>"), "one value became two");
        assert!(!names.equal("<rv-8> <rv-9>", "<rv-8> <rv-8>"), "two values became one");
        assert!(!names.equal("<rv-1>", "<uid-1>"), "another class");
    }

    #[test]
    fn keys_may_stand_in_any_order_but_everything_else_counts() {
        let mut names = Names::default();
        assert!(names.equal("200\n| {\"a\":1,\"b\":[2]}\n", "200\n| {\"b\":[2],\"a\":1}\n"));
        assert!(!names.equal("200\n| {\"a\":1.0}\n", "200\n| {\"a\":1}\n"), "a number");
        assert!(!names.equal("200\n| {\n|  \"a\":1\n| }\n", "200\n| {\"a\":1}\n"), "the layout");
        assert!(!names.equal("200\n| [1,2]\n", "200\n| [2,1]\n"), "a list");
        assert!(!names.equal("200\n| {}\n", "200\n| {}\n\\ no newline at the end\n"), "the end");
    }

    #[test]
    fn a_diff_shows_only_the_lines_that_differ() {
        let shown = diff("200\n| {\"a\":1,\"b\":2}\n", "200\n| {\"a\":1,\"b\":3}\n");
        assert_eq!(shown, "    -   \"b\": 2\n    +   \"b\": 3\n");
    }
}
