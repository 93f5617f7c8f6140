//! Addresses and node ports of services: allocated while a service is written, released when it goes, and counted
//! anew from the stored services at start. Single stack, IPv4.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use knarr_machinery::field::{FieldError, Path};
use knarr_machinery::{ApiError, GroupKind};
use knarr_registry::{Settle, obj};
use parking_lot::Mutex;
use rand::Rng as _;
use serde_json::{Value, json};

/// The allocator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServiceAllocator {
    network: u32,
    size: u32,
    cidr: String,
    ports: (u16, u16),
    taken: Arc<Mutex<Taken>>,
}

/// What is in use, by whom (`namespace/name`).
#[derive(Debug, Default)]
struct Taken {
    addresses: HashMap<u32, String>,
    ports: HashMap<u16, String>,
}

/// What one write reserved.
#[derive(Debug, Default)]
struct Reserved {
    addresses: Vec<u32>,
    ports: Vec<u16>,
}

impl ServiceAllocator {
    /// An allocator over `10.43.0.0/16` and a range of ports.
    ///
    /// # Errors
    /// A text that is no IPv4 network with room for services.
    pub fn new(cidr: &str, ports: (u16, u16)) -> Result<Self, ApiError> {
        let bad = || ApiError::internal(format!("service-cidr \"{cidr}\" is no IPv4 network of /12 to /30"));
        let (address, length) = cidr.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let length: u32 = length.parse().map_err(|_| bad())?;
        if !(8..=30).contains(&length) {
            return Err(bad());
        }
        let size = 1_u32 << (32 - length);
        let network = u32::from(address) & !(size - 1);
        Ok(Self { network, size, cidr: cidr.to_string(), ports, taken: Arc::default() })
    }

    /// The address of the `kubernetes` service: the first of the network.
    pub fn first_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1)
    }

    /// Takes what a stored service holds; conflicts are told and left to the operator.
    pub fn adopt(&self, service: &Value) {
        let owner = owner(service);
        let mut taken = self.taken.lock();
        for address in addresses(service) {
            if let Some(other) = taken.addresses.insert(address, owner.clone()).filter(|o| *o != owner) {
                tracing::warn!(address = %Ipv4Addr::from(address), service = %owner, %other, "a cluster address is held twice");
            }
        }
        for port in node_ports(service) {
            taken.ports.insert(port, owner.clone());
        }
    }

    /// Releases what a deleted service held.
    pub fn release(&self, service: &Value) {
        let owner = owner(service);
        let mut taken = self.taken.lock();
        taken.addresses.retain(|_, o| *o != owner);
        taken.ports.retain(|_, o| *o != owner);
    }

    /// Fills and reserves the values of a service that is created or (with `old`) changed.
    ///
    /// # Errors
    /// 422 for values that are taken or out of range, 500 when nothing is left.
    pub fn allocate(&self, service: &mut Value, old: Option<&Value>) -> Result<Option<Settle>, ApiError> {
        if let Some(old) = old {
            keep_allocated(service, old);
        }
        let mut reserved = Reserved::default();
        let result = self.fill(service, &mut reserved);
        let allocator = self.clone();
        let undo = move |reserved: Reserved| {
            let mut taken = allocator.taken.lock();
            for address in reserved.addresses {
                taken.addresses.remove(&address);
            }
            for port in reserved.ports {
                taken.ports.remove(&port);
            }
        };
        if let Err(error) = result {
            undo(reserved);
            return Err(error);
        }
        // After the write the old values that the new form lacks are free.
        let freed = old.map(|old| self.no_longer_held(old, service));
        let allocator = self.clone();
        Ok(Some(Box::new(move |stored| {
            if !stored {
                return undo(reserved);
            }
            let Some((addresses, ports)) = freed else { return };
            let mut taken = allocator.taken.lock();
            for address in addresses {
                taken.addresses.remove(&address);
            }
            for port in ports {
                taken.ports.remove(&port);
            }
        })))
    }

    fn no_longer_held(&self, old: &Value, new: &Value) -> (Vec<u32>, Vec<u16>) {
        let (held, ports) = (addresses(new), node_ports(new));
        (
            addresses(old).into_iter().filter(|a| !held.contains(a)).collect(),
            node_ports(old).into_iter().filter(|p| !ports.contains(p)).collect(),
        )
    }

    fn fill(&self, service: &mut Value, reserved: &mut Reserved) -> Result<(), ApiError> {
        let name = obj::name(service).to_string();
        let owner = owner(service);
        let kind = text(service, "/spec/type");
        let invalid = |error: FieldError| ApiError::invalid(&GroupKind::new("", "Service"), &name, &[error]);
        if kind == "ExternalName" {
            return Ok(());
        }
        self.fill_address(service, &owner, reserved).map_err(invalid)?;
        default_families(service);
        let wants_ports = match kind.as_str() {
            "NodePort" => true,
            "LoadBalancer" => {
                service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false))
            }
            _ => false,
        };
        self.fill_ports(service, &owner, wants_ports, reserved).map_err(invalid)
    }

    fn fill_address(
        &self,
        service: &mut Value,
        owner: &str,
        reserved: &mut Reserved,
    ) -> Result<(), FieldError> {
        let path = Path::new("spec").child("clusterIPs").index(0);
        let mut address = text(service, "/spec/clusterIP");
        if address.is_empty() {
            address = text(service, "/spec/clusterIPs/0");
        }
        let mut taken = self.taken.lock();
        if address.is_empty() {
            let free = self.free_address(&taken).ok_or_else(|| {
                FieldError::internal(&path, "failed to allocate a serviceIP: range is full")
            })?;
            taken.addresses.insert(free, owner.to_string());
            reserved.addresses.push(free);
            address = Ipv4Addr::from(free).to_string();
        } else if address != "None"
            && let Ok(parsed) = address.parse::<Ipv4Addr>()
        {
            let number = u32::from(parsed);
            let invalid = |text: String| {
                let detail = format!("failed to allocate IP {address}: {text}");
                FieldError::invalid(&path, json!([address]), detail)
            };
            if number <= self.network || number >= self.network + self.size - 1 {
                return Err(invalid(format!(
                    "the provided IP ({address}) is not in the valid range. The range of valid IPs is {}",
                    self.cidr
                )));
            }
            match taken.addresses.get(&number) {
                Some(holder) if holder == owner => {}
                Some(_) => return Err(invalid("provided IP is already allocated".into())),
                None => {
                    taken.addresses.insert(number, owner.to_string());
                    reserved.addresses.push(number);
                }
            }
        }
        drop(taken);
        obj::set_at(service, "spec.clusterIP", address.clone().into());
        obj::set_at(service, "spec.clusterIPs", json!([address]));
        Ok(())
    }

    /// Upstream keeps the first part of the range for addresses that users choose: take from the rest first.
    fn free_address(&self, taken: &Taken) -> Option<u32> {
        let usable = self.size - 2;
        let reserved = (usable / 16).clamp(16.min(usable / 2), 256);
        let upper = usable - reserved;
        let start = rand::rng().random_range(0..upper.max(1));
        let dynamic = (0..upper).map(|i| self.network + 1 + reserved + (start + i) % upper);
        let fixed = (1..=reserved).map(|i| self.network + i);
        dynamic.chain(fixed).find(|a| !taken.addresses.contains_key(a))
    }

    fn fill_ports(
        &self,
        service: &mut Value,
        owner: &str,
        wanted: bool,
        reserved: &mut Reserved,
    ) -> Result<(), FieldError> {
        let own: Vec<u16> = node_ports(service);
        let ports = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        let mut by_number: HashMap<i64, u16> = HashMap::new();
        for (i, port) in ports.into_iter().flatten().enumerate() {
            let path = Path::new("spec").child("ports").index(i).child("nodePort");
            let given = port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) as u16;
            if given != 0 {
                self.take_port(given, owner, &path, reserved)?;
                continue;
            }
            if !wanted {
                continue;
            }
            // The same port over TCP and UDP gets the same node port.
            let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
            let chosen = match by_number.get(&number) {
                Some(chosen) => *chosen,
                None => {
                    let free = self.free_port(&own).ok_or_else(|| {
                        FieldError::internal(&path, "failed to allocate a nodePort: range is full")
                    })?;
                    self.take_port(free, owner, &path, reserved)?;
                    free
                }
            };
            by_number.insert(number, chosen);
            obj::map_mut(port).insert("nodePort".into(), chosen.into());
        }
        let health = service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64).unwrap_or(0);
        let local = text(service, "/spec/externalTrafficPolicy") == "Local"
            && text(service, "/spec/type") == "LoadBalancer";
        let path = Path::new("spec").child("healthCheckNodePort");
        if local && health == 0 {
            let free = self
                .free_port(&own)
                .ok_or_else(|| FieldError::internal(&path, "failed to allocate a nodePort: range is full"))?;
            self.take_port(free, owner, &path, reserved)?;
            obj::set_at(service, "spec.healthCheckNodePort", free.into());
        } else if health != 0 {
            self.take_port(health as u16, owner, &path, reserved)?;
        }
        Ok(())
    }

    fn take_port(
        &self,
        port: u16,
        owner: &str,
        path: &Path,
        reserved: &mut Reserved,
    ) -> Result<(), FieldError> {
        let (low, high) = self.ports;
        if !(low..=high).contains(&port) {
            let text =
                format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
            return Err(FieldError::invalid(path, port, text));
        }
        let mut taken = self.taken.lock();
        match taken.ports.get(&port) {
            Some(holder) if holder == owner => Ok(()),
            Some(_) => Err(FieldError::invalid(path, port, "provided port is already allocated")),
            None => {
                taken.ports.insert(port, owner.to_string());
                reserved.ports.push(port);
                Ok(())
            }
        }
    }

    fn free_port(&self, own: &[u16]) -> Option<u16> {
        let (low, high) = self.ports;
        let count = u32::from(high) - u32::from(low) + 1;
        let start = rand::rng().random_range(0..count);
        let taken = self.taken.lock();
        (0..count)
            .map(|i| low + ((start + i) % count) as u16)
            .find(|p| !taken.ports.contains_key(p) && !own.contains(p))
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_string()
}

fn owner(service: &Value) -> String {
    format!("{}/{}", obj::namespace(service), obj::name(service))
}

fn addresses(service: &Value) -> Vec<u32> {
    if text(service, "/spec/type") == "ExternalName" {
        return Vec::new();
    }
    let all = obj::strings(service.pointer("/spec/clusterIPs"));
    let one = text(service, "/spec/clusterIP");
    let mut found: Vec<u32> = all
        .iter()
        .chain(std::iter::once(&one))
        .filter_map(|a| a.parse::<Ipv4Addr>().ok())
        .map(u32::from)
        .collect();
    found.dedup();
    found
}

fn node_ports(service: &Value) -> Vec<u16> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    ports
        .filter_map(|p| p.get("nodePort").and_then(Value::as_u64))
        .chain(service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64))
        .filter(|p| *p != 0)
        .filter_map(|p| u16::try_from(p).ok())
        .collect()
}

/// An update that leaves allocated values out keeps them, as upstream.
fn keep_allocated(service: &mut Value, old: &Value) {
    let (now, before) = (text(service, "/spec/type"), text(old, "/spec/type"));
    let has_address = |kind: &str| kind != "ExternalName";
    if has_address(&now) && has_address(&before) {
        for field in ["clusterIP", "clusterIPs"] {
            let empty = match service.pointer(&format!("/spec/{field}")) {
                None | Some(Value::Null) => true,
                Some(Value::String(s)) => s.is_empty(),
                Some(Value::Array(a)) => a.is_empty(),
                Some(_) => false,
            };
            if let (true, Some(value)) = (empty, old.pointer(&format!("/spec/{field}"))) {
                obj::set_at(service, &format!("spec.{field}"), value.clone());
            }
        }
    }
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if !(has_ports(&now) && has_ports(&before)) {
        return;
    }
    let old_ports = old.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let used = node_ports(service);
    for port in service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) != 0 {
            continue;
        }
        let same =
            |o: &&Value| o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol");
        if let Some(node_port) = old_ports.iter().find(same).and_then(|o| o.get("nodePort"))
            && !used.iter().any(|u| node_port.as_u64() == Some(u64::from(*u)))
        {
            let node_port = node_port.clone();
            obj::map_mut(port).insert("nodePort".into(), node_port);
        }
    }
}

fn default_families(service: &mut Value) {
    if service.pointer("/spec/ipFamilies").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        obj::set_at(service, "spec.ipFamilies", json!(["IPv4"]));
    }
    if text(service, "/spec/ipFamilyPolicy").is_empty() {
        obj::set_at(service, "spec.ipFamilyPolicy", "SingleStack".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec})
    }

    #[test]
    fn allocates_and_refuses() {
        let a = ServiceAllocator::new("10.43.0.0/29", (30000, 30001)).unwrap();
        let mut one = service(
            "one",
            json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}]}),
        );
        a.allocate(&mut one, None).unwrap().unwrap()(true);
        let address = one["spec"]["clusterIP"].as_str().unwrap().to_string();
        assert!(address.starts_with("10.43.0."));
        assert_eq!(one["spec"]["ports"][0]["nodePort"], one["spec"]["ports"][1]["nodePort"]);
        assert_eq!(one["spec"]["ipFamilies"], json!(["IPv4"]));
        let mut two = service("two", json!({"clusterIP": address}));
        let error = a.allocate(&mut two, None).err().unwrap();
        assert!(error.message.contains("provided IP is already allocated"), "{}", error.message);
        let mut two = service("two", json!({"clusterIP": "1.2.3.4"}));
        assert!(a.allocate(&mut two, None).err().unwrap().message.contains("not in the valid range"));
        let mut two = service("two", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}));
        assert!(
            a.allocate(&mut two, None)
                .err()
                .unwrap()
                .message
                .contains("The range of valid ports is 30000-30001")
        );
        let mut none = service("none", json!({"clusterIP": "None"}));
        a.allocate(&mut none, None).unwrap().unwrap()(true);
        assert_eq!(none["spec"]["clusterIPs"], json!(["None"]));

        // An update that leaves the values out keeps them; one that drops the type frees the port.
        let mut again = service("one", json!({"type": "NodePort", "ports": [{"port": 80}]}));
        a.allocate(&mut again, Some(&one)).unwrap().unwrap()(true);
        assert_eq!(again["spec"]["clusterIP"].as_str().unwrap(), address);
        assert_eq!(again["spec"]["ports"][0]["nodePort"], one["spec"]["ports"][0]["nodePort"]);
        let mut plain =
            service("one", json!({"type": "ClusterIP", "clusterIP": address, "ports": [{"port": 80}]}));
        a.allocate(&mut plain, Some(&again)).unwrap().unwrap()(true);
        assert!(a.taken.lock().ports.is_empty());
        a.release(&plain);
        assert!(a.taken.lock().addresses.is_empty());
        // A write that fails leaves nothing behind.
        let mut lost = service("lost", json!({}));
        a.allocate(&mut lost, None).unwrap().unwrap()(false);
        assert!(a.taken.lock().addresses.is_empty());
    }
}
