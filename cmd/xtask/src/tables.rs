//! A feature is one file and one line in a table: every file of these directories stands in its table.

use std::fs;
use std::path::Path;

/// Directory, file with the table, and files of the directory that are no features.
const TABLES: &[(&str, &str, &[&str])] = &[
    ("cni/overlay/src/backends", "cni/overlay/src/lib.rs", &["mod"]),
    (
        "pkg/admission/src",
        "pkg/admission/src/lib.rs",
        &[
            "lib",
            "evaluate",
            "limits",
            "metrics",
            "params",
            "pod_security_checks",
            "policies",
            "quota_usage",
            "ready",
            "request",
            "review",
            "rules",
            "state",
            "versions",
            "webhooks",
        ],
    ),
    (
        "pkg/controllers/src",
        "pkg/controllers/src/lib.rs",
        &[
            "lib",
            "claim",
            "context",
            "csr",
            "discovery",
            "error",
            "expectations",
            "index",
            "pods",
            "replicas",
            "revisions",
            "selector",
            "services",
            "slices",
            "template",
        ],
    ),
    (
        "pkg/datastore/src/drivers",
        "pkg/datastore/src/drivers/mod.rs",
        &["mod", "sqlite_reader", "sqlite_sql", "sqlite_writer"],
    ),
    ("pkg/scheduler/src/plugins", "pkg/scheduler/src/plugins/mod.rs", &["mod"]),
    ("pkg/volumes/src", "pkg/volumes/src/lib.rs", &["lib", "downward", "source", "trust", "writer"]),
];

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
