//! Files of at most 500 lines without tests, functions of at most 70; exceptions may only shrink.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file before its test module.
const FILE_LIMIT: usize = 500;
/// Lines of a function, signature and braces included.
const FUNCTION_LIMIT: usize = 70;
/// The list: `<path> <lines>` for files, `<path>#<function> <lines>` for functions.
const EXCEPTIONS: &str = "cmd/xtask/size-exceptions.txt";

/// Findings about sizes; with `shrink` the list is lowered to what is there.
pub fn check(root: &Path, shrink: bool) -> anyhow::Result<Vec<String>> {
    let mut over = BTreeMap::new();
    for dir in ["api-compat", "cmd", "cni", "conformance", "pkg", "tests"] {
        for file in sources(&root.join(dir)) {
            let text = fs::read_to_string(&file)?;
            let path = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            if !path.contains("/tests/") && !path.ends_with("/tests.rs") {
                measure(&path, &text, &mut over);
            }
        }
    }
    let list_path = root.join(EXCEPTIONS);
    let listed = parse(&fs::read_to_string(&list_path).unwrap_or_default());
    if shrink {
        let kept: Vec<String> = listed
            .iter()
            .filter_map(|(k, limit)| over.get(k).map(|n| format!("{k} {}\n", n.min(limit))))
            .collect();
        fs::write(&list_path, kept.concat())?;
    }
    Ok(compare(&over, &parse(&fs::read_to_string(&list_path).unwrap_or_default())))
}

fn compare(over: &BTreeMap<String, usize>, listed: &BTreeMap<String, usize>) -> Vec<String> {
    let mut findings = Vec::new();
    for (key, lines) in over {
        let limit = if key.contains('#') { FUNCTION_LIMIT } else { FILE_LIMIT };
        match listed.get(key) {
            None => findings.push(format!("{key}: {lines} lines, the limit is {limit}")),
            Some(allowed) if lines > allowed => {
                findings.push(format!("{key}: {lines} lines, grown from its exception of {allowed}"));
            }
            Some(allowed) if lines < allowed => {
                findings.push(format!("{key}: shrunk to {lines} lines: run cargo xtask tidy --shrink"));
            }
            Some(_) => {}
        }
    }
    for key in listed.keys().filter(|k| !over.contains_key(*k)) {
        findings.push(format!("{key}: needs no exception any more: run cargo xtask tidy --shrink"));
    }
    findings
}

fn parse(text: &str) -> BTreeMap<String, usize> {
    text.lines()
        .filter_map(|l| l.rsplit_once(' '))
        .filter_map(|(k, n)| Some((k.to_string(), n.parse().ok()?)))
        .collect()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for path in entries.filter_map(Result::ok).map(|e| e.path()) {
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Adds what is over a limit. Relies on rustfmt: a function ends at the brace of its own indentation.
fn measure(path: &str, text: &str, over: &mut BTreeMap<String, usize>) {
    let lines: Vec<&str> = text.lines().collect();
    let end = lines
        .iter()
        .enumerate()
        .position(|(i, l)| {
            l.starts_with("#[cfg(test)]") && lines.get(i + 1).is_some_and(|n| n.contains("mod "))
        })
        .unwrap_or(lines.len());
    if end > FILE_LIMIT {
        over.insert(path.to_string(), end);
    }
    for start in 0..end {
        let line = lines[start];
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let close = format!("{}}}", " ".repeat(indent));
        let body = lines[start..end].iter().take_while(|l| **l != close).count();
        let one_line = line.ends_with('}') || line.ends_with(';');
        if !one_line && body < end - start && body + 1 > FUNCTION_LIMIT {
            let entry = over.entry(format!("{path}#{name}")).or_insert(0);
            *entry = (*entry).max(body + 1);
        }
    }
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().peekable();
    while words.peek().is_some_and(|w| {
        matches!(*w, "async" | "const" | "unsafe" | "extern" | "\"C\"") || w.starts_with("pub")
    }) {
        words.next();
    }
    (words.next() == Some("fn")).then(|| words.next())?.and_then(|w| w.split(['(', '<']).next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_and_files_are_found_and_tests_do_not_count() {
        let mut text = String::from("pub(crate) async fn long<T>(a: T) {\n");
        text.push_str(&"    a();\n".repeat(80));
        text.push_str("}\nfn short() {}\n#[cfg(test)]\nmod tests {\n");
        text.push_str(&"// x\n".repeat(600));
        let mut over = BTreeMap::new();
        measure("f.rs", &text, &mut over);
        assert_eq!(over.into_iter().collect::<Vec<_>>(), [("f.rs#long".to_string(), 82)]);
    }

    #[test]
    fn exceptions_may_only_shrink() {
        let map = |n| BTreeMap::from([("f.rs".to_string(), n)]);
        assert_eq!(compare(&map(510), &map(510)), Vec::<String>::new());
        assert_eq!(compare(&map(520), &map(510)).len(), 1);
        assert_eq!(compare(&map(505), &map(510)).len(), 1);
        assert_eq!(compare(&BTreeMap::new(), &map(510)).len(), 1);
        assert_eq!(compare(&map(510), &BTreeMap::new()).len(), 1);
    }
}
