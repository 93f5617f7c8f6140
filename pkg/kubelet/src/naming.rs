//! Names inside a pod: its host name, its resolver, its `/etc/hosts`.

use std::fs;

use k8s_openapi::api::core::v1::Pod;
use knarr_cri::v1;

use crate::{KubeletConfig, container::text, spec};

/// The host name inside the pod.
pub fn hostname(pod: &Pod, config: &KubeletConfig) -> String {
    let spec = spec::spec(pod);
    if spec::host_network(pod) {
        return config.node_name.clone();
    }
    let name = spec.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| text(&pod.metadata.name));
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The resolver configuration by the pod's policy.
pub fn dns(pod: &Pod, config: &KubeletConfig) -> v1::DnsConfig {
    let spec = spec::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = !config.cluster_dns.is_empty()
        && (policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !spec::host_network(pod)));
    let mut dns = if policy == "None" {
        v1::DnsConfig::default()
    } else {
        parse_resolv_conf(&fs::read_to_string(&config.resolv_conf).unwrap_or_default())
    };
    if cluster {
        let (namespace, domain) = (text(&pod.metadata.namespace), &config.cluster_domain);
        let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        dns.searches = own.into_iter().chain(std::mem::take(&mut dns.searches)).collect();
        dns.servers.clone_from(&config.cluster_dns);
        dns.options = vec!["ndots:5".to_owned()];
    }
    if let Some(extra) = &spec.dns_config {
        let add = |to: &mut Vec<String>, from: Option<&Vec<String>>| {
            for item in from.into_iter().flatten() {
                if !to.contains(item) {
                    to.push(item.clone());
                }
            }
        };
        add(&mut dns.servers, extra.nameservers.as_ref());
        add(&mut dns.searches, extra.searches.as_ref());
        for option in extra.options.iter().flatten() {
            let name = text(&option.name);
            dns.options.retain(|o| o.split(':').next() != Some(name.as_str()));
            dns.options.push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    dns
}

fn parse_resolv_conf(text: &str) -> v1::DnsConfig {
    let mut dns = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                dns.searches =
                    words.map(|w| w.trim_end_matches('.').to_owned()).filter(|w| !w.is_empty()).collect()
            }
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

/// The content of `/etc/hosts`.
pub fn hosts_file(pod: &Pod, pod_ips: &[String], config: &KubeletConfig) -> String {
    let spec = spec::spec(pod);
    let mut out = if spec::host_network(pod) {
        let host = fs::read_to_string("/etc/hosts").unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{host}")
    } else {
        let name = hostname(pod, config);
        let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty());
        let names = match subdomain {
            Some(sub) => format!(
                "{name}.{sub}.{}.svc.{}\t{name}",
                text(&pod.metadata.namespace),
                config.cluster_domain
            ),
            None => name,
        };
        let mut out = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        );
        out.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        pod_ips.iter().for_each(|ip| out.push_str(&format!("{ip}\t{names}\n")));
        out
    };
    let aliases: Vec<_> = spec.host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        aliases.iter().for_each(|a| {
            out.push_str(&format!(
                "{}\t{}\n",
                a.ip,
                a.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
            ))
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resolver_policies() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("resolv.conf"), "nameserver 9.9.9.9\nsearch corp.example\n").unwrap();
        let config = KubeletConfig {
            resolv_conf: dir.path().join("resolv.conf"),
            cluster_dns: vec!["10.43.0.10".into()],
            ..KubeletConfig::new("node")
        };
        let check = |spec: serde_json::Value, servers: &str, searches: &str, options: &str| {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}))
                    .unwrap();
            let dns = dns(&pod, &config);
            assert_eq!(
                (dns.servers.join(" "), dns.searches.join(" "), dns.options.join(" ")),
                (servers.into(), searches.into(), options.into())
            );
        };
        check(
            json!({"containers": []}),
            "10.43.0.10",
            "n.svc.cluster.local svc.cluster.local cluster.local corp.example",
            "ndots:5",
        );
        check(json!({"containers": [], "dnsPolicy": "Default"}), "9.9.9.9", "corp.example", "");
        check(json!({"containers": [], "hostNetwork": true}), "9.9.9.9", "corp.example", "");
        let own = json!({"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]});
        check(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": own}), "1.1.1.1", "x", "ndots:2");
    }
}
