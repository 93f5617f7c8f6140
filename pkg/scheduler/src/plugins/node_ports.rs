//! NodePorts: host ports are taken once per node and address.

use super::{Change, Plugin, Prepared, admits_all};
use crate::cache::NodeInfo;
use crate::cycle::Refusal;
use crate::pod::HostPort;

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "NodePorts",
    weight: 0,
    admits: admits_all,
    prepare: |cycle| {
        let wanted = cycle.pod.ports.as_slice();
        (!wanted.is_empty()).then(|| Box::new(Ports { wanted }) as Box<dyn Prepared>)
    },
    wakes: |change, pod| match change {
        Change::Node { old, .. } => old.is_none(),
        Change::PodGone(gone) => pod.ports.iter().any(|p| gone.ports.iter().any(|q| p.conflicts(q))),
        _ => false,
    },
};

struct Ports<'a> {
    wanted: &'a [HostPort],
}

impl Prepared for Ports<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if self.wanted.iter().any(|p| node.ports.iter().any(|q| p.conflicts(q))) {
            return Err(Refusal::resolvable("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts() {
        let port =
            |ip: &str, protocol: &str, port: i32| HostPort { ip: ip.into(), protocol: protocol.into(), port };
        let taken = port("127.0.0.1", "TCP", 80);
        for (wanted, expected) in [
            (port("127.0.0.1", "TCP", 80), true),
            (port("0.0.0.0", "TCP", 80), true),
            (port("127.0.0.2", "TCP", 80), false),
            (port("127.0.0.1", "UDP", 80), false),
            (port("127.0.0.1", "TCP", 81), false),
        ] {
            assert_eq!(taken.conflicts(&wanted), expected, "{wanted:?}");
        }
    }
}
