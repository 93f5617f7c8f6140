//! Kubeconfig files with an embedded client certificate.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::CertKey;

/// A kubeconfig whose certificates are in files, so that it stays right when they are renewed.
pub fn render_files(server: &str, ca: &Path, cert: &Path, key: &Path) -> String {
    let quote = |s: &str| serde_json::Value::from(s).to_string();
    let path = |p: &Path| quote(&p.display().to_string());
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    server: {}\n    \
         certificate-authority: {}\nusers:\n- name: default\n  user:\n    client-certificate: {}\n    \
         client-key: {}\ncontexts:\n- name: default\n  context:\n    cluster: default\n    user: default\n\
         current-context: default\n",
        quote(server),
        path(ca),
        path(cert),
        path(key),
    )
}

/// A kubeconfig (YAML; JSON strings are YAML) with one cluster, user and context of the name `default`.
pub fn render(server: &str, ca_pem: &str, client: &CertKey) -> String {
    let quote = |s: &str| serde_json::Value::from(s).to_string();
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    server: {}\n    \
         certificate-authority-data: {}\nusers:\n- name: default\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: default\n  context:\n    cluster: default\n    user: default\n\
         current-context: default\n",
        quote(server),
        STANDARD.encode(ca_pem),
        STANDARD.encode(&client.cert_pem),
        STANDARD.encode(&client.key_pem),
    )
}
