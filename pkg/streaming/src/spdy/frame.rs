//! Frames and their bytes. One compression context per direction lives as long as the connection.

use super::{Error, dictionary};
use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const FIN: u8 = 1;

/// Header blocks may not grow beyond this when decompressed.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// Control frames may not be longer.
pub(super) const MAX_CONTROL_BYTES: usize = 1 << 20;

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RstStatus(pub u32);

impl RstStatus {
    /// The frame breaks the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// No such stream.
    pub const INVALID_STREAM: Self = Self(2);
    /// Not accepted.
    pub const REFUSED_STREAM: Self = Self(3);
    /// No longer wanted.
    pub const CANCEL: Self = Self(5);
}

/// Header names (lower case) and values, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// From pairs; names are lowered.
    pub fn new<N: AsRef<str>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(pairs.into_iter().map(|(n, v)| (n.as_ref().to_ascii_lowercase(), v.into())).collect())
    }

    /// The first value of a name, in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Stream.
        stream: u32,
        /// Headers.
        headers: Headers,
        /// Whether the sender is done.
        fin: bool,
    },
    /// Accepts a stream.
    SynReply {
        /// Stream.
        stream: u32,
        /// Headers.
        headers: Headers,
        /// Whether the sender is done.
        fin: bool,
    },
    /// Ends a stream in both directions.
    Rst {
        /// Stream.
        stream: u32,
        /// Why.
        status: RstStatus,
    },
    /// Settings: flags, identifier, value.
    Settings(Vec<(u8, u32, u32)>),
    /// To be echoed.
    Ping(u32),
    /// No more streams.
    GoAway {
        /// The last stream that was looked at.
        last: u32,
        /// Why, 0 is well.
        status: u32,
    },
    /// More headers.
    Headers {
        /// Stream.
        stream: u32,
        /// Headers.
        headers: Headers,
        /// Whether the sender is done.
        fin: bool,
    },
    /// Grants bytes.
    WindowUpdate {
        /// Stream, 0 for the connection.
        stream: u32,
        /// How many more.
        delta: u32,
    },
    /// Bytes.
    Data {
        /// Stream.
        stream: u32,
        /// The bytes.
        payload: Bytes,
        /// Whether the sender is done.
        fin: bool,
    },
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Control { kind: u16, flags: u8, length: usize },
    Data { stream: u32, fin: bool, length: usize },
}

impl Head {
    pub(super) fn parse(bytes: [u8; 8]) -> Result<Self, Error> {
        let [a, b, c, d, flags, x, y, z] = bytes;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Ok(Self::Data { stream, fin: flags & FIN != 0, length });
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(Error::Protocol(format!("version {version} of a frame, expected {VERSION}")));
        }
        if length > MAX_CONTROL_BYTES {
            return Err(Error::Protocol(format!("a control frame of {length} bytes")));
        }
        Ok(Self::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

/// Frames to bytes.
pub struct Encoder {
    deflate: Compress,
    /// What stopped the dictionary from being set; reported with the first header block.
    broken: Option<String>,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        let set = deflate.set_dictionary(&dictionary::bytes());
        Self { deflate, broken: set.err().map(|error| error.to_string()) }
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&((u32::from(flags) << 24) | payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame.freeze()
}

fn numbers(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

impl Encoder {
    /// The bytes of a frame. Frames must be encoded in the order in which they are sent.
    pub fn encode(&mut self, frame: &Frame) -> Result<Bytes, Error> {
        let flag = |fin: &bool| if *fin { FIN } else { 0 };
        Ok(match frame {
            Frame::SynStream { stream, headers, fin } => {
                let mut payload = numbers(&[*stream, 0]);
                payload.extend_from_slice(&[0, 0]);
                payload.extend(self.headers(headers)?);
                control(SYN_STREAM, flag(fin), &payload)
            }
            Frame::SynReply { stream, headers, fin } | Frame::Headers { stream, headers, fin } => {
                let reply = matches!(frame, Frame::SynReply { .. });
                let mut payload = numbers(&[*stream]);
                payload.extend(self.headers(headers)?);
                control(if reply { SYN_REPLY } else { HEADERS }, flag(fin), &payload)
            }
            Frame::Rst { stream, status } => control(RST_STREAM, 0, &numbers(&[*stream, status.0])),
            Frame::Settings(settings) => {
                let mut payload = numbers(&[settings.len() as u32]);
                for (flags, id, value) in settings {
                    payload.extend(numbers(&[(u32::from(*flags) << 24) | id, *value]));
                }
                control(SETTINGS, 0, &payload)
            }
            Frame::Ping(id) => control(PING, 0, &numbers(&[*id])),
            Frame::GoAway { last, status } => control(GOAWAY, 0, &numbers(&[*last, *status])),
            Frame::WindowUpdate { stream, delta } => control(WINDOW_UPDATE, 0, &numbers(&[*stream, *delta])),
            Frame::Data { stream, payload, fin } => {
                let mut bytes = BytesMut::with_capacity(8 + payload.len());
                bytes.extend_from_slice(&numbers(&[
                    *stream,
                    (u32::from(flag(fin)) << 24) | payload.len() as u32,
                ]));
                bytes.extend_from_slice(payload);
                bytes.freeze()
            }
        })
    }

    fn headers(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        if let Some(reason) = &self.broken {
            return Err(Error::Protocol(format!("header compression: {reason}")));
        }
        let mut plain = numbers(&[headers.0.len() as u32]);
        for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(numbers(&[text.len() as u32]));
            plain.extend_from_slice(text.as_bytes());
        }
        let begin = self.deflate.total_in();
        let mut packed = Vec::with_capacity(plain.len() + 64);
        loop {
            let rest = &plain[(self.deflate.total_in() - begin) as usize..];
            let done = self.deflate.compress_vec(rest, &mut packed, FlushCompress::Sync);
            done.map_err(|error| Error::Protocol(format!("header compression: {error}")))?;
            // Room left over means that everything has been flushed.
            if packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(256);
        }
    }
}

/// Bytes to control frames.
pub struct Decoder {
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        match self.0.split_at_checked(n) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(Error::Protocol("a frame that ends too early".into())),
        }
    }

    fn number(&mut self) -> Result<u32, Error> {
        let bytes = self.take(4)?.try_into().unwrap_or_default();
        Ok(u32::from_be_bytes(bytes))
    }

    fn stream(&mut self) -> Result<u32, Error> {
        Ok(self.number()? & 0x7fff_ffff)
    }

    fn text(&mut self) -> Result<String, Error> {
        let length = self.number()? as usize;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}

impl Decoder {
    /// A control frame from its payload; None for kinds that are to be ignored.
    pub fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Option<Frame>, Error> {
        let mut fields = Fields(payload);
        let fin = flags & FIN != 0;
        Ok(Some(match kind {
            SYN_STREAM => {
                let stream = fields.stream()?;
                fields.take(6)?;
                Frame::SynStream { stream, headers: self.headers(fields.0)?, fin }
            }
            SYN_REPLY => Frame::SynReply { stream: fields.stream()?, headers: self.headers(fields.0)?, fin },
            HEADERS => Frame::Headers { stream: fields.stream()?, headers: self.headers(fields.0)?, fin },
            RST_STREAM => Frame::Rst { stream: fields.stream()?, status: RstStatus(fields.number()?) },
            SETTINGS => {
                let count = fields.number()?;
                let mut settings = Vec::new();
                for _ in 0..count {
                    let id = fields.number()?;
                    settings.push(((id >> 24) as u8, id & 0x00ff_ffff, fields.number()?));
                }
                Frame::Settings(settings)
            }
            PING => Frame::Ping(fields.number()?),
            GOAWAY => Frame::GoAway { last: fields.stream()?, status: fields.number()? },
            WINDOW_UPDATE => Frame::WindowUpdate { stream: fields.stream()?, delta: fields.stream()? },
            _ => return Ok(None),
        }))
    }

    /// A whole frame from its bytes (as tests and traces have them).
    pub fn frame(&mut self, bytes: &[u8]) -> Result<Option<Frame>, Error> {
        let mut fields = Fields(bytes);
        let head = fields.take(8)?.try_into().unwrap_or_default();
        match Head::parse(head)? {
            Head::Control { kind, flags, length } => {
                let payload = fields.take(length)?;
                self.control(kind, flags, payload)
            }
            Head::Data { stream, fin, length } => {
                let payload = Bytes::copy_from_slice(fields.take(length)?);
                Ok(Some(Frame::Data { stream, payload, fin }))
            }
        }
    }

    fn headers(&mut self, packed: &[u8]) -> Result<Headers, Error> {
        let plain = self.inflate(packed)?;
        let mut fields = Fields(&plain);
        let count = fields.number()?;
        let mut headers = Headers::default();
        for _ in 0..count {
            headers.0.push((fields.text()?, fields.text()?));
        }
        Ok(headers)
    }

    fn inflate(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Protocol(format!("header compression: {error}"));
        let mut plain = Vec::with_capacity(1024);
        loop {
            let before = (self.inflate.total_in(), plain.len());
            let done = self.inflate.decompress_vec(packed, &mut plain, FlushDecompress::Sync);
            packed = &packed[(self.inflate.total_in() - before.0) as usize..];
            match done {
                Ok(Status::StreamEnd) => return Err(failed(&"the stream ends")),
                Ok(_) if packed.is_empty() && plain.len() < plain.capacity() => return Ok(plain),
                Ok(_) if plain.len() >= MAX_HEADER_BYTES => {
                    return Err(failed(&"too many headers"));
                }
                Ok(_) if plain.len() < plain.capacity() && before.0 == self.inflate.total_in() => {
                    return Err(failed(&"no progress"));
                }
                Ok(_) => plain.reserve(4096),
                Err(error) if error.needs_dictionary().is_some() => {
                    let set = self.inflate.set_dictionary(&dictionary::bytes());
                    set.map_err(|error| failed(&error))?;
                }
                Err(error) => return Err(failed(&error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn golden_bytes() {
        for (frame, bytes) in [
            (Frame::Ping(7), "80030006 00000004 00000007"),
            (Frame::Rst { stream: 5, status: RstStatus::CANCEL }, "80030003 00000008 00000005 00000005"),
            (Frame::GoAway { last: 9, status: 0 }, "80030007 00000008 00000009 00000000"),
            (Frame::WindowUpdate { stream: 3, delta: 65536 }, "80030009 00000008 00000003 00010000"),
            (Frame::Settings(vec![(1, 7, 65536)]), "80030004 0000000c 00000001 01000007 00010000"),
            (
                Frame::Data { stream: 3, payload: Bytes::from_static(b"hello"), fin: true },
                "00000003 01000005 68656c6c6f",
            ),
        ] {
            let bytes = hex(bytes);
            assert_eq!(Encoder::default().encode(&frame).unwrap()[..], bytes, "{frame:?}");
            assert_eq!(Decoder::default().frame(&bytes).unwrap(), Some(frame));
        }
    }

    #[test]
    fn headers_share_one_context() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut lengths = Vec::new();
        for stream in [1, 3, 5, 7] {
            let kind = if stream == 1 { "error" } else { "data" };
            let headers = Headers::new([("streamType", kind), ("port", "80"), ("requestID", "0")]);
            let frame = match stream {
                7 => Frame::SynReply { stream, headers, fin: true },
                5 => Frame::Headers { stream, headers, fin: false },
                _ => Frame::SynStream { stream, headers, fin: false },
            };
            let bytes = encoder.encode(&frame).unwrap();
            lengths.push(bytes.len());
            assert_eq!(decoder.frame(&bytes).unwrap(), Some(frame));
        }
        assert!(lengths[2] < lengths[0], "{lengths:?}");
        let large = Headers::new([("x", "y".repeat(300_000))]);
        let frame = Frame::SynStream { stream: 9, headers: large, fin: false };
        let bytes = encoder.encode(&frame).unwrap();
        assert_eq!(decoder.frame(&bytes).unwrap(), Some(frame));
    }

    /// As kubectl's SPDY implementation (moby/spdystream 0.5.1) writes them.
    #[test]
    fn golden_headers() {
        let mut decoder = Decoder::default();
        let headers = |kind| Headers::new([("streamtype", kind)]);
        for (bytes, frame) in [
            (
                "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff",
                Frame::SynStream { stream: 1, headers: headers("error"), fin: false },
            ),
            (
                "800300010000001900000003000000000000c22ac5565c92925f5a02000000ffff",
                Frame::SynStream { stream: 3, headers: headers("stdout"), fin: false },
            ),
            (
                "800300020000000e000000036260606000000000ffff",
                Frame::SynReply { stream: 3, headers: Headers::default(), fin: false },
            ),
        ] {
            assert_eq!(decoder.frame(&hex(bytes)).unwrap(), Some(frame));
        }
    }

    #[test]
    fn damage_is_refused() {
        for bytes in ["80020006 00000004 00000007", "80030006 00000004 000000", "80030001 00000003 000000"] {
            assert!(Decoder::default().frame(&hex(bytes)).is_err(), "{bytes}");
        }
        assert!(Decoder::default().frame(&hex("80030001 0000000e 00000001 00000000 0000 ffffffff")).is_err());
        assert_eq!(Decoder::default().frame(&hex("8003000a 00000001 00")).unwrap(), None);
        let mut encoder = Encoder::default();
        let bomb = Headers::new([("x", "y".repeat(MAX_HEADER_BYTES * 2))]);
        let bytes = encoder.encode(&Frame::SynReply { stream: 1, headers: bomb, fin: false }).unwrap();
        assert!(Decoder::default().frame(&bytes).is_err());
    }
}
