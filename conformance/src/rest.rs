//! HTTP to the API server: the client of everything above, and raw requests for bytes, protobuf, tables and frames.

use std::fmt;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::Result;

/// What may stand in a query value as it is.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An answer that is no success, as the server put it.
#[derive(Debug)]
pub struct StatusError {
    /// HTTP status.
    pub code: u16,
    /// The `Status` object, or null when the body was none.
    pub status: Value,
    /// The body as it came.
    pub body: String,
    /// What was asked.
    pub request: String,
}

impl StatusError {
    /// The machine-readable reason.
    pub fn reason(&self) -> &str {
        self.status["reason"].as_str().unwrap_or("")
    }

    /// The message.
    pub fn message(&self) -> &str {
        self.status["message"].as_str().unwrap_or(&self.body)
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}: {}", self.request, self.code, self.reason(), self.message())
    }
}

impl std::error::Error for StatusError {}

/// The server's refusal inside an error, if it is one.
pub fn refusal(error: &anyhow::Error) -> Option<&StatusError> {
    error.downcast_ref::<StatusError>()
}

/// Whether the error is a refusal with this HTTP status.
pub fn is_code(error: &anyhow::Error, code: u16) -> bool {
    refusal(error).is_some_and(|s| s.code == code)
}

/// The refusal that a step must meet, with this HTTP status; anything else is an error.
pub fn refused<T>(result: Result<T>, code: u16, what: &str) -> Result<StatusError> {
    match result {
        Ok(_) => anyhow::bail!("{what}: expected to be refused with {code}, but it succeeded"),
        Err(e) => match e.downcast::<StatusError>() {
            Ok(s) if s.code == code => Ok(s),
            Ok(s) => anyhow::bail!("{what}: expected to be refused with {code}, saw {s}"),
            Err(e) => Err(e.context(format!("{what}: expected to be refused with {code}"))),
        },
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub code: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// A header as text, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON in the body: {}", self.text()))
    }
}

/// A client with an identity and headers of its own.
#[derive(Clone)]
pub struct Rest {
    client: kube::Client,
    config: kube::Config,
    headers: Vec<(String, String)>,
}

impl Rest {
    /// From a kubeconfig's settings.
    pub fn new(mut config: kube::Config) -> Result<Self> {
        config.read_timeout = Some(std::time::Duration::from_secs(900));
        let client = kube::Client::try_from(config.clone()).context("client from the kubeconfig")?;
        Ok(Self { client, config, headers: Vec::new() })
    }

    /// The settings, for programs that are given them.
    pub fn config(&self) -> &kube::Config {
        &self.config
    }

    /// The same connection as another user.
    pub fn impersonate(&self, user: &str, groups: &[&str]) -> Self {
        let mut headers = vec![("Impersonate-User".to_string(), user.to_string())];
        headers.extend(groups.iter().map(|g| ("Impersonate-Group".to_string(), (*g).to_string())));
        Self { headers, ..self.clone() }
    }

    /// A client that shows only this token.
    pub fn with_token(&self, token: &str) -> Result<Self> {
        let mut config = self.config.clone();
        config.auth_info =
            kube::config::AuthInfo { token: Some(token.to_string().into()), ..Default::default() };
        Self::new(config)
    }

    /// A client without any credentials.
    pub fn anonymous(&self) -> Result<Self> {
        let mut config = self.config.clone();
        config.auth_info = kube::config::AuthInfo::default();
        Self::new(config)
    }

    /// Path and query as one text; values are escaped here.
    pub fn uri(path: &str, query: &[(&str, &str)]) -> String {
        let pairs: Vec<String> =
            query.iter().map(|(k, v)| format!("{k}={}", utf8_percent_encode(v, QUERY))).collect();
        if pairs.is_empty() { path.to_string() } else { format!("{path}?{}", pairs.join("&")) }
    }

    /// Sends and hands back the answer unread, whatever its status.
    pub async fn open(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Response<Body>> {
        let mut request = Request::builder().method(method.clone()).uri(uri);
        for (k, v) in
            self.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain(headers.iter().copied())
        {
            request = request.header(k, v);
        }
        let request = request.body(Body::from(body)).with_context(|| format!("{method} {uri}"))?;
        self.client.send(request).await.with_context(|| format!("{method} {uri}"))
    }

    /// Sends and reads the answer, whatever its status.
    pub async fn raw(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Reply> {
        let response = self.open(method.clone(), uri, headers, body).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.with_context(|| format!("{method} {uri}: body"))?.to_bytes();
        Ok(Reply { code: head.status.as_u16(), headers: head.headers, body })
    }

    /// Sends JSON and wants a success back.
    pub async fn json(&self, method: Method, uri: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let headers = [("content-type", "application/json"), ("accept", "application/json")];
        self.raw(method.clone(), uri, &headers, body.into_bytes()).await?.success(&format!("{method} {uri}"))
    }

    /// GET of a path that answers JSON.
    pub async fn get(&self, uri: &str) -> Result<Value> {
        self.json(Method::GET, uri, None).await
    }

    /// GET of a path that answers text.
    pub async fn text(&self, uri: &str) -> Result<String> {
        let reply = self.raw(Method::GET, uri, &[("accept", "*/*")], Vec::new()).await?;
        if (200..300).contains(&reply.code) {
            Ok(reply.text())
        } else {
            Err(reply.error(&format!("GET {uri}")).into())
        }
    }
}

impl Reply {
    /// The JSON of a success, else a [`StatusError`].
    pub fn success(&self, request: &str) -> Result<Value> {
        if (200..300).contains(&self.code) { self.json() } else { Err(self.error(request).into()) }
    }

    /// The refusal in this answer.
    pub fn error(&self, request: &str) -> StatusError {
        let status = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
        StatusError { code: self.code, status, body: self.text(), request: request.to_string() }
    }
}
