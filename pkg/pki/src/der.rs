//! The little DER that certificates are made of. Subjects keep every attribute, also repeated ones: a client's groups.

/// One element.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len() - 1);
        out.push(0x80 | (bytes.len() - first) as u8);
        out.extend_from_slice(&bytes[first..]);
    }
    out.extend_from_slice(content);
    out
}

/// SEQUENCE of elements.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

/// OCTET STRING.
pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    element(0x04, content)
}

/// Non-negative INTEGER from big-endian bytes.
pub(crate) fn integer(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len().saturating_sub(1));
    let mut content = Vec::with_capacity(bytes.len() + 1);
    if bytes.get(first).is_none_or(|b| *b >= 0x80) {
        content.push(0);
    }
    content.extend_from_slice(bytes.get(first..).unwrap_or_default());
    element(0x02, &content)
}

/// BIT STRING whose last `unused` bits do not count.
pub(crate) fn bits(unused: u8, content: &[u8]) -> Vec<u8> {
    let mut all = vec![unused];
    all.extend_from_slice(content);
    element(0x03, &all)
}

/// OBJECT IDENTIFIER.
pub(crate) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let head = arcs.first().copied().unwrap_or(0) * 40 + arcs.get(1).copied().unwrap_or(0);
    for arc in std::iter::once(head).chain(arcs.iter().skip(2).copied()) {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.extend(groups.iter().rev());
    }
    element(0x06, &content)
}

/// A point in time, seconds since 1970: UTCTime until 2049, GeneralizedTime from then on, as RFC 5280 wants.
pub(crate) fn instant(seconds: i64) -> Vec<u8> {
    let stamp = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let at = stamp.to_zoned(jiff::tz::TimeZone::UTC);
    if at.year() < 2050 {
        element(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        element(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

/// A name: organizations in order, then the common name, each a UTF8String.
pub(crate) fn name(organizations: &[String], common_name: &str) -> Vec<u8> {
    let attribute = |arc: u64, value: &str| {
        element(0x31, &sequence(&[&oid(&[2, 5, 4, arc]), &element(0x0c, value.as_bytes())]))
    };
    let mut parts: Vec<Vec<u8>> = organizations.iter().map(|o| attribute(10, o)).collect();
    if !common_name.is_empty() {
        parts.push(attribute(3, common_name));
    }
    element(0x30, &parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements() {
        assert_eq!(integer(&[0, 0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0]), [2, 1, 0]);
        assert_eq!(oid(&[1, 2, 840, 10045, 4, 3, 2]), [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        assert_eq!(element(4, &[7; 200])[..4], [4, 0x81, 200, 7]);
        assert_eq!(element(4, &[7; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(&instant(0)[2..], b"700101000000Z");
        assert_eq!(&instant(2_524_608_000)[2..], b"20500101000000Z");
    }
}
