//! One error type: what was being done, to which object, and why it failed.

use std::fmt;

/// Result of kernel and ledger operations.
pub type Result<T> = std::result::Result<T, Error>;

/// What callers may tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object is not there.
    NotFound,
    /// The object is there already.
    Exists,
    /// The process may not do this.
    Denied,
    /// The kernel does not know this kind of object.
    Unsupported,
    /// Anything else.
    Other,
}

/// A failed operation on a named host object.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Error {
    /// Operation, as a verb phrase ("add link").
    pub operation: &'static str,
    /// The object the operation was about.
    pub object: String,
    /// Class of failure.
    pub kind: ErrorKind,
    /// What the kernel or the file system said.
    pub detail: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.operation, self.object, self.detail)
    }
}

impl Error {
    /// An error of class `kind`.
    pub fn new(
        operation: &'static str,
        object: impl Into<String>,
        kind: ErrorKind,
        detail: impl Into<String>,
    ) -> Self {
        Self { operation, object: object.into(), kind, detail: detail.into() }
    }

    /// From a netlink failure.
    pub(crate) fn netlink(
        operation: &'static str,
        object: impl Into<String>,
        e: nlink::netlink::Error,
    ) -> Self {
        let kind = if e.is_not_found() || e.is_no_device() {
            ErrorKind::NotFound
        } else if e.is_already_exists() {
            ErrorKind::Exists
        } else if e.is_permission_denied() {
            ErrorKind::Denied
        } else if e.is_not_supported() {
            ErrorKind::Unsupported
        } else {
            ErrorKind::Other
        };
        Self::new(operation, object, kind, e.to_string())
    }

    /// From a file system failure.
    pub(crate) fn io(operation: &'static str, object: impl Into<String>, e: &std::io::Error) -> Self {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Other,
        };
        Self::new(operation, object, kind, e.to_string())
    }

    /// True if the object was not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// True if the object was there already.
    pub fn is_exists(&self) -> bool {
        self.kind == ErrorKind::Exists
    }
}
