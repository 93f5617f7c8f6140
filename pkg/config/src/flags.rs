//! The table of flags. To add one: a field in `Config` and an entry here; everything else derives.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use crate::Config;

/// How many values a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// None: present or not.
    Switch,
    /// None, repeated for more (`-vv`).
    Count,
    /// One.
    One,
    /// Any number, repeated or separated by commas.
    Many,
    /// Any number, repeated; in the environment separated by spaces.
    Repeated,
}

impl Shape {
    /// Whether it takes any number of values.
    pub fn is_list(self) -> bool {
        matches!(self, Self::Many | Self::Repeated)
    }
}

/// One setting.
pub struct Flag {
    /// Long flag and file key.
    pub name: &'static str,
    /// Short flag.
    pub short: Option<char>,
    /// Name of the value in help.
    pub value: &'static str,
    /// Help text, with the default.
    pub help: &'static str,
    /// Number of values.
    pub shape: Shape,
    set: Set,
}

/// Checks and stores; the error says what was expected.
enum Set {
    One(fn(&mut Config, &str) -> Result<(), String>),
    Many(fn(&mut Config, &[String]) -> Result<(), String>),
}

impl Flag {
    /// Checks and stores the values.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn store(&self, config: &mut Config, values: &[String]) -> Result<(), String> {
        match (&self.set, values) {
            (Set::One(set), [value]) => set(config, value),
            (Set::One(_), _) => Err(format!("expected one value, found {}", values.len())),
            (Set::Many(set), values) => set(config, values),
        }
    }
}

/// Components that `--disable` can leave out.
pub const COMPONENTS: &[&str] =
    &["controllers", "dns", "kubelet", "metrics", "network-policy", "proxy", "scheduler"];

/// Values of `--flannel-backend`.
pub const BACKENDS: &[&str] = &["none", "vxlan", "host-gw"];

/// The flags that `knarr agent` takes too; all others belong to the cluster, and servers tell them.
pub const AGENT: &[&str] = &[
    "container-runtime-endpoint",
    "containerd",
    "data-dir",
    "debug",
    "kubelet-arg",
    "lb-server-port",
    "node-ip",
    "node-name",
    "private-registry",
    "server",
    "token",
    "token-file",
    "verbosity",
];

/// The flags that only `knarr agent` takes.
pub const AGENT_ONLY: &[&str] = &["lb-server-port", "server"];

/// All flags of `knarr server` and `knarr agent`, sorted by name.
pub const FLAGS: &[Flag] = &[
    one("advertise-address", "IP", "address that pods and other nodes use [default: node IP]", |c, v| {
        c.advertise_address = Some(ip(v)?);
        Ok(())
    }),
    one("agent-token", "TOKEN", "join token for agents only [default: the token]", |c, v| {
        c.agent_token = Some(secret(v)?);
        Ok(())
    }),
    one("agent-token-file", "FILE", "file with the join token for agents only", |c, v| {
        c.agent_token = Some(secret_file(v)?);
        Ok(())
    }),
    one("bind-address", "IP", "address the API listens on [default: all]", |c, v| {
        c.bind_address = Some(ip(v)?);
        Ok(())
    }),
    one("cluster-cidr", "CIDR", "addresses of pods [default: 10.42.0.0/16]", |c, v| {
        c.cluster_cidr = network(v)?;
        Ok(())
    }),
    one("cluster-dns", "IP", "address of the cluster DNS [default: tenth service address]", |c, v| {
        c.cluster_dns = Some(ip(v)?);
        Ok(())
    }),
    one("cluster-domain", "DOMAIN", "domain of services and pods [default: cluster.local]", |c, v| {
        let valid = !v.is_empty()
            && v.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            });
        if !valid {
            return Err(format!("{v:?} is not a domain such as cluster.local"));
        }
        c.cluster_domain = v.to_string();
        Ok(())
    }),
    one(
        "container-runtime-endpoint",
        "SOCKET",
        "CRI socket to use instead of starting containerd",
        |c, v| {
            c.container_runtime_endpoint = Some(PathBuf::from(v.strip_prefix("unix://").unwrap_or(v)));
            Ok(())
        },
    ),
    one(
        "containerd",
        "PROGRAM",
        "containerd program to start [default: containerd, found in PATH]",
        |c, v| {
            c.containerd = PathBuf::from(v);
            Ok(())
        },
    ),
    Flag {
        short: Some('d'),
        ..one("data-dir", "DIR", "all state [default: /var/lib/knarr]", |c, v| {
            if !v.starts_with('/') {
                return Err(format!("{v:?} is not an absolute path"));
            }
            c.data_dir = PathBuf::from(v);
            Ok(())
        })
    },
    one(
        "datastore-endpoint",
        "URL",
        "sqlite://PATH or memory:// [default: SQLite in the data dir]",
        |c, v| {
            if !(v.starts_with("sqlite://") || v.starts_with("memory://")) {
                return Err(format!("{v:?} has no supported scheme: sqlite://, memory://"));
            }
            c.datastore_endpoint = Some(v.to_string());
            Ok(())
        },
    ),
    Flag {
        name: "debug",
        short: None,
        value: "",
        help: "log at debug level",
        shape: Shape::Switch,
        set: Set::One(|c, v| {
            c.debug = boolean(v)?;
            Ok(())
        }),
    },
    list(
        "disable",
        "COMPONENT",
        "leave components out: controllers, dns, kubelet, metrics, network-policy, proxy, scheduler",
        Shape::Many,
        |c, v| {
            if let Some(bad) = v.iter().find(|x| !COMPONENTS.contains(&x.as_str())) {
                return Err(format!(
                    "{bad:?} is not a component that can be left out: {}",
                    COMPONENTS.join(", ")
                ));
            }
            c.disable = v.to_vec();
            Ok(())
        },
    ),
    one(
        "flannel-backend",
        "BACKEND",
        "how pods of different nodes reach each other: none, vxlan, host-gw [default: vxlan]",
        |c, v| {
            if !BACKENDS.contains(&v) {
                return Err(format!("{v:?} is not one of {}", BACKENDS.join(", ")));
            }
            c.flannel_backend = v.to_string();
            Ok(())
        },
    ),
    one("https-listen-port", "PORT", "port the API listens on [default: 6443]", |c, v| {
        c.https_listen_port = port(v)?;
        Ok(())
    }),
    list(
        "kubelet-arg",
        "NAME=VALUE",
        "a flag of the kubelet, such as eviction-hard=nodefs.available<1Gi; may be repeated",
        Shape::Repeated,
        |c, v| {
            c.kubelet_arg = v.to_vec();
            Ok(())
        },
    ),
    one("lb-server-port", "PORT", "loopback port of the agent's load balancer [default: 6444]", |c, v| {
        c.lb_server_port = port(v)?;
        Ok(())
    }),
    one("node-ip", "IP", "address of this node [default: that of the default route]", |c, v| {
        c.node_ip = Some(ip(v)?);
        Ok(())
    }),
    one("node-name", "NAME", "name of this node [default: host name]", |c, v| {
        c.node_name = Some(v.to_string());
        Ok(())
    }),
    one(
        "private-registry",
        "FILE",
        "registries: mirrors, TLS, credentials [default: /etc/knarr/registries.yaml]",
        |c, v| {
            c.private_registry = PathBuf::from(v);
            Ok(())
        },
    ),
    one("server", "URL", "server that the agent joins, such as https://10.0.0.1:6443", |c, v| {
        c.server = Some(server_url(v)?);
        Ok(())
    }),
    one("service-cidr", "CIDR", "addresses of services [default: 10.43.0.0/16]", |c, v| {
        c.service_cidr = network(v)?;
        Ok(())
    }),
    one("service-node-port-range", "FROM-TO", "ports of NodePort services [default: 30000-32767]", |c, v| {
        let bad = || format!("{v:?} is not a port range such as 30000-32767");
        let (from, to) = v.split_once('-').ok_or_else(bad)?;
        let (from, to) = (port(from).map_err(|_| bad())?, port(to).map_err(|_| bad())?);
        if from > to {
            return Err(bad());
        }
        c.service_node_port_range = (from, to);
        Ok(())
    }),
    list(
        "tls-san",
        "NAME",
        "further host names and addresses in the serving certificate",
        Shape::Many,
        |c, v| {
            c.tls_san = v.to_vec();
            Ok(())
        },
    ),
    Flag {
        short: Some('t'),
        ..one("token", "TOKEN", "join token [default of servers: made at the first start]", |c, v| {
            c.token = Some(secret(v)?);
            Ok(())
        })
    },
    one("token-file", "FILE", "file with the join token", |c, v| {
        c.token = Some(secret_file(v)?);
        Ok(())
    }),
    Flag {
        name: "verbosity",
        short: Some('v'),
        value: "",
        help: "more log; repeat for more still",
        shape: Shape::Count,
        set: Set::One(|c, v| {
            c.verbosity = v.parse().map_err(|_| format!("{v:?} is not a number from 0 to 255"))?;
            Ok(())
        }),
    },
    Flag {
        short: Some('o'),
        ..one(
            "write-kubeconfig",
            "FILE",
            "where the admin kubeconfig goes [default: /etc/knarr/knarr.yaml]",
            |c, v| {
                c.write_kubeconfig = PathBuf::from(v);
                Ok(())
            },
        )
    },
    one("write-kubeconfig-mode", "MODE", "its permission bits, octal [default: 600]", |c, v| {
        c.write_kubeconfig_mode = u32::from_str_radix(v, 8)
            .ok()
            .filter(|m| *m <= 0o777)
            .ok_or_else(|| format!("{v:?} is not an octal mode such as 600"))?;
        Ok(())
    }),
];

const fn one(
    name: &'static str,
    value: &'static str,
    help: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
) -> Flag {
    Flag { name, short: None, value, help, shape: Shape::One, set: Set::One(set) }
}

const fn list(
    name: &'static str,
    value: &'static str,
    help: &'static str,
    shape: Shape,
    set: fn(&mut Config, &[String]) -> Result<(), String>,
) -> Flag {
    Flag { name, short: None, value, help, shape, set: Set::Many(set) }
}

fn secret(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.contains(char::is_whitespace) {
        return Err("a token is one word".to_string());
    }
    Ok(text.to_string())
}

fn secret_file(path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    secret(&text).map_err(|e| format!("{path}: {e}"))
}

fn server_url(text: &str) -> Result<String, String> {
    let bad = || format!("{text:?} is not a server such as https://10.0.0.1:6443");
    let rest = text.trim_end_matches('/').strip_prefix("https://").ok_or_else(bad)?;
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (rest, "6443"),
    };
    let open = host.starts_with('[') == host.ends_with(']');
    if host.is_empty() || host.contains(['/', '@', ' ']) || !open || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    Ok(format!("https://{host}:{port}"))
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

fn network(text: &str) -> Result<IpNetwork, String> {
    let bad = || format!("{text:?} is not an address range such as 10.42.0.0/16");
    let net: IpNetwork = text.parse().map_err(|_| bad())?;
    if net.is_ipv6() {
        return Err(format!("{text:?}: IPv6 ranges are not supported yet"));
    }
    if !text.contains('/') || net.network() != net.ip() {
        return Err(bad());
    }
    Ok(net)
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|p| *p > 0).ok_or_else(|| format!("{text:?} is not a port from 1 to 65535"))
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}
