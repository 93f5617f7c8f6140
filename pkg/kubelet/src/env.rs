//! The environment of a container. Entry point: [`environment`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};
use knarr_volumes::{Source, downward};

/// What only the node knows of a pod.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// What the node offers, by resource name.
    pub allocatable: BTreeMap<String, String>,
}

/// All variables: services, then `envFrom`, then `env`, later ones winning. An error is a configuration error.
pub async fn environment(
    pod: &Pod,
    container: &Container,
    source: &dyn Source,
    services: &[Service],
    facts: &Facts,
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut vars: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut add = |key: String, value: String| vars.insert(format!("{prefix}{key}"), value);
        if let Some(reference) = &from.config_map_ref {
            match source.config_map(namespace, &reference.name).await? {
                Some(map) => map.data.unwrap_or_default().into_iter().for_each(|(k, v)| drop(add(k, v))),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match source.secret(namespace, &reference.name).await? {
                Some(secret) => secret
                    .data
                    .unwrap_or_default()
                    .into_iter()
                    .for_each(|(k, v)| drop(add(k, String::from_utf8_lossy(&v.0).into_owned()))),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    let service_vars = service_variables(pod, services);
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, |name| vars.get(name).or_else(|| service_vars.get(name)).cloned()))
            }
            (_, Some(from)) => referred(pod, container, from, source, facts).await?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            vars.insert(var.name.clone(), value);
        }
    }
    for (name, value) in service_vars {
        vars.entry(name).or_insert(value);
    }
    Ok(vars.into_iter().collect())
}

async fn referred(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    source: &dyn Source,
    facts: &Facts,
) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &from.field_ref {
        return field(pod, &reference.field_path, facts).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        let wanted = selector.container_name.as_deref().filter(|n| !n.is_empty());
        let spec = crate::spec::spec(pod);
        let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let subject = match wanted {
            Some(name) => {
                all.find(|c| c.name == name).ok_or_else(|| format!("container {name} not found"))?
            }
            None => container,
        };
        return downward::resource(subject, selector, &facts.allocatable).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = source.config_map(namespace, &reference.name).await? else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("configmap {:?} not found", reference.name))
            };
        };
        return match map.data.unwrap_or_default().remove(&reference.key) {
            Some(value) => Ok(Some(value)),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                reference.key, reference.name
            )),
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = source.secret(namespace, &reference.name).await? else {
            return if optional { Ok(None) } else { Err(format!("secret {:?} not found", reference.name)) };
        };
        return match secret.data.unwrap_or_default().remove(&reference.key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => {
                Err(format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name))
            }
        };
    }
    Err("valueFrom has no source that this node supports".to_owned())
}

fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    if let Some(value) = downward::field(pod, path)? {
        return Ok(value);
    }
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    Ok(match path {
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => first(&facts.pod_ips),
        _ => facts.pod_ips.join(","),
    })
}

/// `$(NAME)` becomes the value if there is one; `$$` becomes `$`; all else stays.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|t| t.split_once(')')) {
            out.push_str(&lookup(name).unwrap_or_else(|| format!("$({name})")));
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The variables of the services of the pod's namespace (where wanted) and of `default/kubernetes` (always).
fn service_variables(pod: &Pod, services: &[Service]) -> BTreeMap<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
    let mut vars = BTreeMap::new();
    let mut named: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (ns, name) = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let main = ns == "default" && name == "kubernetes";
        if (links && ns == namespace) || (main && !named.contains_key(name)) {
            named.insert(name, service);
        }
    }
    for (name, service) in named {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let upper = |text: &str| text.to_uppercase().replace('-', "_");
        let prefix = upper(name);
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        vars.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        for (n, port) in spec.ports.iter().flatten().enumerate() {
            let number = port.port;
            if n == 0 {
                vars.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
            }
            if let Some(port_name) = port.name.as_deref().filter(|p| !p.is_empty()) {
                vars.insert(format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), number.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{number}", protocol.to_lowercase());
            if n == 0 {
                vars.insert(format!("{prefix}_PORT"), url.clone());
            }
            let link = format!("{prefix}_PORT_{number}_{protocol}");
            vars.insert(format!("{link}_PROTO"), protocol.to_lowercase());
            vars.insert(format!("{link}_PORT"), number.to_string());
            vars.insert(format!("{link}_ADDR"), ip.to_owned());
            vars.insert(link, url);
        }
    }
    vars
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_expand() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y", "x1y"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$", "$"),
            ("$A$(", "$A$("),
            ("", ""),
        ] {
            assert_eq!(expand(text, lookup), want);
        }
    }

    #[test]
    fn services_are_told_in_both_forms() {
        let service = |ns: &str, name: &str, ip: &str| -> Service {
            serde_json::from_value(json!({"metadata": {"namespace": ns, "name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80, "name": "http", "protocol": "TCP"}]}})).unwrap()
        };
        let services = [
            service("n", "my-web", "10.0.0.5"),
            service("default", "kubernetes", "10.0.0.1"),
            service("n", "headless", "None"),
            service("m", "other", "10.0.0.9"),
        ];
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "n"}, "spec": {"containers": []}}))
                .unwrap();
        let vars = service_variables(&pod, &services);
        assert_eq!(vars["MY_WEB_SERVICE_HOST"], "10.0.0.5");
        assert_eq!(vars["MY_WEB_SERVICE_PORT_HTTP"], "80");
        assert_eq!(vars["MY_WEB_PORT_80_TCP"], "tcp://10.0.0.5:80");
        assert_eq!(vars["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert!(!vars.keys().any(|k| k.starts_with("HEADLESS") || k.starts_with("OTHER")));
    }
}
