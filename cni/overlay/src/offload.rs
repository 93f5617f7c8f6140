//! Where a device must not be trusted with the checksums of packets in a tunnel. Entry point: [`checksum_bug`].
//!
//! Two bugs make packets in a VXLAN tunnel arrive with wrong checksums, so that they are dropped without a word:
//!
//! * Linux before 5.7 ("netfilter: nat: never update the UDP checksum when it's 0"): a packet that is
//!   masqueraded inside the tunnel and whose outer UDP header passes address translation again gets a wrong outer
//!   checksum when the device computes checksums. Services on other nodes' pods time out.
//! * The driver `vmxnet3` (VMware) computes the checksum of the inner packet wrongly on VXLAN ports that it does
//!   not know, which 8472 is.
//!
//! There the kernel computes the checksums on the tunnel's device. It costs throughput (large segments are cut
//! before the tunnel), so elsewhere the offload stays as the kernel has it.

/// Why checksums are computed by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumBug {
    /// Linux before 5.7.
    DoubleTranslation,
    /// A driver that cannot do it in tunnels.
    Driver(&'static str),
}

/// Drivers that compute checksums of tunnelled packets wrongly; sorted.
const DRIVERS: &[&str] = &["vmxnet3"];
/// The first release without the bug of double translation.
const FIXED: (u32, u32) = (5, 7);

/// Major and minor number of a kernel release such as "5.4.0-150-generic".
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The bug that a host with this kernel release and this driver of the link between nodes has.
pub fn checksum_bug(release: &str, driver: &str) -> Option<ChecksumBug> {
    if let Some(name) = DRIVERS.iter().find(|d| **d == driver) {
        return Some(ChecksumBug::Driver(name));
    }
    version(release).is_some_and(|v| v < FIXED).then_some(ChecksumBug::DoubleTranslation)
}
