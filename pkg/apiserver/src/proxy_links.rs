//! Links of a proxied page: those that lead to the backend's own root are made to lead through the proxy again.
//!
//! Entry point: [`rewrite`].

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};
use knarr_machinery::ApiError;

/// The largest page whose links are changed; a larger one passes as it is.
const MAX_PAGE: usize = 8 << 20;

/// Attributes that hold a link, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where the proxy stands: the path before the backend's, and the backend's own host and port.
pub(crate) struct Place {
    /// `/api/v1/namespaces/n/pods/p/proxy`.
    pub prefix: String,
    /// `10.42.0.7:80`.
    pub host: String,
}

impl Place {
    /// The link as it leads through the proxy; none if it stays as it is.
    fn through(&self, link: &str) -> Option<String> {
        let after_scheme = ["http://", "https://", "//"].iter().find_map(|s| link.strip_prefix(s));
        let path = match after_scheme {
            None => link,
            Some(rest) => {
                let (host, _) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                if host != self.host {
                    return None;
                }
                &rest[host.len()..]
            }
        };
        let own =
            path.strip_prefix(&self.prefix).is_some_and(|r| r.is_empty() || r.starts_with(['/', '?', '#']));
        if !path.starts_with('/') || own {
            return None;
        }
        Some(format!("{}{path}", self.prefix))
    }
}

/// Changes a backend's answer: the place that a redirect leads to, and the links of a page.
///
/// # Errors
/// The backend's body broke off.
pub(crate) async fn rewrite(mut response: Response, place: &Place) -> Result<Response, ApiError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
    if let Some(Ok(value)) = location.and_then(|l| place.through(l)).map(|l| HeaderValue::from_str(&l)) {
        response.headers_mut().insert(LOCATION, value);
    }
    if !is_plain_page(response.headers()) {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let mut chunks = body.into_data_stream();
    let mut page: Vec<u8> = Vec::new();
    while let Some(chunk) = chunks.next().await {
        page.extend_from_slice(&chunk.map_err(|e| ApiError::internal(format!("body of the backend: {e}")))?);
        if page.len() > MAX_PAGE {
            let begun = futures::stream::iter([Ok::<_, axum::Error>(Bytes::from(page))]);
            return Ok(Response::from_parts(parts, Body::from_stream(begun.chain(chunks))));
        }
    }
    if page.is_empty() {
        // The answer to a HEAD keeps the length that it speaks of.
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(links(&page, place))))
}

fn is_plain_page(headers: &http::HeaderMap) -> bool {
    let header = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or("");
    let media = header(CONTENT_TYPE).split(';').next().unwrap_or("").trim();
    media.eq_ignore_ascii_case("text/html") && header(CONTENT_ENCODING).is_empty()
}

/// The page with its links changed; all other bytes stay.
fn links(page: &[u8], place: &Place) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + 256);
    let mut rest = page;
    while let Some(at) = rest.iter().position(|b| *b == b'<') {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let end = tag_end(rest);
        tag(&rest[..end], place, &mut out);
        rest = &rest[end..];
    }
    out.extend_from_slice(rest);
    out
}

/// Length of the tag that begins here; a `>` inside quotes does not end it. Comments end at `-->`.
fn tag_end(text: &[u8]) -> usize {
    if text.starts_with(b"<!--") {
        return text.windows(3).position(|w| w == b"-->").map_or(text.len(), |p| p + 3);
    }
    let mut quote = None;
    for (i, b) in text.iter().enumerate().skip(1) {
        match (quote, b) {
            (None, b'"' | b'\'') => quote = Some(*b),
            (Some(q), b) if q == *b => quote = None,
            (None, b'>') => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Copies a tag, changing the values of its link attributes.
fn tag(text: &[u8], place: &Place, out: &mut Vec<u8>) {
    let name: String = text[1..]
        .iter()
        .take_while(|b| b.is_ascii_alphanumeric())
        .map(|b| b.to_ascii_lowercase() as char)
        .collect();
    let Some((_, attributes)) = LINKS.iter().find(|(n, _)| *n == name) else {
        out.extend_from_slice(text);
        return;
    };
    let mut done = 0;
    let mut at = 1 + name.len();
    while at < text.len() {
        let start = at + text[at..].iter().take_while(|b| b.is_ascii_whitespace() || **b == b'/').count();
        let end = start
            + text[start..].iter().take_while(|b| !b.is_ascii_whitespace() && !b"=>/".contains(b)).count();
        let attribute = String::from_utf8_lossy(&text[start..end]).to_ascii_lowercase();
        at = end + text[end..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        if text.get(at) != Some(&b'=') {
            at = at.max(end + 1);
            continue;
        }
        at += 1 + text[at + 1..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        let quote = text.get(at).copied().filter(|b| matches!(b, b'"' | b'\''));
        let from = at + usize::from(quote.is_some());
        let length = match quote {
            Some(q) => text[from..].iter().take_while(|b| **b != q).count(),
            None => text[from..].iter().take_while(|b| !b.is_ascii_whitespace() && **b != b'>').count(),
        };
        let value = String::from_utf8_lossy(&text[from..from + length]);
        if attributes.contains(&attribute.as_str())
            && let Some(link) = place.through(&value)
        {
            out.extend_from_slice(&text[done..from]);
            out.extend_from_slice(link.as_bytes());
            done = from + length;
        }
        at = from + length + usize::from(quote.is_some());
    }
    out.extend_from_slice(&text[done..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_through_the_proxy() {
        let place = Place { prefix: "/p/proxy".into(), host: "10.0.0.1:80".into() };
        for (page, wanted) in [
            ("<a href=\"/rewriteme\">test</a>", "<a href=\"/p/proxy/rewriteme\">test</a>"),
            ("<A class=x HREF='/x?y=1#z'>", "<A class=x HREF='/p/proxy/x?y=1#z'>"),
            ("<img alt=\"a>b\" src=/i.png>", "<img alt=\"a>b\" src=/p/proxy/i.png>"),
            ("<a href=\"http://10.0.0.1:80/x\">", "<a href=\"/p/proxy/x\">"),
            ("<a href=\"http://other/x\">", "<a href=\"http://other/x\">"),
            ("<a href=\"relative\">", "<a href=\"relative\">"),
            ("<a href=\"/p/proxy/x\">", "<a href=\"/p/proxy/x\">"),
            (
                "<p href=\"/x\">a < b</p><!-- <a href=\"/x\"> -->",
                "<p href=\"/x\">a < b</p><!-- <a href=\"/x\"> -->",
            ),
            ("<a href", "<a href"),
            ("<a =", "<a ="),
            ("no tag at all", "no tag at all"),
        ] {
            assert_eq!(String::from_utf8_lossy(&links(page.as_bytes(), &place)), wanted, "{page}");
        }
    }
}
