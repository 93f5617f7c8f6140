//! The wire format of protobuf: tags, varints, lengths.

use super::ProtoError;

/// The value of a field before its type is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    /// Bytes and the offset of the first.
    Bytes(&'a [u8], usize),
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WireField<'a> {
    pub tag: u32,
    /// Offset of the field in the body.
    pub offset: usize,
    pub value: Payload<'a>,
}

impl<'a> WireField<'a> {
    fn mismatch(&self, want: &str) -> ProtoError {
        let got = match self.value {
            Payload::Varint(_) => "a varint",
            Payload::Fixed64(_) => "a 64-bit number",
            Payload::Fixed32 => "a 32-bit number",
            Payload::Bytes(..) => "a length-delimited value",
        };
        ProtoError::decode(
            self.offset,
            format!("field {} of the message is {got}, expected {want}", self.tag),
        )
    }

    /// The bytes and their offset.
    pub(crate) fn payload(&self) -> Result<(&'a [u8], usize), ProtoError> {
        match self.value {
            Payload::Bytes(b, at) => Ok((b, at)),
            _ => Err(self.mismatch("a length-delimited value")),
        }
    }

    pub(crate) fn reader(&self) -> Result<Reader<'a>, ProtoError> {
        let (bytes, at) = self.payload()?;
        Ok(Reader::new(bytes, at))
    }

    pub(crate) fn string(&self) -> Result<&'a str, ProtoError> {
        let (bytes, at) = self.payload()?;
        std::str::from_utf8(bytes)
            .map_err(|e| ProtoError::decode(at + e.valid_up_to(), "the string is not valid UTF-8"))
    }

    pub(crate) fn varint(&self) -> Result<u64, ProtoError> {
        match self.value {
            Payload::Varint(n) => Ok(n),
            _ => Err(self.mismatch("a varint")),
        }
    }

    pub(crate) fn fixed64(&self) -> Result<u64, ProtoError> {
        match self.value {
            Payload::Fixed64(n) => Ok(n),
            _ => Err(self.mismatch("a 64-bit number")),
        }
    }
}

/// Reads the fields of one message.
pub(crate) struct Reader<'a> {
    buf: &'a [u8],
    pos: usize,
    /// Offset of `buf` in the body.
    base: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(buf: &'a [u8], base: usize) -> Self {
        Self { buf, pos: 0, base }
    }

    fn offset(&self) -> usize {
        self.base + self.pos
    }

    /// Whether everything is read.
    pub(crate) fn is_empty(&self) -> bool {
        self.pos >= self.buf.len()
    }

    /// One varint.
    pub(crate) fn varint(&mut self) -> Result<u64, ProtoError> {
        let start = self.offset();
        let mut n = 0u64;
        for shift in (0..70).step_by(7) {
            let Some(byte) = self.buf.get(self.pos) else {
                return Err(ProtoError::decode(self.offset(), "the body ends inside a number"));
            };
            self.pos += 1;
            if shift == 63 && *byte > 1 {
                break;
            }
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(ProtoError::decode(start, "a number of more than 64 bits"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtoError> {
        let rest = &self.buf[self.pos.min(self.buf.len())..];
        match usize::try_from(length).ok().and_then(|n| rest.get(..n)) {
            Some(bytes) => {
                self.pos += bytes.len();
                Ok(bytes)
            }
            None => Err(ProtoError::decode(
                self.base + self.buf.len(),
                format!("unexpected end: {length} bytes announced, {} left", rest.len()),
            )),
        }
    }

    /// The next field, `None` at the end of the message.
    pub(crate) fn field(&mut self) -> Result<Option<WireField<'a>>, ProtoError> {
        self.noted_field().map_err(|mut e| {
            e.path.clear();
            e
        })
    }

    /// As [`Self::field`]; an error inside a field's value notes the field's number.
    pub(crate) fn noted_field(&mut self) -> Result<Option<WireField<'a>>, ProtoError> {
        let offset = self.offset();
        let Some(key) = self.key()? else {
            return Ok(None);
        };
        let tag = match u32::try_from(key >> 3) {
            Ok(tag) if tag != 0 => tag,
            _ => {
                return Err(ProtoError::decode(offset, format!("{} is no field number", key >> 3)));
            }
        };
        self.value(tag, key & 7, offset).map(Some)
    }

    /// The next key, `None` at the end.
    fn key(&mut self) -> Result<Option<u64>, ProtoError> {
        if self.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    fn value(&mut self, tag: u32, kind: u64, offset: usize) -> Result<WireField<'a>, ProtoError> {
        let value = match kind {
            0 => Payload::Varint(self.varint().map_err(|e| e.note(tag))?),
            1 => {
                let bytes = self.take(8).map_err(|e| e.note(tag))?;
                let mut word = [0; 8];
                word.copy_from_slice(bytes);
                Payload::Fixed64(u64::from_le_bytes(word))
            }
            2 => {
                let length = self.varint().map_err(|e| e.note(tag))?;
                let at = self.offset();
                Payload::Bytes(self.take(length).map_err(|e| e.note(tag))?, at)
            }
            5 => {
                self.take(4).map_err(|e| e.note(tag))?;
                Payload::Fixed32
            }
            other => {
                return Err(ProtoError::decode(
                    offset,
                    format!("field {tag} has the unknown wire type {other}"),
                ));
            }
        };
        Ok(WireField { tag, offset, value })
    }
}

impl ProtoError {
    /// Marks the error as one of this field's value; [`super::decode`] replaces the mark by the field's name.
    fn note(mut self, tag: u32) -> Self {
        self.path = format!("#{tag}");
        self
    }

    /// The field number of [`Self::note`].
    pub(crate) fn noted(&self) -> Option<u32> {
        self.path.strip_prefix('#')?.parse().ok()
    }
}

/// Writes a message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buf: Vec<u8>,
}

impl Writer {
    pub(crate) fn with_capacity(n: usize) -> Self {
        Self { buf: Vec::with_capacity(n) }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.buf
    }

    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    /// Drops what was written after `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.buf.truncate(len);
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.buf.push((n as u8) | 0x80);
            n >>= 7;
        }
        self.buf.push(n as u8);
    }

    /// A varint field.
    pub(crate) fn varint(&mut self, tag: u32, n: u64) {
        self.number(u64::from(tag) << 3);
        self.number(n);
    }

    /// A 64-bit field.
    pub(crate) fn fixed64(&mut self, tag: u32, n: u64) {
        self.number(u64::from(tag) << 3 | 1);
        self.buf.extend_from_slice(&n.to_le_bytes());
    }

    /// A length-delimited field.
    pub(crate) fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        self.number(u64::from(tag) << 3 | 2);
        self.number(bytes.len() as u64);
        self.buf.extend_from_slice(bytes);
    }

    /// Begins a message field; [`Self::end`] takes what this returns.
    pub(crate) fn begin(&mut self, tag: u32) -> usize {
        self.number(u64::from(tag) << 3 | 2);
        self.buf.push(0);
        self.buf.len()
    }

    /// Ends a message field: writes the length that is known only now.
    pub(crate) fn end(&mut self, start: usize) {
        let length = self.buf.len() - start;
        if length < 0x80 {
            self.buf[start - 1] = length as u8;
            return;
        }
        let width = (usize::BITS - length.leading_zeros()).div_ceil(7) as usize;
        self.buf.resize(self.buf.len() + width - 1, 0);
        self.buf.copy_within(start..start + length, start + width - 1);
        let mut rest = length;
        for (i, byte) in self.buf[start - 1..start - 1 + width].iter_mut().enumerate() {
            *byte = (rest & 0x7f) as u8 | if i + 1 < width { 0x80 } else { 0 };
            rest >>= 7;
        }
    }
}
