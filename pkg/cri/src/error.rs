//! What can go wrong between us and a container runtime.

/// The kinds of failure a caller may decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The object is not known to the runtime.
    NotFound,
    /// The object exists already.
    AlreadyExists,
    /// The runtime cannot be reached, or is going away.
    Unavailable,
    /// The call took longer than allowed.
    Timeout,
    /// The runtime does not have this call.
    Unimplemented,
    /// The request itself was refused.
    Invalid,
    /// Anything else; see the message.
    Other,
}

/// A failed call: what was tried, on which object, and what the runtime said.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} {object}: {message}")]
pub struct Error {
    /// The call, in the protocol's own name.
    pub operation: &'static str,
    /// The object of the call: an id, an image name, a path.
    pub object: String,
    /// What kind of failure it is.
    pub failure: Failure,
    /// The message of the other side.
    pub message: String,
}

impl Error {
    /// An error of our own making.
    pub fn new(
        operation: &'static str,
        object: impl Into<String>,
        failure: Failure,
        message: impl Into<String>,
    ) -> Self {
        Self { operation, object: object.into(), failure, message: message.into() }
    }

    /// The error of a gRPC answer.
    pub(crate) fn of(operation: &'static str, object: impl Into<String>, status: &tonic::Status) -> Self {
        use tonic::Code;
        let failure = match status.code() {
            Code::NotFound => Failure::NotFound,
            Code::AlreadyExists => Failure::AlreadyExists,
            Code::Unavailable => Failure::Unavailable,
            Code::DeadlineExceeded => Failure::Timeout,
            Code::Unimplemented => Failure::Unimplemented,
            Code::InvalidArgument => Failure::Invalid,
            _ => Failure::Other,
        };
        Self::new(operation, object, failure, status.message())
    }

    /// Whether the runtime does not know the object.
    pub fn is_not_found(&self) -> bool {
        self.failure == Failure::NotFound
    }
}

/// For teardown: what is gone already is done.
pub(crate) fn gone_is_done(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
