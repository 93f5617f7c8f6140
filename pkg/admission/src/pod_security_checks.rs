//! The Pod Security Standards: each check of a pod spec, with its reason and details.

use std::collections::BTreeSet;

use serde_json::Value;

/// How strict a policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// One violated check: what is wrong in a few words, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) reason: String,
    pub(crate) detail: String,
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_string(), detail })
}

/// A pod under examination, and the minor version of the policy.
struct Subject<'a> {
    annotations: &'a Value,
    spec: &'a Value,
    minor: u32,
}

fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural(one: &'static str, many: &'static str, n: usize) -> &'static str {
    if n == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
fn named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

fn name(v: &Value) -> &str {
    v["name"].as_str().unwrap_or_default()
}

impl<'a> Subject<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let list = |f: &str| self.spec[f].as_array().map_or(&[][..], Vec::as_slice);
        list("initContainers").iter().chain(list("containers")).chain(list("ephemeralContainers"))
    }

    /// Names of the containers for which this holds.
    fn which(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| bad(c)).map(name).collect()
    }

    fn windows(&self) -> bool {
        self.minor >= 25 && self.spec["os"]["name"] == "windows"
    }

    /// Users in a namespace of their own may be root there.
    fn own_users(&self) -> bool {
        self.minor >= 35 && self.spec["hostUsers"] == false
    }

    /// The pod and the containers whose security context is bad, as one subject of a sentence.
    fn setters(&self, bad: impl Fn(&Value) -> bool) -> Option<String> {
        let mut out = Vec::new();
        if bad(&self.spec["securityContext"]) {
            out.push("pod".to_string());
        }
        let containers = self.which(|c| bad(&c["securityContext"]));
        if !containers.is_empty() {
            out.push(named(&containers));
        }
        (!out.is_empty()).then(|| out.join(" and "))
    }

    /// The values of a field in the security contexts of the pod and its containers that are bad.
    fn values(&self, get: impl Fn(&Value) -> Option<String>) -> BTreeSet<String> {
        let contexts = std::iter::once(&self.spec["securityContext"]);
        contexts.chain(self.containers().map(|c| &c["securityContext"])).filter_map(get).collect()
    }
}

fn app_armor(s: &Subject<'_>) -> Option<Violation> {
    let bad = |c: &Value| {
        let kind = c["appArmorProfile"]["type"].as_str();
        kind.filter(|k| !matches!(*k, "RuntimeDefault" | "Localhost")).map(str::to_string)
    };
    let mut values: Vec<String> = s.values(bad).into_iter().collect();
    let mut setters: Vec<String> = s.setters(|c| bad(c).is_some()).into_iter().collect();
    let prefix = "container.apparmor.security.beta.kubernetes.io/";
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations = s.annotations.as_object().into_iter().flatten();
    let mut annotations: Vec<String> = annotations
        .filter(|(k, v)| k.starts_with(prefix) && !allowed(v.as_str().unwrap_or_default()))
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    if !annotations.is_empty() {
        annotations.sort();
        setters.push(plural("annotation", "annotations", annotations.len()).to_string());
        values.extend(annotations);
    }
    if setters.is_empty() {
        return None;
    }
    violation(
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(&values)),
    )
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The capabilities that a container adds beyond the allowed ones.
fn added(c: &Value, allowed: &[&str]) -> Vec<String> {
    let add = c["securityContext"]["capabilities"]["add"].as_array().into_iter().flatten();
    add.filter_map(Value::as_str).filter(|a| !allowed.contains(a)).map(str::to_string).collect()
}

fn forbidden_additions(s: &Subject<'_>, allowed: &[&str]) -> Option<String> {
    let bad = s.which(|c| !added(c, allowed).is_empty());
    let capabilities: BTreeSet<String> = s.containers().flat_map(|c| added(c, allowed)).collect();
    (!bad.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&bad),
            quoted(&capabilities)
        )
    })
}

fn capabilities_baseline(s: &Subject<'_>) -> Option<Violation> {
    violation("non-default capabilities", forbidden_additions(s, &DEFAULT_CAPABILITIES)?)
}

fn capabilities_restricted(s: &Subject<'_>) -> Option<Violation> {
    if s.windows() {
        return None;
    }
    let mut details = Vec::new();
    let keeps = s.which(|c| {
        let drop = c["securityContext"]["capabilities"]["drop"].as_array();
        !drop.is_some_and(|d| d.iter().any(|x| x == "ALL"))
    });
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
    }
    details.extend(forbidden_additions(s, &["NET_BIND_SERVICE"]));
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(s: &Subject<'_>) -> Option<Violation> {
    let used = ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|f| s.spec[**f] == true);
    let used: Vec<String> = used.map(|f| format!("{f}=true")).collect();
    if used.is_empty() { None } else { violation("host namespaces", used.join(", ")) }
}

fn volumes<'a>(s: &Subject<'a>) -> &'a [Value] {
    s.spec["volumes"].as_array().map_or(&[], Vec::as_slice)
}

fn host_path(s: &Subject<'_>) -> Option<Violation> {
    let bad: Vec<&str> = volumes(s).iter().filter(|v| !v["hostPath"].is_null()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad)))
}

fn host_ports(s: &Subject<'_>) -> Option<Violation> {
    let of = |c: &Value| -> Vec<String> {
        let ports = c["ports"].as_array().into_iter().flatten();
        ports.filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).map(|p| p.to_string()).collect()
    };
    let bad = s.which(|c| !of(c).is_empty());
    let ports: BTreeSet<String> = s.containers().flat_map(of).collect();
    if bad.is_empty() {
        return None;
    }
    let list = ports.iter().cloned().collect::<Vec<_>>().join(", ");
    let (uses, what) = (plural("uses", "use", bad.len()), plural("hostPort", "hostPorts", ports.len()));
    violation("hostPort", format!("{} {uses} {what} {list}", named(&bad)))
}

fn host_probes(s: &Subject<'_>) -> Option<Violation> {
    if s.minor < 34 {
        return None;
    }
    let of = |c: &Value| -> Vec<String> {
        let handlers = [
            &c["livenessProbe"],
            &c["readinessProbe"],
            &c["startupProbe"],
            &c["lifecycle"]["postStart"],
            &c["lifecycle"]["preStop"],
        ];
        let hosts = handlers.into_iter().flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        hosts.filter_map(Value::as_str).filter(|h| !h.is_empty()).map(str::to_string).collect()
    };
    let mut bad = s.which(|c| !of(c).is_empty());
    bad.sort_unstable();
    let hosts: BTreeSet<String> = s.containers().flat_map(of).collect();
    if bad.is_empty() {
        return None;
    }
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    let uses = plural("uses", "use", bad.len());
    violation("probe or lifecycle host", format!("{} {uses} {what} {}", named(&bad), quoted(&hosts)))
}

fn privileged(s: &Subject<'_>) -> Option<Violation> {
    let bad = s.which(|c| c["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", named(&bad)))
}

fn proc_mount(s: &Subject<'_>) -> Option<Violation> {
    let of = |c: &Value| {
        let mount = c["securityContext"]["procMount"].as_str();
        mount.filter(|m| *m != "Default").map(str::to_string)
    };
    let bad = s.which(|c| of(c).is_some());
    let kinds: BTreeSet<String> = s.containers().filter_map(of).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.procMount to {}", named(&bad), quoted(&kinds));
    violation("procMount", detail)
}

fn proc_mount_baseline(s: &Subject<'_>) -> Option<Violation> {
    if s.own_users() { None } else { proc_mount(s) }
}

fn se_linux(s: &Subject<'_>) -> Option<Violation> {
    let text = |c: &Value, f: &str| c["seLinuxOptions"][f].as_str().unwrap_or_default().to_string();
    let kind = |c: &Value| {
        let kind = text(c, "type");
        let known = ["", "container_t", "container_init_t", "container_kvm_t"].contains(&kind.as_str());
        let newer = s.minor >= 31 && kind == "container_engine_t";
        (!known && !newer).then_some(kind)
    };
    let set = |c: &Value, f: &str| !text(c, f).is_empty();
    let setters = s.setters(|c| kind(c).is_some() || set(c, "user") || set(c, "role"))?;
    let mut data = Vec::new();
    let kinds = s.values(kind);
    if !kinds.is_empty() {
        data.push(format!("{} {}", plural("type", "types", kinds.len()), quoted(&kinds)));
    }
    for field in ["user", "role"] {
        if s.setters(|c| set(c, field)).is_some() {
            data.push(format!("{field} may not be set"));
        }
    }
    let detail = format!("{setters} set forbidden securityContext.seLinuxOptions: {}", data.join("; "));
    violation("seLinuxOptions", detail)
}

fn seccomp_kind(c: &Value) -> Option<&str> {
    c["seccompProfile"]["type"].as_str()
}

fn seccomp_baseline(s: &Subject<'_>) -> Option<Violation> {
    if s.minor < 19 {
        return seccomp_annotations(s);
    }
    let bad = |c: &Value| {
        seccomp_kind(c).filter(|k| !matches!(*k, "RuntimeDefault" | "Localhost")).map(str::to_string)
    };
    let setters = s.setters(|c| bad(c).is_some())?;
    let detail =
        format!("{setters} must not set securityContext.seccompProfile.type to {}", quoted(s.values(bad)));
    violation("seccompProfile", detail)
}

fn seccomp_annotations(s: &Subject<'_>) -> Option<Violation> {
    let prefix = "container.seccomp.security.alpha.kubernetes.io/";
    let keys = s.containers().map(|c| format!("{prefix}{}", name(c)));
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_string()).chain(keys);
    let valid = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let bad = keys.filter_map(|k| {
        let v = s.annotations[&k].as_str().filter(|v| !valid(v))?;
        Some(format!("{k}={v:?}"))
    });
    let bad: BTreeSet<String> = bad.collect();
    if bad.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", bad.len());
    violation(
        "seccompProfile",
        format!("forbidden {what} {}", bad.into_iter().collect::<Vec<_>>().join(", ")),
    )
}

fn seccomp_restricted(s: &Subject<'_>) -> Option<Violation> {
    if s.windows() {
        return None;
    }
    if let Some(explicit) = seccomp_baseline(s) {
        return Some(explicit);
    }
    if seccomp_kind(&s.spec["securityContext"]).is_some() {
        return None;
    }
    let bad = s.which(|c| seccomp_kind(&c["securityContext"]).is_none());
    if bad.is_empty() {
        return None;
    }
    let must = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    violation("seccompProfile", format!("pod or {} {must}", named(&bad)))
}

/// Sysctls that are safe, and the minor version of the policy from which on.
const SYSCTLS: [(&str, u32); 14] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];

fn sysctls(s: &Subject<'_>) -> Option<Violation> {
    let all = s.spec["securityContext"]["sysctls"].as_array().into_iter().flatten().map(name);
    let bad: Vec<&str> =
        all.filter(|n| !SYSCTLS.iter().any(|(k, from)| k == n && *from <= s.minor)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(s: &Subject<'_>) -> Option<Violation> {
    let setters = s.setters(|c| c["windowsOptions"]["hostProcess"] == true)?;
    violation(
        "hostProcess",
        format!("{setters} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

fn privilege_escalation(s: &Subject<'_>) -> Option<Violation> {
    let bad = s.which(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() || s.windows() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad));
    violation("allowPrivilegeEscalation != false", detail)
}

const ALLOWED_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn restricted_volumes(s: &Subject<'_>) -> Option<Violation> {
    let kind = |v: &Value| v.as_object().into_iter().flatten().map(|(k, _)| k.clone()).find(|k| k != "name");
    let bad: Vec<&Value> =
        volumes(s).iter().filter(|v| !ALLOWED_VOLUMES.iter().any(|k| !v[*k].is_null())).collect();
    if bad.is_empty() {
        return None;
    }
    let kinds: BTreeSet<String> =
        bad.iter().map(|v| kind(v).unwrap_or_else(|| "unknown".to_string())).collect();
    let (volumes, uses) = (plural("volume", "volumes", bad.len()), plural("uses", "use", bad.len()));
    let what = plural("restricted volume type", "restricted volume types", kinds.len());
    let names = quoted(bad.iter().map(|v| name(v)));
    violation("restricted volume types", format!("{volumes} {names} {uses} {what} {}", quoted(&kinds)))
}

fn run_as_non_root(s: &Subject<'_>) -> Option<Violation> {
    if s.own_users() {
        return None;
    }
    let reason = "runAsNonRoot != true";
    if let Some(setters) = s.setters(|c| c["runAsNonRoot"] == false) {
        return violation(reason, format!("{setters} must not set securityContext.runAsNonRoot=false"));
    }
    if s.spec["securityContext"]["runAsNonRoot"] == true {
        return None;
    }
    let bad = s.which(|c| c["securityContext"]["runAsNonRoot"].is_null());
    if bad.is_empty() {
        return None;
    }
    violation(reason, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&bad)))
}

fn run_as_user(s: &Subject<'_>) -> Option<Violation> {
    if s.own_users() || s.minor < 23 {
        return None;
    }
    let setters = s.setters(|c| c["runAsUser"] == 0)?;
    violation("runAsUser=0", format!("{setters} must not set runAsUser=0"))
}

type Check = fn(&Subject<'_>) -> Option<Violation>;

/// What a pod violates: baseline checks first, each group by upstream's check names. A stricter check stands in for
/// its baseline form.
pub(crate) fn violations(level: Level, minor: u32, annotations: &Value, spec: &Value) -> Vec<Violation> {
    let s = Subject { annotations, spec, minor };
    let restricted = level == Level::Restricted;
    let baseline: [(Check, bool); 12] = [
        (app_armor, true),
        (capabilities_baseline, !(restricted && minor >= 22)),
        (host_namespaces, true),
        (host_path, !restricted),
        (host_ports, true),
        (host_probes, true),
        (privileged, true),
        (proc_mount_baseline, !(restricted && minor >= 35)),
        (se_linux, true),
        (seccomp_baseline, !(restricted && minor >= 19)),
        (sysctls, true),
        (windows_host_process, true),
    ];
    let strict: [(Check, bool); 7] = [
        (privilege_escalation, minor >= 8),
        (capabilities_restricted, minor >= 22),
        (proc_mount, minor >= 35),
        (restricted_volumes, true),
        (run_as_non_root, true),
        (run_as_user, true),
        (seccomp_restricted, minor >= 19),
    ];
    let mut out = Vec::new();
    if level == Level::Privileged {
        return out;
    }
    out.extend(baseline.iter().filter(|(_, on)| *on).filter_map(|(check, _)| check(&s)));
    if restricted {
        out.extend(strict.iter().filter(|(_, on)| *on).filter_map(|(check, _)| check(&s)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn details(level: Level, minor: u32, spec: Value) -> Vec<String> {
        let all = violations(level, minor, &Value::Null, &spec);
        all.into_iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect()
    }

    #[test]
    fn a_plain_pod() {
        let spec = json!({"containers": [{"name": "c"}]});
        assert!(details(Level::Baseline, u32::MAX, spec.clone()).is_empty());
        assert_eq!(
            details(Level::Restricted, u32::MAX, spec),
            [
                "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ]
        );
    }

    #[test]
    fn a_restricted_pod() {
        let spec = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
            "volumes": [{"name": "v", "emptyDir": {}}]});
        assert!(details(Level::Restricted, u32::MAX, spec).is_empty());
    }

    #[test]
    fn baseline_checks() {
        let one = |spec: Value| details(Level::Baseline, u32::MAX, spec);
        for (spec, want) in [
            (
                json!({"hostNetwork": true, "hostPID": true}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (json!({"volumes": [{"name": "v", "hostPath": {}}]}), "hostPath volumes (volume \"v\")"),
            (
                json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}, {"name": "b", "ports": [{"hostPort": 443}]}]}),
                "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
            ),
            (
                json!({"initContainers": [{"name": "i", "securityContext": {"privileged": true}}]}),
                "privileged (container \"i\" must not set securityContext.privileged=true)",
            ),
            (
                json!({"containers": [{"name": "a", "securityContext": {"capabilities": {"add": ["NET_RAW", "KILL"]}}}]}),
                "non-default capabilities (container \"a\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
            ),
            (
                json!({"securityContext": {"seLinuxOptions": {"type": "x", "role": "r"}}}),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; role may not be set)",
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
                "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
            ),
        ] {
            assert_eq!(one(spec.clone()), [want], "{spec}");
        }
        let newer = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        assert!(details(Level::Baseline, 32, newer.clone()).is_empty());
        assert_eq!(details(Level::Baseline, 31, newer).len(), 1);
    }

    #[test]
    fn stricter_checks_replace_theirs() {
        let spec = json!({"volumes": [{"name": "v", "hostPath": {}}], "securityContext": {"runAsNonRoot": false, "runAsUser": 0}});
        assert_eq!(
            details(Level::Restricted, u32::MAX, spec),
            [
                "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
                "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
                "runAsUser=0 (pod must not set runAsUser=0)",
            ]
        );
    }
}
