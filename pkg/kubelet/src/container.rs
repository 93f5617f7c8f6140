//! What the runtime is told of a sandbox and of a container. Mostly pure; [`prepare`] makes the small files of a container.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use knarr_cri::v1;
use knarr_volumes::Mounted;

use crate::{
    KubeletConfig,
    env::expand,
    naming::{dns, hostname, hosts_file},
    observed::label,
    resources,
    spec::{self, Unit},
};

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(crate) fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

/// Where the logs of a pod are.
pub fn log_dir(config: &KubeletConfig, pod: &Pod) -> PathBuf {
    let m = &pod.metadata;
    config.log_dir.join(format!("{}_{}_{}", text(&m.namespace), text(&m.name), text(&m.uid)))
}

fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = spec::spec(pod);
    let node = |wanted: Option<bool>, otherwise| {
        if wanted == Some(true) { v1::NamespaceMode::Node } else { otherwise }
    };
    let pid = if spec.share_process_namespace == Some(true) {
        v1::NamespaceMode::Pod
    } else {
        v1::NamespaceMode::Container
    };
    v1::NamespaceOption {
        network: node(spec.host_network, v1::NamespaceMode::Pod).into(),
        pid: node(spec.host_pid, pid).into(),
        ipc: node(spec.host_ipc, v1::NamespaceMode::Pod).into(),
        ..Default::default()
    }
}

fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let m = &pod.metadata;
    HashMap::from([
        (label::POD_NAME.to_owned(), text(&m.name)),
        (label::POD_NAMESPACE.to_owned(), text(&m.namespace)),
        (label::POD_UID.to_owned(), text(&m.uid)),
    ])
}

fn seccomp(kind: &str, localhost: Option<&str>, config: &KubeletConfig) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, path) = match kind {
        "RuntimeDefault" => (ProfileType::RuntimeDefault, String::new()),
        "Localhost" => (
            ProfileType::Localhost,
            config.root_dir.join("seccomp").join(localhost.unwrap_or_default()).display().to_string(),
        ),
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: path }
}

fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let context = spec::spec(pod).security_context.clone().unwrap_or_default();
    context.supplemental_groups.into_iter().flatten().chain(context.fs_group).collect()
}

/// The sandbox of a pod.
pub fn sandbox(pod: &Pod, attempt: u32, config: &KubeletConfig) -> v1::PodSandboxConfig {
    let spec = spec::spec(pod);
    let context = spec.security_context.clone().unwrap_or_default();
    let any_privileged = spec::units(pod)
        .iter()
        .any(|u| u.container.security_context.as_ref().and_then(|s| s.privileged) == Some(true));
    let profile = context.seccomp_profile.as_ref();
    let id = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    let security = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: id(context.run_as_user),
        run_as_group: id(context.run_as_group.filter(|_| context.run_as_user.is_some())),
        supplemental_groups: supplemental_groups(pod),
        privileged: any_privileged,
        seccomp: Some(seccomp(
            profile.map_or("", |p| p.type_.as_str()),
            profile.and_then(|p| p.localhost_profile.as_deref()),
            config,
        )),
        ..Default::default()
    };
    let m = &pod.metadata;
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: text(&m.name),
            uid: text(&m.uid),
            namespace: text(&m.namespace),
            attempt,
        }),
        // On the node's network the name is the node's: the runtime refuses to set it there.
        hostname: if spec::host_network(pod) { String::new() } else { hostname(pod, config) },
        log_directory: log_dir(config, pod).display().to_string(),
        dns_config: Some(dns(pod, config)),
        port_mappings: if spec::host_network(pod) { Vec::new() } else { port_mappings(pod) },
        labels: m.labels.clone().unwrap_or_default().into_iter().chain(pod_labels(pod)).collect(),
        annotations: m.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: resources::cgroup(pod, &config.cgroup_root),
            security_context: Some(security),
            sysctls: context.sysctls.into_iter().flatten().map(|s| (s.name, s.value)).collect(),
            ..Default::default()
        }),
    }
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let containers = spec::units(pod);
    let ports = containers.iter().flat_map(|u| u.container.ports.iter().flatten());
    ports
        .filter(|p| p.host_port.is_some_and(|h| h > 0))
        .map(|p| v1::PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            }
            .into(),
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or_default(),
            host_ip: text(&p.host_ip),
        })
        .collect()
}

/// Everything that goes into one container.
pub struct Wanted<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub unit: &'a Unit,
    /// Its restart count.
    pub attempt: u32,
    /// The image as the runtime knows it.
    pub image: &'a v1::Image,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// The pod's volumes.
    pub volumes: &'a BTreeMap<String, Mounted>,
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// Bytes of memory of the node.
    pub memory_bytes: i64,
    /// The instance whose process namespace an ephemeral container joins.
    pub target: Option<String>,
}

/// Makes the container's files and gives its configuration. An error is a configuration error of the container.
pub fn prepare(wanted: &Wanted<'_>, config: &KubeletConfig) -> Result<v1::ContainerConfig, String> {
    let (pod, container) = (wanted.pod, &wanted.unit.container);
    let lookup = |name: &str| wanted.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let expanded =
        |list: &Option<Vec<String>>| list.iter().flatten().map(|item| expand(item, lookup)).collect();
    let security = security(pod, wanted, config)?;
    let spec = spec::spec(pod);
    let mut annotations = HashMap::from([
        (label::HASH.to_owned(), spec::hash(container)),
        (label::RESTART_COUNT.to_owned(), wanted.attempt.to_string()),
        (label::MESSAGE_PATH.to_owned(), message_path(container).to_owned()),
        (
            label::MESSAGE_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
        ),
    ]);
    if let Some(grace) = spec.termination_grace_period_seconds {
        annotations.insert(label::GRACE.to_owned(), grace.to_string());
    }
    let mut labels = pod_labels(pod);
    labels.insert(label::CONTAINER_NAME.to_owned(), container.name.clone());
    let logs = log_dir(config, pod).join(&container.name);
    fs::create_dir_all(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: wanted.attempt }),
        image: Some(v1::ImageSpec {
            image: wanted.image.id.clone(),
            user_specified_image: text(&container.image),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: text(&container.working_dir),
        envs: wanted
            .env
            .iter()
            .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: mounts(wanted, config, &lookup)?,
        labels,
        annotations,
        log_path: format!("{}/{}.log", container.name, wanted.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::of_container(pod, container, wanted.memory_bytes)),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}

fn message_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log")
}

fn security(
    pod: &Pod,
    wanted: &Wanted<'_>,
    config: &KubeletConfig,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    let of_pod = spec::spec(pod).security_context.clone().unwrap_or_default();
    let own = wanted.unit.container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        refuse_root(user, wanted.image)?;
    }
    let privileged = own.privileged == Some(true);
    let open = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let list =
        |items: &[&str]| if open { Vec::new() } else { items.iter().map(|i| (*i).to_owned()).collect() };
    let profile = own.seccomp_profile.or(of_pod.seccomp_profile);
    let capabilities = own.capabilities.map(|c| v1::Capability {
        add_capabilities: c.add.unwrap_or_default(),
        drop_capabilities: c.drop.unwrap_or_default(),
        ..Default::default()
    });
    let mut options = namespaces(pod);
    if let Some(target) = &wanted.target {
        options.set_pid(v1::NamespaceMode::Target);
        options.target_id.clone_from(target);
    }
    let image_user = wanted.image.uid.as_ref().map(|u| u.value);
    let named = user.is_none() && image_user.is_none() && !wanted.image.username.is_empty();
    Ok(v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(options),
        run_as_user: user.or(image_user).map(|value| v1::Int64Value { value }),
        run_as_username: if named { wanted.image.username.clone() } else { String::new() },
        run_as_group: own.run_as_group.or(of_pod.run_as_group).map(|value| v1::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: list(&MASKED),
        readonly_paths: list(&READ_ONLY),
        apparmor: own.app_armor_profile.or(of_pod.app_armor_profile).filter(|_| !privileged).map(|p| {
            // The profile is known to the kernel by name, not by path.
            v1::SecurityProfile {
                localhost_ref: p.localhost_profile.clone().unwrap_or_default(),
                ..seccomp(&p.type_, None, config)
            }
        }),
        seccomp: Some(if privileged {
            seccomp("Unconfined", None, config)
        } else {
            seccomp(
                profile.as_ref().map_or("", |p| p.type_.as_str()),
                profile.as_ref().and_then(|p| p.localhost_profile.as_deref()),
                config,
            )
        }),
        ..Default::default()
    })
}

fn refuse_root(user: Option<i64>, image: &v1::Image) -> Result<(), String> {
    match (user, image.uid.as_ref().map(|u| u.value)) {
        (Some(0), _) => Err("container's runAsUser breaks non-root policy".to_owned()),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err("container has runAsNonRoot and image will run as root".to_owned()),
        (None, Some(_)) => Ok(()),
        (None, None) if image.username.is_empty() => {
            Err("container has runAsNonRoot and image will run as root".to_owned())
        }
        (None, None) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            image.username
        )),
    }
}

fn mounts(
    wanted: &Wanted<'_>,
    config: &KubeletConfig,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<v1::Mount>, String> {
    let container = &wanted.unit.container;
    let pod_dir = config.pod_dir(wanted.pod);
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = wanted
            .volumes
            .get(&mount.name)
            .ok_or_else(|| format!("volume {:?} is not mounted", mount.name))?;
        mounts.push(v1::Mount {
            container_path: mount.mount_path.clone(),
            host_path: host_path(mount, volume, lookup)?.display().to_string(),
            readonly: volume.read_only || mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
                _ => v1::MountPropagation::PropagationPrivate,
            }
            .into(),
            ..Default::default()
        });
    }
    let taken = |path: &str| {
        container.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == path)
    };
    let mut own = |container_path: &str, host: &Path| {
        mounts.push(v1::Mount {
            container_path: container_path.to_owned(),
            host_path: host.display().to_string(),
            ..Default::default()
        });
    };
    let failed = |path: &Path, e: io::Error| format!("{}: {e}", path.display());
    if !taken("/etc/hosts") {
        let hosts = pod_dir.join("etc-hosts");
        fs::create_dir_all(&pod_dir)
            .and_then(|()| fs::write(&hosts, hosts_file(wanted.pod, wanted.pod_ips, config)))
            .map_err(|e| failed(&hosts, e))?;
        own("/etc/hosts", &hosts);
    }
    let dir = pod_dir.join("containers").join(&container.name);
    let log = dir.join(format!("{:08x}", rand::random::<u32>()));
    fs::create_dir_all(&dir).and_then(|()| fs::write(&log, "")).map_err(|e| failed(&log, e))?;
    // The container's user is not ours.
    fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .map_err(|e| failed(&log, e))?;
    own(message_path(container), &log);
    Ok(mounts)
}

/// The mount's place on the node; a sub-path is made when missing and must not lead out of its volume.
fn host_path(
    mount: &VolumeMount,
    volume: &Mounted,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<PathBuf, String> {
    let sub = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (_, Some(expression)) if !expression.is_empty() => {
            let sub = expand(expression, lookup);
            if sub.contains("$(") {
                return Err(format!("subPathExpr {expression:?} names a variable that is not set"));
            }
            sub
        }
        (Some(sub), _) if !sub.is_empty() => sub.to_owned(),
        _ => {
            if !volume.owned && !volume.host_path.exists() {
                // As upstream: a hostPath without type is made when a container needs it.
                fs::create_dir_all(&volume.host_path)
                    .map_err(|e| format!("{}: {e}", volume.host_path.display()))?;
            }
            return Ok(volume.host_path.clone());
        }
    };
    if sub.starts_with('/') || sub.split('/').any(|part| part == "..") {
        return Err(format!("subPath {sub:?} must be relative and without .."));
    }
    let path = volume.host_path.join(&sub);
    if !path.exists() && !volume.read_only {
        make_sub_path(&volume.host_path, &sub).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let real = path.canonicalize().map_err(|e| format!("subPath {sub:?} of volume {:?}: {e}", mount.name))?;
    let root = volume.host_path.canonicalize().map_err(|e| format!("volume {:?}: {e}", mount.name))?;
    if real.starts_with(&root) {
        Ok(real)
    } else {
        Err(format!("subPath {sub:?} of volume {:?} leads out of the volume", mount.name))
    }
}

/// Makes missing directories with the volume's own mode, so that whoever may write there may write here.
fn make_sub_path(volume: &Path, sub: &str) -> io::Result<()> {
    let mode = fs::metadata(volume)?.permissions();
    let mut dir = volume.to_owned();
    for part in sub.split('/').filter(|p| !p.is_empty() && *p != ".") {
        dir.push(part);
        match fs::create_dir(&dir) {
            Ok(()) => fs::set_permissions(&dir, mode.clone())?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        // Nothing is made beyond a link that somebody in the pod may have put there.
        if fs::symlink_metadata(&dir)?.file_type().is_symlink() {
            return Err(io::Error::other("a part of the path is a symbolic link"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    fn config(dir: &Path) -> KubeletConfig {
        fs::write(dir.join("resolv.conf"), "nameserver 9.9.9.9\nsearch corp.example\n").unwrap();
        KubeletConfig {
            resolv_conf: dir.join("resolv.conf"),
            cluster_dns: vec!["10.43.0.10".into()],
            root_dir: dir.to_owned(),
            log_dir: dir.join("logs"),
            ..KubeletConfig::new("node")
        }
    }

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        let volume = Mounted { host_path: dir.path().to_owned(), read_only: false, owned: true };
        let mount =
            |sub: &str| VolumeMount { name: "v".into(), sub_path: Some(sub.into()), ..Default::default() };
        assert!(host_path(&mount("a/b"), &volume, &|_| None).unwrap().ends_with("a/b"));
        for bad in ["../x", "/x", "out"] {
            assert!(host_path(&mount(bad), &volume, &|_| None).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_container_is_described_whole() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let pod = pod(
            json!({"securityContext": {"runAsNonRoot": true, "fsGroup": 7}, "containers": [{"name": "c", "image": "i", "args": ["$(A)"]}]}),
        );
        let unit = &spec::units(&pod)[0];
        let wanted = |image: &v1::Image| {
            let (volumes, env) = (BTreeMap::new(), vec![("A".to_owned(), "1".to_owned())]);
            let wanted = Wanted {
                pod: &pod,
                unit,
                attempt: 3,
                image,
                env,
                volumes: &volumes,
                pod_ips: &[],
                memory_bytes: 1 << 30,
                target: None,
            };
            prepare(&wanted, &config)
        };
        assert!(wanted(&v1::Image::default()).unwrap_err().contains("will run as root"));
        let made =
            wanted(&v1::Image { uid: Some(v1::Int64Value { value: 5 }), ..Default::default() }).unwrap();
        let security = made.linux.unwrap().security_context.unwrap();
        assert_eq!((made.args, made.log_path.as_str()), (vec!["1".to_owned()], "c/3.log"));
        assert_eq!((security.run_as_user.unwrap().value, security.supplemental_groups), (5, vec![7]));
        assert_eq!(
            made.mounts.iter().map(|m| m.container_path.as_str()).collect::<Vec<_>>(),
            ["/etc/hosts", "/dev/termination-log"]
        );
    }
}
