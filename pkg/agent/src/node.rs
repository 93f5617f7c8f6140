//! Who this node is: its name and its address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crate::Error;

/// The host name in lower case, as the node is called when no name is given.
///
/// # Errors
/// A host name that cannot name a node.
pub fn host_name() -> Result<String, Error> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let fits = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if fits {
        return Ok(name);
    }
    Err(Error::Address(format!("host name {name:?} cannot name a node; give one with --node-name")))
}

/// The address of the interface with the default route, else of the first interface that is up and not loopback.
///
/// # Errors
/// No such interface.
pub fn address() -> Result<IpAddr, Error> {
    if let Some(ip) = routed_address() {
        return Ok(ip);
    }
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|e| Error::Address(e.to_string()))?;
    for interface in interfaces {
        let flags = interface.flags;
        let up = flags.contains(nix::net::if_::InterfaceFlags::IFF_UP)
            && !flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK);
        let own =
            interface.interface_name.starts_with("knarr") || interface.interface_name.starts_with("veth");
        let ip = interface.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip());
        if let Some(ip) = ip
            && up
            && !own
            && !ip.is_link_local()
        {
            return Ok(IpAddr::V4(ip));
        }
    }
    Err(Error::Address("no interface is up besides loopback; give an address with --node-ip".to_string()))
}

/// The source address the kernel would choose for a far destination. Connecting a UDP socket sends nothing.
fn routed_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).ok()?;
    // TEST-NET-1 (RFC 5737): never a real host, so only a default route matches.
    socket.connect(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9))).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}
