//! Datastore errors as clients see them.

use knarr_datastore::Error;
use knarr_machinery::ApiError;
use knarr_machinery::status::Cause;

/// The API error for a datastore error that has no meaning of its own to the caller.
pub fn from_store(error: Error) -> ApiError {
    match error {
        Error::Compacted { .. } | Error::Lagged(_) => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        Error::Future { requested, current } => too_large(requested, current),
        Error::TooLarge { .. } => ApiError::too_large(format!("Request is too large: {error}")),
        Error::Full { .. } | Error::Closed => ApiError::unavailable(error.to_string()),
        _ => ApiError::internal(error),
    }
}

/// A resourceVersion that has not been reached.
pub fn too_large(requested: i64, current: i64) -> ApiError {
    ApiError::timeout(format!("Timeout: Too large resource version: {requested}, current: {current}"), 1)
        .with_causes(vec![Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }])
}

/// A watch start that is no longer in memory nor in history.
pub fn too_old(requested: i64, oldest: i64) -> ApiError {
    ApiError::expired(format!("too old resource version: {requested} ({oldest})"))
}
