//! SPDY/3.1: many streams over one connection.
//!
//! Entry points: [`server`] and [`client`]; each gives a [`Connection`] to open streams with and an [`Incoming`] of those
//! that the peer opens. A [`Stream`] is read and written like a socket, with half-close.
//!
//! Flow control: we grant windows for what we receive, but heed a peer's windows only once it has shown that it has any
//! (by a SETTINGS or WINDOW_UPDATE frame): the implementation that kubectl and container runtimes share has none and
//! would never open ours again.

mod connection;
mod dictionary;
mod frame;
mod stream;

pub use connection::{Connection, Incoming, client, server};
pub use frame::{Decoder, Encoder, Frame, Headers, RstStatus};
pub use stream::Stream;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer does not speak SPDY/3.1.
    #[error("SPDY: {0}")]
    Protocol(String),
    /// The peer refused or reset the stream.
    #[error("SPDY: stream {0} was refused by the peer")]
    Refused(u32),
    /// The connection has ended.
    #[error("SPDY: the connection is closed")]
    Closed,
}
