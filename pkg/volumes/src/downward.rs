//! Pod fields and container resources as text, for volumes and environments.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

/// The value of a field path, as far as the pod's metadata and spec know it; status fields are `None`.
pub fn field(pod: &Pod, path: &str) -> Result<Option<String>, String> {
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            "metadata.labels" => pod.metadata.labels.as_ref(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(Some(map.and_then(|m| m.get(key)).cloned().unwrap_or_default()));
    }
    Ok(Some(match path {
        "metadata.name" => pod.metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => pod.metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" | "status.podIP" | "status.podIPs" => return Ok(None),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    }))
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` lines, sorted, with the value quoted as Go quotes strings.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quoted(v))).collect();
    lines.join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a resource field of a container, divided and rounded up. Without a limit the node's allocatable counts.
pub fn resource(
    container: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, String>,
) -> Result<String, String> {
    let path = selector.resource.as_str();
    let (list, name) =
        path.split_once('.').ok_or_else(|| format!("unsupported container resource : {path}"))?;
    let resources = container.resources.as_ref();
    let own = match list {
        "limits" => {
            resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name)).map(|q| q.0.as_str()).or_else(
                || {
                    matches!(name, "cpu" | "memory" | "ephemeral-storage")
                        .then(|| allocatable.get(name).map(String::as_str))
                        .flatten()
                },
            )
        }
        "requests" => {
            resources.and_then(|r| r.requests.as_ref()).and_then(|l| l.get(name)).map(|q| q.0.as_str())
        }
        _ => return Err(format!("unsupported container resource : {path}")),
    };
    let milli = own.map_or(Ok(0), milli)?;
    let divisor = match selector.divisor.as_ref().map(|Quantity(q)| q.as_str()) {
        None | Some("" | "0") => 1000,
        Some(text) => self::milli(text)?,
    };
    if divisor <= 0 {
        return Err(format!("{path}: the divisor must be positive"));
    }
    Ok(((milli + divisor - 1) / divisor).to_string())
}

/// A quantity in thousandths, rounded up.
pub fn milli(text: &str) -> Result<i128, String> {
    let bad = || format!("{text:?} is not a quantity");
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (mut multiplier, mut divisor): (i128, i128) = (1000, 1);
    match suffix {
        "" => {}
        "n" => divisor = 1_000_000_000,
        "u" => divisor = 1_000_000,
        "m" => divisor = 1000,
        "k" => multiplier *= 1000,
        "M" => multiplier *= 1_000_000,
        "G" => multiplier *= 1_000_000_000,
        "T" => multiplier *= 1_000_000_000_000,
        "P" => multiplier *= 1_000_000_000_000_000,
        "E" => multiplier *= 1_000_000_000_000_000_000,
        "Ki" => multiplier <<= 10,
        "Mi" => multiplier <<= 20,
        "Gi" => multiplier <<= 30,
        "Ti" => multiplier <<= 40,
        "Pi" => multiplier <<= 50,
        "Ei" => multiplier <<= 60,
        exponent => {
            let power: i32 =
                exponent.strip_prefix(['e', 'E']).and_then(|e| e.parse().ok()).ok_or_else(bad)?;
            let ten = 10i128.checked_pow(power.unsigned_abs().min(18)).ok_or_else(bad)?;
            if power < 0 { divisor = ten } else { multiplier *= ten }
        }
    }
    let (sign, digits) = number.strip_prefix('-').map_or((1, number.trim_start_matches('+')), |n| (-1, n));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 {
        return Err(bad());
    }
    let value: i128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    divisor *= 10i128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
    let product = value.checked_mul(multiplier).ok_or_else(bad)?;
    Ok(sign * ((product + divisor - 1) / divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_in_thousandths() {
        for (text, want) in [
            ("1", 1000),
            ("100m", 100),
            ("1.5", 1500),
            ("1Ki", 1_024_000),
            ("1e3", 1_000_000),
            ("0.5m", 1),
            ("128Mi", 134_217_728_000),
        ] {
            assert_eq!(milli(text), Ok(want), "{text}");
        }
        assert!(milli("x").is_err() && milli("").is_err() && milli("1Q").is_err());
    }

    #[test]
    fn fields_of_a_pod() {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p", "labels": {"b": "2", "a": "x\"y\n"}}}),
        )
        .unwrap();
        assert_eq!(field(&pod, "metadata.labels").unwrap().unwrap(), "a=\"x\\\"y\\n\"\nb=\"2\"");
        assert_eq!(field(&pod, "metadata.labels['b']").unwrap().unwrap(), "2");
        assert_eq!(field(&pod, "metadata.annotations['b']").unwrap().unwrap(), "");
        assert_eq!(field(&pod, "status.podIP").unwrap(), None);
        assert!(field(&pod, "spec.x").is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "resources": {"limits": {"cpu": "250m"}, "requests": {"memory": "100Mi"}}})).unwrap();
        let allocatable = BTreeMap::from([("memory".to_owned(), "1Gi".to_owned())]);
        let check = |resource: &str, divisor: &str, want: &str| {
            let selector = ResourceFieldSelector {
                resource: resource.into(),
                divisor: Some(Quantity(divisor.into())),
                container_name: None,
            };
            assert_eq!(super::resource(&container, &selector, &allocatable).unwrap(), want);
        };
        check("limits.cpu", "0", "1");
        check("limits.cpu", "1m", "250");
        check("requests.memory", "1Mi", "100");
        check("limits.memory", "1Mi", "1024");
        check("requests.cpu", "1", "0");
    }
}
