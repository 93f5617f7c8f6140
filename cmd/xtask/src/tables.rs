//! A feature is one file and one line in a table: every file of these directories stands in its table.

use std::fs;
use std::path::Path;

/// Directory, file with the table, and files of the directory that are no features.
const TABLES: &[(&str, &str, &[&str])] = &[];

/// Findings about files without a line.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for (dir, table, others) in TABLES {
        let text = fs::read_to_string(root.join(table))?;
        for entry in fs::read_dir(root.join(dir))? {
            let path = entry?.path();
            let stem = path.file_stem().map(|s| s.to_string_lossy().to_string()).unwrap_or_default();
            let feature = path.is_dir() || path.extension().is_some_and(|e| e == "rs");
            if feature && !others.contains(&stem.as_str()) && !text.contains(&format!("{stem}::")) {
                findings.push(format!("{dir}/{stem}: stands in no line of {table}"));
            }
        }
    }
    Ok(findings)
}
