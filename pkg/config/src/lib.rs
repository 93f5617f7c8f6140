//! Configuration of `knarr server`: one table of flags, from which command line, environment, file and docs derive.
//!
//! Entry points: [`FLAGS`] and [`load`]. Precedence: flag, then environment (`KNARR_*`), then file, then default.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod file;
pub mod flags;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches};
pub use flags::{FLAGS, Flag, Shape};
use ipnetwork::IpNetwork;

/// A setting that cannot be used; names where it came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {detail}")]
pub struct Error {
    /// Flag, variable, or file with line or key.
    pub origin: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// All settings of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// All state.
    pub data_dir: PathBuf,
    /// Address the API listens on; None is all addresses.
    pub bind_address: Option<IpAddr>,
    /// Port the API listens on.
    pub https_listen_port: u16,
    /// Address other nodes and pods use; None is the node IP.
    pub advertise_address: Option<IpAddr>,
    /// Further names and addresses in the serving certificate.
    pub tls_san: Vec<String>,
    /// Node name; None is the host name in lower case.
    pub node_name: Option<String>,
    /// Node address; None is the address of the default route's interface, or of the first interface that is up.
    pub node_ip: Option<IpAddr>,
    /// Pod addresses.
    pub cluster_cidr: IpNetwork,
    /// Service addresses.
    pub service_cidr: IpNetwork,
    /// NodePorts, first and last.
    pub service_node_port_range: (u16, u16),
    /// Address of the cluster DNS; None is the tenth service address.
    pub cluster_dns: Option<IpAddr>,
    /// Domain of services and pods.
    pub cluster_domain: String,
    /// Where the admin kubeconfig goes.
    pub write_kubeconfig: PathBuf,
    /// Its permission bits.
    pub write_kubeconfig_mode: u32,
    /// A CRI socket to use instead of starting containerd.
    pub container_runtime_endpoint: Option<PathBuf>,
    /// The containerd program to start.
    pub containerd: PathBuf,
    /// Where the state is kept: `sqlite://PATH` or `memory://`; None is SQLite in the data dir.
    pub datastore_endpoint: Option<String>,
    /// Components left out.
    pub disable: Vec<String>,
    /// Join token: that of the server to be, or that to join with.
    pub token: Option<String>,
    /// Join token for agents only.
    pub agent_token: Option<String>,
    /// Server that an agent joins.
    pub server: Option<String>,
    /// Flags of the kubelet, `name=value`.
    pub kubelet_arg: Vec<String>,
    /// Loopback port of the agent's load balancer.
    pub lb_server_port: u16,
    /// How pods of different nodes reach each other.
    pub flannel_backend: String,
    /// Where images are pulled from.
    pub private_registry: PathBuf,
    /// The configuration file; what belongs to this machine lies beside it.
    pub file: PathBuf,
    /// Log at debug level.
    pub debug: bool,
    /// klog-like verbosity.
    pub verbosity: u8,
}

impl Default for Config {
    fn default() -> Self {
        let v4 = |a: [u8; 4], bits: u8| {
            IpNetwork::new(IpAddr::from(a), bits).unwrap_or_else(|_| IpNetwork::from(IpAddr::from(a)))
        };
        Self {
            data_dir: PathBuf::from("/var/lib/knarr"),
            bind_address: None,
            https_listen_port: 6443,
            advertise_address: None,
            tls_san: Vec::new(),
            node_name: None,
            node_ip: None,
            cluster_cidr: v4([10, 42, 0, 0], 16),
            service_cidr: v4([10, 43, 0, 0], 16),
            service_node_port_range: (30000, 32767),
            cluster_dns: None,
            cluster_domain: "cluster.local".to_string(),
            write_kubeconfig: PathBuf::from("/etc/knarr/knarr.yaml"),
            write_kubeconfig_mode: 0o600,
            container_runtime_endpoint: None,
            containerd: PathBuf::from("containerd"),
            datastore_endpoint: None,
            disable: Vec::new(),
            token: None,
            agent_token: None,
            server: None,
            kubelet_arg: Vec::new(),
            lb_server_port: 6444,
            flannel_backend: "vxlan".to_string(),
            private_registry: PathBuf::from("/etc/knarr/registries.yaml"),
            file: PathBuf::from("/etc/knarr/config.yaml"),
            debug: false,
            verbosity: 0,
        }
    }
}

impl Config {
    /// Address of the cluster DNS: the given one, or the tenth address of the service range.
    pub fn dns_address(&self) -> IpAddr {
        self.cluster_dns.unwrap_or_else(|| nth(&self.service_cidr, 10))
    }

    /// Address of the `kubernetes` service: the first of the service range.
    pub fn kubernetes_address(&self) -> IpAddr {
        nth(&self.service_cidr, 1)
    }

    /// Where the node's password is: beside the configuration file, so that it outlives the data directory.
    pub fn node_password_file(&self) -> PathBuf {
        self.file.parent().unwrap_or(std::path::Path::new("/etc/knarr")).join("node/password")
    }

    /// Whether a component was left out with `--disable`.
    pub fn is_disabled(&self, component: &str) -> bool {
        self.disable.iter().any(|d| d == component)
    }

    /// The datastore endpoint with its default.
    pub fn datastore(&self) -> String {
        self.datastore_endpoint
            .clone()
            .unwrap_or_else(|| format!("sqlite://{}", self.data_dir.join("server/db/state.db").display()))
    }

    fn check(&self) -> Result<(), Error> {
        let fail = |origin: &str, detail: String| Err(Error { origin: origin.to_string(), detail });
        if !self.service_cidr.contains(self.dns_address()) {
            return fail(
                "--cluster-dns",
                format!("{} is not in --service-cidr {}", self.dns_address(), self.service_cidr),
            );
        }
        if self.service_cidr.prefix() > 28 {
            return fail("--service-cidr", format!("{} is too small: at least a /28", self.service_cidr));
        }
        if self.cluster_cidr.contains(self.service_cidr.network())
            || self.service_cidr.contains(self.cluster_cidr.network())
        {
            return fail(
                "--cluster-cidr",
                format!("{} overlaps --service-cidr {}", self.cluster_cidr, self.service_cidr),
            );
        }
        Ok(())
    }
}

fn nth(net: &IpNetwork, n: u8) -> IpAddr {
    match net.network() {
        IpAddr::V4(a) => IpAddr::from((u32::from(a) + u32::from(n)).to_be_bytes()),
        IpAddr::V6(a) => IpAddr::from((u128::from(a) + u128::from(n)).to_be_bytes()),
    }
}

/// Who is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `knarr server`.
    Server,
    /// `knarr agent`.
    Agent,
    /// Commands on the machine of either.
    Machine,
}

impl Role {
    /// Whether a flag is for this role.
    pub fn takes(self, flag: &Flag) -> bool {
        match self {
            Self::Server => !flags::AGENT_ONLY.contains(&flag.name),
            Self::Agent => flags::AGENT.contains(&flag.name),
            Self::Machine => true,
        }
    }
}

/// The command-line arguments of a role, for a clap command. Values are checked by [`load`].
pub fn args(role: Role) -> Vec<Arg> {
    let mut args: Vec<Arg> = FLAGS.iter().filter(|f| role.takes(f)).map(arg).collect();
    args.push(
        Arg::new("config")
            .long("config")
            .short('c')
            .value_name("FILE")
            .env("KNARR_CONFIG_FILE")
            .help("YAML file whose keys are the long flag names [default: /etc/knarr/config.yaml]"),
    );
    args
}

fn arg(flag: &'static Flag) -> Arg {
    let mut arg = Arg::new(flag.name).long(flag.name).help(flag.help);
    if let Some(short) = flag.short {
        arg = arg.short(short);
    }
    match flag.shape {
        Shape::Switch => arg.action(ArgAction::SetTrue),
        Shape::Count => arg.action(ArgAction::Count),
        Shape::One => arg.value_name(flag.value),
        Shape::Many => arg.value_name(flag.value).action(ArgAction::Append).value_delimiter(','),
        Shape::Repeated => arg.value_name(flag.value).action(ArgAction::Append),
    }
}

/// The environment variable of a flag.
pub fn variable(flag: &Flag) -> String {
    if flag.name == "server" {
        return "KNARR_URL".to_string();
    }
    format!("KNARR_{}", flag.name.replace('-', "_").to_uppercase())
}

/// Joins defaults, file, environment and command line, and checks the whole.
///
/// # Errors
/// The first setting that cannot be used, with its origin.
pub fn load(matches: &ArgMatches, env: &dyn Fn(&str) -> Option<String>, role: Role) -> Result<Config, Error> {
    let mut config = Config::default();
    let given = matches.get_one::<String>("config");
    let path = PathBuf::from(given.map_or("/etc/knarr/config.yaml", String::as_str));
    file::read(&path, given.is_some(), role, &mut config)?;
    config.file = path;
    for flag in FLAGS.iter().filter(|f| role.takes(f)) {
        let name = variable(flag);
        if let Some(value) = env(&name) {
            let values = match flag.shape {
                Shape::Many => value.split(',').map(str::to_string).collect(),
                Shape::Repeated => value.split_whitespace().map(str::to_string).collect(),
                _ => vec![value],
            };
            set(flag, &mut config, &values, &name)?;
        }
        if let Some(values) = from_command_line(flag, matches) {
            set(flag, &mut config, &values, &format!("--{}", flag.name))?;
        }
    }
    config.check()?;
    Ok(config)
}

fn set(flag: &Flag, config: &mut Config, values: &[String], origin: &str) -> Result<(), Error> {
    flag.store(config, values).map_err(|detail| Error { origin: origin.to_string(), detail })
}

fn from_command_line(flag: &Flag, matches: &ArgMatches) -> Option<Vec<String>> {
    if matches.value_source(flag.name) != Some(clap::parser::ValueSource::CommandLine) {
        return None;
    }
    Some(match flag.shape {
        Shape::Switch => vec![matches.get_flag(flag.name).to_string()],
        Shape::Count => vec![matches.get_count(flag.name).to_string()],
        Shape::One | Shape::Many | Shape::Repeated => {
            matches.get_many::<String>(flag.name)?.cloned().collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, env: &[(&str, &str)], line: &[&str]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, file).unwrap();
        let mut words = vec!["knarr", "--config", path.to_str().unwrap()];
        words.extend(line);
        check_as(Role::Server, &path, env, &words)
    }

    fn check_as(
        role: Role,
        path: &std::path::Path,
        env: &[(&str, &str)],
        words: &[&str],
    ) -> Result<Config, String> {
        let matches = clap::Command::new("knarr").args(args(role)).try_get_matches_from(words).unwrap();
        let get = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_string());
        load(&matches, &get, role).map_err(|e| e.to_string().replace(path.to_str().unwrap(), "FILE"))
    }

    #[test]
    fn precedence_is_flag_then_environment_then_file() {
        let file = "node-name: file\ncluster-domain: file.local\nhttps-listen-port: 7000\ntls-san: [a, b]\n";
        let env = [("KNARR_NODE_NAME", "env"), ("KNARR_CLUSTER_DOMAIN", "env.local")];
        let config = check(file, &env, &["--node-name", "flag"]).unwrap();
        assert_eq!(config.node_name.as_deref(), Some("flag"));
        assert_eq!(config.cluster_domain, "env.local");
        assert_eq!(config.https_listen_port, 7000);
        assert_eq!(config.tls_san, ["a", "b"]);
        assert_eq!(config.dns_address().to_string(), "10.43.0.10");
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_origin() {
        let cases: &[(&str, &[&str], &str)] = &[
            ("nod-name: a\n", &[], "FILE: unknown key \"nod-name\"; did you mean \"node-name\"?"),
            (
                "https-listen-port: 99999\n",
                &[],
                "FILE: https-listen-port: \"99999\" is not a port from 1 to 65535",
            ),
            (
                "",
                &["--cluster-cidr", "10.42.0.0/33"],
                "--cluster-cidr: \"10.42.0.0/33\" is not an address range such as 10.42.0.0/16",
            ),
            (
                "",
                &["--cluster-dns", "10.9.0.1"],
                "--cluster-dns: 10.9.0.1 is not in --service-cidr 10.43.0.0/16",
            ),
            (
                "",
                &["--cluster-cidr", "10.43.0.0/16"],
                "--cluster-cidr: 10.43.0.0/16 overlaps --service-cidr 10.43.0.0/16",
            ),
            (
                "",
                &["--disable", "traefik"],
                "--disable: \"traefik\" is not a component that can be left out: ",
            ),
            ("node-name: {a: b}\n", &[], "FILE: node-name: expected a value, found a map"),
            ("- a\n", &[], "FILE: expected a map of settings at the top"),
        ];
        for (file, line, expected) in cases {
            let error = check(file, &[], line).unwrap_err();
            assert!(error.starts_with(expected), "{error}\n{expected}");
        }
    }

    #[test]
    fn agents_have_settings_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        let agent = |file: &str, env: &[(&str, &str)]| {
            std::fs::write(&path, file).unwrap();
            check_as(Role::Agent, &path, env, &["knarr", "--config", path.to_str().unwrap()])
        };
        let config = agent("server: https://a:7000/\ntoken: x\n", &[]).unwrap();
        assert_eq!((config.server.as_deref(), config.token.as_deref()), (Some("https://a:7000"), Some("x")));
        assert_eq!(config.node_password_file(), dir.path().join("node/password"));
        let config = agent("", &[("KNARR_URL", "https://[fd00::1]"), ("KNARR_TOKEN", "y")]).unwrap();
        assert_eq!(config.server.as_deref(), Some("https://[fd00::1]:6443"));
        assert_eq!(config.token.as_deref(), Some("y"));
        for (file, want) in [
            ("server: http://a\n", "FILE: server: \"http://a\" is not a server such as"),
            ("server: https://a:x\n", "FILE: server: "),
            ("token: a b\n", "FILE: token: a token is one word"),
            ("cluster-cidr: 10.0.0.0/8\n", "FILE: \"cluster-cidr\" is a setting of servers, not of agents"),
        ] {
            let error = agent(file, &[]).unwrap_err();
            assert!(error.starts_with(want), "{error}");
        }
        let error = check("server: https://a\n", &[], &[]).unwrap_err();
        assert!(error.contains("is a setting of agents, not of servers"), "{error}");
    }

    #[test]
    fn repeated_values_keep_their_commas() {
        let line = ["--kubelet-arg", "eviction-hard=a<1%,b<2%", "--kubelet-arg", "max-pods=5"];
        let want = ["eviction-hard=a<1%,b<2%", "max-pods=5"];
        assert_eq!(check("", &[], &line).unwrap().kubelet_arg, want);
        let env = [("KNARR_KUBELET_ARG", "eviction-hard=a<1%,b<2% max-pods=5")];
        assert_eq!(check("", &env, &[]).unwrap().kubelet_arg, want);
        let file = "kubelet-arg:\n- eviction-hard=a<1%,b<2%\n- max-pods=5\n";
        assert_eq!(check(file, &[], &[]).unwrap().kubelet_arg, want);
        assert_eq!(check("kubelet-arg: a=1\n", &[], &[]).unwrap().kubelet_arg, ["a=1"]);
    }

    #[test]
    fn broken_yaml_names_the_line() {
        let error = check("node-name: a\n  b: : c\n", &[], &[]).unwrap_err();
        assert!(error.starts_with("FILE: ") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn flags_are_sorted_and_each_has_one_variable() {
        let names: Vec<&str> = FLAGS.iter().map(|f| f.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
    }
}
