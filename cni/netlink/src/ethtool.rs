//! What only the old ioctl interface of drivers tells and sets on every kernel. Entry points: [`driver`],
//! [`set_tx_checksum`].
//!
//! The netlink interface for the same came with Linux 5.7, and the kernels before it are those that need the
//! setting most. Works in the network namespace of the calling thread.

use std::os::fd::AsRawFd;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{Driver, Offload};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
/// Length of an interface name with its end mark.
const NAME_BYTES: usize = 16;

/// `struct ifreq` as SIOCETHTOOL reads it: a name and a pointer, in 40 bytes.
#[repr(C)]
struct Request<T> {
    name: [u8; NAME_BYTES],
    data: *mut T,
    padding: [u8; 16],
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    expansion: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// Performs one command on the structure that begins with its number.
fn command<T>(operation: &'static str, link: &str, data: &mut T) -> Result<()> {
    let mut name = [0; NAME_BYTES];
    if link.len() >= NAME_BYTES {
        return Err(Error::new(operation, link, ErrorKind::Other, "longer than an interface name can be"));
    }
    name[..link.len()].copy_from_slice(link.as_bytes());
    let mut request = Request { name, data: std::ptr::from_mut(data), padding: [0; 16] };
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"));
    let socket = socket.map_err(|e| Error::io(operation, link, &e))?;
    // SAFETY: the request and the structure it points to live until the call returns, have the kernel's layout
    // and sizes, and nothing else refers to them.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, std::ptr::from_mut(&mut request)) };
    if result == 0 {
        return Ok(());
    }
    let e = std::io::Error::last_os_error();
    let kind = match e.raw_os_error() {
        Some(libc::ENODEV) => ErrorKind::NotFound,
        Some(libc::EOPNOTSUPP) => ErrorKind::Unsupported,
        Some(libc::EPERM) => ErrorKind::Denied,
        _ => ErrorKind::Other,
    };
    Err(Error::new(operation, link, kind, e.to_string()))
}

/// A link's driver and who computes checksums.
pub(crate) fn driver(link: &str) -> Result<Driver> {
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        expansion: [0; 32],
        reserved: [0; 12],
        counts: [0; 5],
    };
    command("read driver of link", link, &mut info)?;
    let name = info.driver.split(|b| *b == 0).next().unwrap_or_default();
    let mut value = Value { command: ETHTOOL_GTXCSUM, data: 0 };
    command("read checksum offload of link", link, &mut value)?;
    let tx_checksum = if value.data == 0 { Offload::Off } else { Offload::On };
    Ok(Driver { name: String::from_utf8_lossy(name).into_owned(), tx_checksum })
}

/// Switches the device's computing of checksums.
pub(crate) fn set_tx_checksum(link: &str, offload: Offload) -> Result<()> {
    let mut value = Value { command: ETHTOOL_STXCSUM, data: u32::from(offload == Offload::On) };
    command("set checksum offload of link", link, &mut value)
}
