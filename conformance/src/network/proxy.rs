//! Upstream: `test/e2e/network/proxy.go`.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::reach::has_endpoints;
use crate::Result;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::SERVICES;
use crate::pods::{container, pod};
use crate::watch::poll;

tests! {
    "[sig-network] Proxy version v1 should proxy through a service and a pod" => through,
    "[sig-network] Proxy version v1 A set of valid responses are returned for both pod and service Proxy" => |c| responses(c, ""),
    "[sig-network] Proxy version v1 A set of valid responses are returned for both pod and service ProxyWithPath" => |c| responses(c, "/some/path/with/"),
}

async fn porter(c: &Context) -> Result<()> {
    let link = "<a href=\"/rewriteme\">test</a>";
    let env: Vec<Value> = [
        ("SERVE_PORT_80", link),
        ("SERVE_PORT_1080", link),
        ("SERVE_PORT_160", "foo"),
        ("SERVE_PORT_162", "bar"),
        ("SERVE_TLS_PORT_443", "<a href=\"/tlsrewriteme\">test</a>"),
        ("SERVE_TLS_PORT_460", "tls baz"),
        ("SERVE_TLS_PORT_462", "tls qux"),
    ]
    .iter()
    .map(|(k, v)| json!({"name": k, "value": v}))
    .collect();
    let mut main = container("proxy-service", AGNHOST, &["porter"]);
    main["env"] = json!(env);
    main["ports"] = json!([
        {"name": "dest1", "containerPort": 160},
        {"name": "dest2", "containerPort": 162},
        {"name": "tlsdest1", "containerPort": 460},
        {"name": "tlsdest2", "containerPort": 462},
    ]);
    main["readinessProbe"] = json!({"httpGet": {"port": 80}, "periodSeconds": 1});
    let mut pod = pod("proxy-pod", json!([main]));
    pod["metadata"]["labels"] = json!({"proxy-service-selector": "true"});
    c.start(&pod).await?;
    let port =
        |name: &str, port: u16, target: Value| json!({"name": name, "port": port, "targetPort": target});
    let service = json!({"metadata": {"name": "proxy-service"}, "spec": {
        "selector": {"proxy-service-selector": "true"},
        "ports": [
            port("portname1", 80, json!("dest1")),
            port("portname2", 81, json!(162)),
            port("tlsportname1", 443, json!("tlsdest1")),
            port("tlsportname2", 444, json!(462)),
        ],
    }});
    c.create(&SERVICES, &service).await?;
    let wanted = [("proxy-pod", 160), ("proxy-pod", 162), ("proxy-pod", 460), ("proxy-pod", 462)];
    has_endpoints(c, "proxy-service", &wanted).await
}

async fn through(c: Context) -> Result<()> {
    porter(&c).await?;
    let services = [
        ("proxy-service:portname1", "foo"),
        ("proxy-service:80", "foo"),
        ("proxy-service:portname2", "bar"),
        ("proxy-service:81", "bar"),
        ("http:proxy-service:portname1", "foo"),
        ("http:proxy-service:80", "foo"),
        ("http:proxy-service:portname2", "bar"),
        ("http:proxy-service:81", "bar"),
        ("https:proxy-service:tlsportname1", "tls baz"),
        ("https:proxy-service:443", "tls baz"),
        ("https:proxy-service:tlsportname2", "tls qux"),
        ("https:proxy-service:444", "tls qux"),
    ];
    let pods = [
        ("proxy-pod:160", "foo"),
        ("proxy-pod:162", "bar"),
        ("http:proxy-pod:160", "foo"),
        ("http:proxy-pod:162", "bar"),
        ("https:proxy-pod:460", "tls baz"),
        ("https:proxy-pod:462", "tls qux"),
    ];
    let (service_path, pod_path) = (c.api(&SERVICES).path(), c.pods().path());
    let mut wanted: Vec<(String, String)> = Vec::new();
    wanted.extend(services.iter().map(|(n, t)| (format!("{service_path}/{n}/proxy/"), (*t).to_string())));
    wanted.extend(pods.iter().map(|(n, t)| (format!("{pod_path}/{n}/proxy/"), (*t).to_string())));
    // Links of a page are rewritten so that they lead through the proxy again.
    for (name, link) in [
        ("proxy-pod", "rewriteme"),
        ("proxy-pod:1080", "rewriteme"),
        ("http:proxy-pod:1080", "rewriteme"),
        ("https:proxy-pod:443", "tlsrewriteme"),
    ] {
        let root = format!("{pod_path}/{name}/proxy");
        wanted.push((format!("{root}/"), format!("<a href=\"{root}/{link}\">test</a>")));
    }
    for attempt in 0..20 {
        for (path, text) in &wanted {
            let limit = Duration::from_secs(if attempt == 0 { 30 } else { 1 });
            poll(limit, Duration::from_millis(500), path, || async {
                ensure_eq!(c.rest().text(path).await?, *text, "{path}");
                Ok(Some(()))
            })
            .await?;
        }
    }
    Ok(())
}

/// Every method through pod and service; the answer tells which one arrived.
async fn responses(c: Context, path: &str) -> Result<()> {
    let mut main = container("agnhost", AGNHOST, &["porter", "--json-response"]);
    main["env"] = json!([{"name": "SERVE_PORT_80", "value": "foo"}]);
    main["readinessProbe"] = json!({"httpGet": {"port": 80}, "periodSeconds": 1});
    let mut pod = pod("agnhost", json!([main]));
    pod["metadata"]["labels"] = json!({"e2e-test": "proxy-endpoints"});
    c.start(&pod).await?;
    let service = json!({"metadata": {"name": "e2e-proxy-test-service"}, "spec": {
        "selector": {"e2e-test": "proxy-endpoints"}, "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]}});
    c.create(&SERVICES, &service).await?;
    has_endpoints(&c, "e2e-proxy-test-service", &[("agnhost", 80)]).await?;
    let roots = [c.pods().path_of("agnhost/proxy"), c.api(&SERVICES).path_of("e2e-proxy-test-service/proxy")];
    for root in &roots {
        for method in [
            Method::DELETE,
            Method::OPTIONS,
            Method::PATCH,
            Method::POST,
            Method::PUT,
            Method::GET,
            Method::HEAD,
        ] {
            let reads = method == Method::GET || method == Method::HEAD;
            let uri = if path.is_empty() {
                format!("{root}?method={method}")
            } else {
                format!("{root}{path}{method}")
            };
            poll(Duration::from_secs(30), Duration::from_secs(1), &format!("{method} {uri}"), || async {
                let reply = c.rest().raw(method.clone(), &uri, &[], Vec::new()).await?;
                if reads && path.is_empty() {
                    // Without a trailing slash a reader is sent to the place with one.
                    ensure_eq!(reply.code, 301, "status");
                    ensure_contains!(
                        reply.header("location"),
                        format!("/proxy/?method={method}"),
                        "where it leads"
                    );
                    return Ok(Some(()));
                }
                ensure_eq!(reply.code, 200, "status, with the body {}", reply.text());
                if method != Method::HEAD {
                    let body = reply.json()?;
                    ensure_eq!(body["Method"], json!(method.as_str()), "the method that arrived");
                    ensure_eq!(body["Body"], json!("foo"), "the server's text");
                }
                Ok(Some(()))
            })
            .await?;
        }
    }
    Ok(())
}
