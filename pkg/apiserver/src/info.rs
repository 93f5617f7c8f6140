//! [`RequestInfo`]: what a path and method ask for, parsed once.

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

/// A parsed request line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether a resource is named (else `path` counts).
    pub is_resource: bool,
    /// The path.
    pub path: String,
    /// API verb: get, list, watch, create, update, patch, delete, deletecollection; or the lower-case method.
    pub verb: String,
    /// Group, "" for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace, "" for cluster scope and all namespaces.
    pub namespace: String,
    /// Resource (plural).
    pub resource: String,
    /// Subresource, "" for none.
    pub subresource: String,
    /// Name, "" for none.
    pub name: String,
    /// Path behind a subresource (`proxy`), with its leading slash, percent-encoding kept.
    pub rest: String,
}

impl RequestInfo {
    /// Parses a request line.
    pub fn parse(method: &Method, uri: &Uri, query: &Query) -> Self {
        let path = uri.path();
        let mut info =
            Self { path: path.to_string(), verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        let raw: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, mut at) = match raw.as_slice() {
            ["api", version, _, ..] => ("", *version, 2),
            ["apis", group, version, _, ..] => (*group, *version, 3),
            _ => return info,
        };
        info.is_resource = true;
        info.group = decode(group);
        info.version = decode(version);
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_string();
        let watch_path = raw.get(at) == Some(&"watch") && raw.len() > at + 1;
        if watch_path {
            at += 1;
        }
        if raw.get(at) == Some(&"namespaces") && raw.len() > at + 1 {
            info.namespace = decode(raw[at + 1]);
            let deeper = raw.get(at + 2).is_some_and(|part| !matches!(*part, "status" | "finalize"));
            if deeper {
                at += 2;
            }
        }
        info.take_parts(&raw[at..]);
        if info.name.is_empty() && info.verb == "get" {
            info.verb = if query.flag("watch") { "watch" } else { "list" }.into();
            if let Some(name) = query.get("fieldSelector").and_then(name_of_selector) {
                info.name = name;
            }
        } else if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection".into();
        }
        if watch_path {
            info.verb = "watch".into();
        }
        info
    }

    fn take_parts(&mut self, parts: &[&str]) {
        let part = |i: usize| parts.get(i).map(|p| decode(p)).unwrap_or_default();
        self.resource = part(0);
        self.name = part(1);
        self.subresource = part(2);
        if parts.len() > 3 {
            let rest = parts[3..].join("/");
            let trailing = if self.path.ends_with('/') { "/" } else { "" };
            self.rest = format!("/{rest}{trailing}");
        } else if parts.len() == 3 && self.path.ends_with('/') {
            self.rest = "/".into();
        }
    }

    /// `resource` or `resource/subresource`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

fn decode(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}

/// `metadata.name=x` as the only requirement: authorization may judge by name.
fn name_of_selector(selector: &str) -> Option<String> {
    let value = selector.strip_prefix("metadata.name=")?;
    let value = value.strip_prefix('=').unwrap_or(value);
    (!value.is_empty() && !value.contains([',', '=', '/'])).then(|| value.to_string())
}

/// Query parameters, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the query part of a URI.
    pub fn parse(uri: &Uri) -> Self {
        Self(form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()).into_owned().collect())
    }

    /// The first value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first value or "".
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// All values.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A boolean, by upstream's conversion: present and neither "0" nor "false".
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| !(v == "0" || v.eq_ignore_ascii_case("false")))
    }

    /// A boolean that is false when absent.
    pub fn flag(&self, name: &str) -> bool {
        self.boolean(name).unwrap_or(false)
    }

    /// A number.
    ///
    /// # Errors
    /// 400 with upstream's text.
    pub fn number(&self, name: &str) -> Result<Option<i64>, knarr_machinery::ApiError> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                knarr_machinery::ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing \"{text}\": invalid syntax"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, uri: &str, want: &str) {
        let uri: Uri = uri.parse().unwrap();
        let i = RequestInfo::parse(&method.parse().unwrap(), &uri, &Query::parse(&uri));
        let got = format!(
            "{} {}/{} ns={} {} name={} rest={}",
            i.verb,
            i.group,
            i.version,
            i.namespace,
            i.full_resource(),
            i.name,
            i.rest
        );
        assert_eq!(got, want, "{method} {uri}");
    }

    #[test]
    fn paths() {
        for (method, uri, want) in [
            ("GET", "/api/v1/pods", "list /v1 ns= pods name= rest="),
            ("GET", "/api/v1/pods?watch=1", "watch /v1 ns= pods name= rest="),
            ("GET", "/api/v1/namespaces/a/pods/b?watch=1", "get /v1 ns=a pods name=b rest="),
            ("GET", "/api/v1/watch/namespaces/a/pods", "watch /v1 ns=a pods name= rest="),
            ("GET", "/api/v1/namespaces", "list /v1 ns= namespaces name= rest="),
            ("GET", "/api/v1/namespaces/a", "get /v1 ns=a namespaces name=a rest="),
            ("PUT", "/api/v1/namespaces/a/finalize", "update /v1 ns=a namespaces/finalize name=a rest="),
            ("POST", "/apis/apps/v1/namespaces/a/deployments", "create apps/v1 ns=a deployments name= rest="),
            (
                "GET",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "get apps/v1 ns=a deployments/scale name=d rest=",
            ),
            ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection /v1 ns=a pods name= rest="),
            ("GET", "/api/v1/nodes/n/proxy/a/b%2fc/", "get /v1 ns= nodes/proxy name=n rest=/a/b%2fc/"),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list /v1 ns= pods name=x rest="),
            ("GET", "/healthz", "get / ns=  name= rest="),
        ] {
            check(method, uri, want);
        }
    }
}
