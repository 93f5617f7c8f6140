//! Field errors: which field of a document is wrong, and how (upstream `util/validation/field`).

use std::fmt;

use serde_json::Value;

/// A path to a field, such as `spec.containers[0].ports[1].name` or `metadata.labels[a]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    /// A path that starts at a named field; "" is the whole document.
    pub fn new(name: &str) -> Self {
        Self(name.to_string())
    }

    /// The named field below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_string()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The list item at `i`.
    #[must_use]
    pub fn index(&self, i: usize) -> Self {
        Self(format!("{}[{i}]", self.0))
    }

    /// The map entry with this key.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The way in which a field is wrong; names as in `Status.details.causes[].reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// FieldValueNotFound
    NotFound,
    /// FieldValueRequired
    Required,
    /// FieldValueDuplicate
    Duplicate,
    /// FieldValueInvalid
    Invalid,
    /// FieldValueNotSupported
    NotSupported,
    /// FieldValueForbidden
    Forbidden,
    /// FieldValueTooLong
    TooLong,
    /// FieldValueTooMany
    TooMany,
    /// InternalError
    Internal,
    /// FieldValueTypeInvalid
    TypeInvalid,
}

impl ErrorType {
    /// The machine readable reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// How it is wrong.
    pub kind: ErrorType,
    /// Which field.
    pub field: String,
    /// The value that was given; `None` where upstream prints none (Required, Forbidden, TooLong).
    pub value: Option<Value>,
    /// The value as it is printed, where that is not its JSON form.
    pub shown: Option<String>,
    /// What would be right.
    pub detail: String,
}

impl FieldError {
    fn make(kind: ErrorType, path: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, field: path.to_string(), value, shown: None, detail: detail.into() }
    }

    /// A value is missing.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Required, path, None, detail)
    }

    /// A value is malformed or out of bounds.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Invalid, path, Some(value.into()), detail)
    }

    /// A value is of a wrong type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::TypeInvalid, path, Some(value.into()), detail)
    }

    /// A value is malformed or out of bounds, and too large or too secret to be repeated.
    pub fn wrong(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Invalid, path, None, detail)
    }

    /// A value is not one of an enumeration; the valid ones are listed quoted, in the order given.
    pub fn not_supported(path: &Path, value: impl Into<Value>, valid: &[&str]) -> Self {
        let valid: Vec<String> = valid.iter().map(|v| format!("\"{v}\"")).collect();
        let detail =
            if valid.is_empty() { String::new() } else { format!("supported values: {}", valid.join(", ")) };
        Self::make(ErrorType::NotSupported, path, Some(value.into()), detail)
    }

    /// As [`FieldError::not_supported`], for values that upstream lists in an order of its own.
    pub fn not_supported_in_order(path: &Path, value: impl Into<Value>, valid: &[&str]) -> Self {
        let valid: Vec<String> = valid.iter().map(|v| format!("\"{v}\"")).collect();
        Self::make(
            ErrorType::NotSupported,
            path,
            Some(value.into()),
            format!("supported values: {}", valid.join(", ")),
        )
    }

    /// A value must be unique and is not.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::make(ErrorType::Duplicate, path, Some(value.into()), "")
    }

    /// A field may not be set here.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Forbidden, path, None, detail)
    }

    /// A reference to something that is not there.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::make(ErrorType::NotFound, path, Some(value.into()), "")
    }

    /// A value has more than `max` bytes; the value itself is not repeated.
    pub fn too_long(path: &Path, max: usize) -> Self {
        Self::make(ErrorType::TooLong, path, None, format!("may not be more than {max} bytes"))
    }

    /// A list has more than `max` items.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        Self::make(
            ErrorType::TooMany,
            path,
            Some(Value::from(actual)),
            format!("must have at most {max} item{}", if max == 1 { "" } else { "s" }),
        )
    }

    /// Something went wrong while the field was checked.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Internal, path, None, detail)
    }

    /// The same error with another print of its value: upstream shows some structs by their internal names.
    #[must_use]
    pub fn shown_as(self, text: String) -> Self {
        Self { shown: Some(text), ..self }
    }

    /// The message without the field name, as in `causes[].message`.
    pub fn body(&self) -> String {
        let head = match &self.value {
            _ if self.shown.is_some() => {
                format!("{}: {}", self.kind.text(), self.shown.as_deref().unwrap_or_default())
            }
            None => self.kind.text().to_string(),
            Some(Value::String(s)) => format!("{}: {s:?}", self.kind.text()),
            Some(Value::Null) => format!("{}: null", self.kind.text()),
            Some(v) => format!("{}: {v}", self.kind.text()),
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }
}

/// `field: body`, as upstream's `Error.Error()`.
impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}
