//! What can go wrong in a controller, with the operation and object named.

/// A failed step of a reconcile; the key is retried with backoff.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("{verb} {kind} {name}: {}", cause(source))]
    Api {
        /// What was tried: get, list, create, update, patch, delete.
        verb: &'static str,
        /// Kind (or resource) of the object.
        kind: String,
        /// `namespace/name` of the object.
        name: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// Something in an object cannot be acted upon.
    #[error("{kind} {name}: {reason}")]
    Object {
        /// Kind of the object.
        kind: &'static str,
        /// `namespace/name`.
        name: String,
        /// Field and what is wrong with it.
        reason: String,
    },
    /// A part of the configuration is unusable.
    #[error("configuration: {0}")]
    Config(String),
    /// Several steps failed; all are told.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Many(Vec<Error>),
}

/// What went wrong, without the whole status document.
fn cause(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

impl Error {
    /// The status of the API server, if that is the cause.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// The object is gone.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|s| s.is_not_found())
    }

    /// The resource does not serve this verb.
    pub fn is_not_served(&self) -> bool {
        self.status().is_some_and(|s| s.code == 405)
    }

    /// The object changed since it was read, or a precondition failed.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|s| s.code == 409 && s.reason != "AlreadyExists")
    }

    /// An object of that name is there.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|s| s.reason == "AlreadyExists")
    }

    /// A quota, policy or role refused the request.
    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(|s| s.is_forbidden())
    }

    /// The request was refused because the object is invalid.
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(|s| s.is_invalid())
    }

    /// The namespace is being deleted, so nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|s| {
            s.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
        })
    }

    /// What the server said, without our own prefix: for events and conditions.
    pub fn message(&self) -> String {
        match self.status() {
            Some(status) => status.message.clone(),
            None => self.to_string(),
        }
    }

    /// Joins failures; `Ok` when there are none.
    ///
    /// # Errors
    /// The single failure, or [`Error::Many`].
    pub fn join(mut errors: Vec<Error>) -> Result<(), Error> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Many(errors)),
        }
    }
}

/// Names the operation and object of a failed request.
pub trait During<T> {
    /// Wraps the error.
    ///
    /// # Errors
    /// [`Error::Api`] with the given names.
    fn during(self, verb: &'static str, kind: &str, namespace: &str, name: &str) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, verb: &'static str, kind: &str, namespace: &str, name: &str) -> Result<T, Error> {
        self.map_err(|source| Error::Api {
            verb,
            kind: kind.to_owned(),
            name: if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") },
            source: Box::new(source),
        })
    }
}
