//! Upstream: `test/e2e/network/dns.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, text};
use crate::context::Context;
use crate::images::{AGNHOST, GLIBC_DNS};
use crate::kinds::SERVICES;
use crate::pods::{container, pod};
use crate::watch::poll;

tests! {
    "[sig-network] DNS should provide DNS for the cluster" => cluster,
    "[sig-network] DNS should provide /etc/hosts entries for the cluster" => hosts,
    "[sig-network] DNS should provide DNS for services" => |c| services(c, false),
    "[sig-network] DNS should resolve DNS of partial qualified names for services [LinuxOnly]" => |c| services(c, true),
    "[sig-network] DNS should provide DNS for pods for Hostname" => |c| subdomain(c, true),
    "[sig-network] DNS should provide DNS for pods for Subdomain" => |c| subdomain(c, false),
    "[sig-network] DNS should provide DNS for ExternalName services" => external_name,
    "[sig-network] DNS should support configurable pod DNS nameservers" => nameservers,
}

/// One thing to find out, again and again, until it leaves OK in a file.
struct Probe {
    file: String,
    command: String,
}

fn dig(names: &[String], kind: &str) -> Vec<Probe> {
    let one = |name: &String, tcp: bool| Probe {
        file: format!("{}@{}", if tcp { "tcp" } else { "udp" }, name.replace('/', "_")),
        command: format!("dig +{} +noall +answer +search {name} {kind}", if tcp { "tcp" } else { "notcp" }),
    };
    names.iter().flat_map(|n| [one(n, false), one(n, true)]).collect()
}

fn getent(name: &str) -> Probe {
    Probe { file: format!("hosts@{name}"), command: format!("getent hosts {name}") }
}

/// Two queriers with different C libraries write their results, a web server shows them through the API's proxy.
async fn all_answer(c: &Context, probes: &[Probe], fields: Value) -> Result<()> {
    let line = |who: &str| {
        let each: String = probes
            .iter()
            .map(|p| {
                format!(
                    "check=\"$({})\" && test -n \"$check\" && echo OK > \"/results/{who}_{}\"; ",
                    p.command, p.file
                )
            })
            .collect();
        format!("for i in `seq 1 600`; do {each} sleep 1; done")
    };
    let mounts = json!([{"name": "results", "mountPath": "/results"}]);
    let mut web = container("webserver", AGNHOST, &["test-webserver"]);
    web["ports"] = json!([{"name": "http", "containerPort": 80}]);
    let mut containers = vec![web];
    for (who, image) in [("querier", AGNHOST), ("glibc-querier", GLIBC_DNS)] {
        containers.push(json!({"name": who, "image": image, "command": ["sh", "-c", line(who)]}));
    }
    for container in &mut containers {
        container["volumeMounts"] = mounts.clone();
    }
    let name = c.unique("dns-test");
    let mut pod = pod(&name, json!(containers));
    pod["metadata"]["labels"] = json!({"dns-test": "true", "dns-test-hostname-attribute": "true"});
    pod["spec"]["volumes"] = json!([{"name": "results", "emptyDir": {}}]);
    if let (Some(spec), Some(fields)) = (pod["spec"].as_object_mut(), fields.as_object()) {
        spec.extend(fields.clone());
    }
    c.start(&pod).await?;
    let root = c.pods().path_of(&format!("{name}/proxy/results"));
    poll(Duration::from_secs(300), Duration::from_secs(2), "all names must resolve", || async {
        for who in ["querier", "glibc-querier"] {
            for probe in probes {
                let text = c.rest().text(&format!("{root}/{who}_{}", probe.file)).await;
                let text = text.map_err(|e| e.context(format!("{who}: {}", probe.command)))?;
                ensure_eq!(text.trim(), "OK", "{who}: {}", probe.command);
            }
        }
        Ok(Some(()))
    })
    .await?;
    c.remove_pod(&name).await
}

async fn cluster(c: Context) -> Result<()> {
    let domain = &c.settings().dns_domain;
    let names = [
        "kubernetes.default".to_string(),
        "kubernetes.default.svc".into(),
        format!("kubernetes.default.svc.{domain}"),
    ];
    all_answer(&c, &dig(&names, "A"), json!({})).await
}

async fn hosts(c: Context) -> Result<()> {
    let (host, service) = ("dns-querier-1", "dns-test-service");
    let fqdn = format!("{host}.{service}.{}.svc.{}", c.namespace(), c.settings().dns_domain);
    all_answer(&c, &[getent(&fqdn), getent(host)], json!({"hostname": host, "subdomain": service})).await
}

fn service(name: &str, headless: bool, selector: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    });
    if headless {
        service["spec"]["clusterIP"] = json!("None");
    }
    service
}

async fn services(c: Context, partial: bool) -> Result<()> {
    let (headless, ordinary) = ("dns-test-service", "test-service-2");
    let selector = json!({"dns-test": "true"});
    c.create(&SERVICES, &service(headless, true, selector.clone())).await?;
    let made = c.create(&SERVICES, &service(ordinary, false, selector)).await?;
    let ns = c.namespace();
    let mut names = vec![format!("{headless}.{ns}"), format!("{headless}.{ns}.svc")];
    if partial {
        names.insert(0, headless.to_string());
        names.push(format!("{ordinary}.{ns}"));
    }
    let mut probes = dig(&names, "A");
    let records = [format!("_http._tcp.{headless}.{ns}.svc"), format!("_http._tcp.{ordinary}.{ns}.svc")];
    probes.extend(dig(&records, "SRV"));
    if !partial {
        let ip = text(&made, "/spec/clusterIP");
        let reverse: Vec<&str> = ip.split('.').rev().collect();
        anyhow::ensure!(
            reverse.len() == 4,
            "an IPv4 address is wanted for the PTR record, the service has {ip}"
        );
        probes.extend(dig(&[format!("{}.in-addr.arpa.", reverse.join("."))], "PTR"));
    }
    all_answer(&c, &probes, json!({})).await
}

async fn subdomain(c: Context, by_hostname: bool) -> Result<()> {
    let (host, name) = ("dns-querier-2", "dns-test-service-2");
    c.create(&SERVICES, &service(name, true, json!({"dns-test-hostname-attribute": "true"}))).await?;
    let fqdn = format!("{host}.{name}.{}.svc.{}", c.namespace(), c.settings().dns_domain);
    let probes = if by_hostname {
        let mut probes = vec![getent(&fqdn), getent(host)];
        probes.extend(dig(&[fqdn], "A"));
        probes
    } else {
        dig(&[fqdn, format!("{name}.{}.svc.{}", c.namespace(), c.settings().dns_domain)], "A")
    };
    all_answer(&c, &probes, json!({"hostname": host, "subdomain": name})).await
}

/// Waits until a query from a pod has exactly this answer, over UDP and TCP, for both C libraries.
async fn answers(c: &Context, pod: &str, name: &str, kind: &str, wanted: &str) -> Result<()> {
    for container in ["querier", "glibc-querier"] {
        for transport in ["+notcp", "+tcp"] {
            let what = format!("{container}: {kind} of {name} must be {wanted}");
            poll(Duration::from_secs(120), Duration::from_secs(1), &what, || async {
                let seen = c.exec_ok(pod, container, &["dig", "+short", transport, name, kind]).await?;
                ensure_eq!(seen.trim(), wanted, "answer");
                Ok(Some(()))
            })
            .await?;
        }
    }
    Ok(())
}

async fn external_name(c: Context) -> Result<()> {
    let name = "dns-test-service-3";
    let body = json!({"metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": "foo.example.com"}});
    c.create(&SERVICES, &body).await?;
    let fqdn = format!("{name}.{}.svc.{}", c.namespace(), c.settings().dns_domain);
    let sleepers: Vec<Value> = [("querier", AGNHOST), ("glibc-querier", GLIBC_DNS)]
        .iter()
        .map(|(n, i)| json!({"name": n, "image": i, "command": ["sleep", "3600"]}))
        .collect();
    let querier = c.unique("dns-test");
    c.start(&pod(&querier, json!(sleepers))).await?;
    answers(&c, &querier, &fqdn, "CNAME", "foo.example.com.").await?;
    let api = c.api(&SERVICES);
    api.modify(name, |s| s["spec"]["externalName"] = json!("bar.example.com")).await?;
    answers(&c, &querier, &fqdn, "CNAME", "bar.example.com.").await?;
    let change = json!({"spec": {"type": "ClusterIP", "externalName": null, "ports": [{"port": 80, "name": "http", "protocol": "TCP"}]}});
    let changed = api.patch(name, Patch::Merge(change)).await?;
    let ip = text(&changed, "/spec/clusterIP").to_string();
    anyhow::ensure!(!ip.is_empty(), "the service of type ClusterIP has no address");
    answers(&c, &querier, &fqdn, "A", &ip).await
}

async fn nameservers(c: Context) -> Result<()> {
    let name = "test-dns-nameservers";
    let mut pod = pod(name, json!([container("agnhost-container", AGNHOST, &["pause"])]));
    pod["spec"]["dnsPolicy"] = json!("None");
    pod["spec"]["dnsConfig"] = json!({"nameservers": ["1.1.1.1"], "searches": ["resolv.conf.local"]});
    c.start(&pod).await?;
    let suffix = c.exec_ok(name, "agnhost-container", &["/agnhost", "dns-suffix"]).await?;
    ensure_eq!(suffix, "resolv.conf.local", "the search list");
    let servers = c.exec_ok(name, "agnhost-container", &["/agnhost", "dns-server-list"]).await?;
    ensure_eq!(servers, "1.1.1.1", "the list of servers");
    Ok(())
}
