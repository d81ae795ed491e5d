//! Values as they stand in `postgresql.conf`.

use std::path::Path;

use crate::error::PostgresError;

/// A value in the single quotes of `postgresql.conf`, where backslashes are escapes too.
pub(crate) fn quoted(name: &str, value: &str) -> Result<String, PostgresError> {
    if value.chars().any(char::is_control) {
        let reason = "must not hold line breaks or other control characters";
        return Err(PostgresError::InvalidSetting { name: name.to_owned(), reason });
    }
    Ok(format!("'{}'", value.replace('\\', r"\\").replace('\'', "''")))
}

/// An absolute path as a value.
pub(crate) fn path_text<'a>(name: &str, path: &'a Path) -> Result<&'a str, PostgresError> {
    match path.to_str() {
        Some(text) if path.is_absolute() => Ok(text),
        _ => Err(PostgresError::InvalidSetting {
            name: name.to_owned(),
            reason: "must be an absolute path of valid UTF-8",
        }),
    }
}
