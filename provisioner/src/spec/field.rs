//! The fields of a specification: names, and what is said of a field that cannot be so.

use crate::error::spec_error::SpecError;

pub(super) fn refuse(field: impl Into<String>, value: &str, reason: impl Into<String>) -> SpecError {
    SpecError::Field { field: field.into(), value: value.chars().take(200).collect(), reason: reason.into() }
}

pub(super) fn name<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &str,
    text: &str,
) -> Result<T, SpecError> {
    text.parse().map_err(|error: T::Err| refuse(field, text, error.to_string()))
}
