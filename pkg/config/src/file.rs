//! The configuration file and its drop-ins (`<file>.d/*.yaml`, alphabetical; `key+` appends to a list).

use std::path::Path;

use serde_json::Value;

use crate::{Config, Error, FLAGS, Flag, Role, Shape};

/// Reads `path` and `path.d/*.yaml` into `config`. A missing file is an error only if it was asked for by name.
///
/// # Errors
/// Names the file and the key or line.
pub fn read(path: &Path, required: bool, role: Role, config: &mut Config) -> Result<(), Error> {
    let mut files = Vec::new();
    if path.exists() || required {
        files.push(path.to_path_buf());
    }
    let drop_ins = path.with_extension("yaml.d");
    if let Ok(entries) = std::fs::read_dir(&drop_ins) {
        let mut found: Vec<_> = entries.filter_map(Result::ok).map(|e| e.path()).collect();
        found.retain(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"));
        found.sort();
        files.extend(found);
    }
    // What earlier files said of each list, so that `key+` can append.
    let mut lists: Vec<(&'static str, Vec<String>)> = Vec::new();
    for file in files {
        read_one(&file, role, config, &mut lists)?;
    }
    Ok(())
}

fn read_one(
    path: &Path,
    role: Role,
    config: &mut Config,
    lists: &mut Vec<(&'static str, Vec<String>)>,
) -> Result<(), Error> {
    let origin = path.display().to_string();
    let fail = |detail: String| Error { origin: origin.clone(), detail };
    let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    let document: Value = if text.trim().is_empty() {
        Value::Null
    } else {
        serde_saphyr::from_str(&text).map_err(|e| fail(first_line(&e.to_string())))?
    };
    let map = match document {
        Value::Null => return Ok(()),
        Value::Object(map) => map,
        _ => return Err(fail("expected a map of settings at the top".to_string())),
    };
    for (key, value) in &map {
        let (name, append) = key.strip_suffix('+').map_or((key.as_str(), false), |k| (k, true));
        let flag = FLAGS.iter().find(|f| f.name == name).ok_or_else(|| fail(unknown(name)))?;
        if !role.takes(flag) {
            let (owner, reader) = match role {
                Role::Server => ("agents", "servers"),
                Role::Agent | Role::Machine => ("servers", "agents"),
            };
            return Err(fail(format!("{name:?} is a setting of {owner}, not of {reader}")));
        }
        let mut values = values_of(flag, value).map_err(|e| fail(format!("{name}: {e}")))?;
        if append {
            if !flag.shape.is_list() {
                return Err(fail(format!("{key}: only a list can be appended to")));
            }
            let before = lists.iter().rev().find(|(n, _)| *n == flag.name).map(|(_, v)| v.clone());
            values.splice(0..0, before.unwrap_or_default());
        }
        flag.store(config, &values).map_err(|e| fail(format!("{name}: {e}")))?;
        lists.push((flag.name, values));
    }
    Ok(())
}

/// The position ("line 3 column 5") first, then the text, on one line.
fn first_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn values_of(flag: &Flag, value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(items) if flag.shape.is_list() => items.iter().map(scalar).collect(),
        Value::String(text) if flag.shape == Shape::Many => Ok(text.split(',').map(str::to_string).collect()),
        other => Ok(vec![scalar(other)?]),
    }
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null => Err("expected a value, found nothing".to_string()),
        Value::Array(_) => Err("expected a value, found a list".to_string()),
        Value::Object(_) => Err("expected a value, found a map".to_string()),
    }
}

fn unknown(name: &str) -> String {
    let nearest = FLAGS.iter().map(|f| (distance(name, f.name), f.name)).min();
    match nearest {
        Some((d, flag)) if d <= 3 => format!("unknown key {name:?}; did you mean {flag:?}?"),
        _ => format!("unknown key {name:?}"),
    }
}

/// Edit distance (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let best = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = best;
        }
    }
    row[b.len()]
}
