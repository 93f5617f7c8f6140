//! Lists the types of k8s-openapi that have a schema, from the crate's sources.
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo).args(["metadata", "--format-version", "1"]).output().expect("cargo metadata");
    let meta: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo metadata");
    let manifest = meta["packages"].as_array().into_iter().flatten().find(|p| p["name"] == "k8s-openapi").expect("k8s-openapi");
    let root = PathBuf::from(manifest["manifest_path"].as_str().expect("path")).parent().expect("dir").join("src/v1_37");
    let mut names = Vec::new();
    walk(&root, &mut names);
    names.sort();
    let mut code = String::from("fn all(g: &mut schemars::SchemaGenerator) {\n");
    for n in names {
        if n.ends_with("::WatchEvent") {
            continue; // generic over the object; documented in own.json
        }
        code += &format!("    g.subschema_for::<k8s_openapi::{n}>();\n");
    }
    code += "}\n";
    let to = Path::new(&std::env::var("OUT_DIR").expect("OUT_DIR")).join("all.rs");
    std::fs::write(to, code).expect("write");
}

fn walk(dir: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("dir") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            walk(&path, names);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("source");
        for part in text.split("JsonSchema for ").skip(1) {
            let Some(name) = part.split('"').nth(1) else { continue };
            let Some(rest) = name.strip_prefix("io.k8s.") else { continue };
            names.push(rest.replace('-', "_").replace('.', "::"));
        }
    }
}
