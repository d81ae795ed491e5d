//! Fields that many requests have.

use std::str::FromStr;

use cellar_model::{BackupLabel, CellName, DatabaseName, JobId, Refusal};

use crate::refusal::invalid;

/// Parses a field; a refusal names it.
pub(crate) fn parse<T: FromStr<Err: ToString>>(field: &'static str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error: T::Err| invalid(field, error.to_string()))
}

/// Parses a field that may be empty.
pub(crate) fn optional<T: FromStr<Err: ToString>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, Refusal> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

pub(crate) fn cell(field: &'static str, text: &str) -> Result<CellName, Refusal> {
    parse(field, text)
}

/// The named database; `None` for the only one.
pub(crate) fn database(field: &'static str, text: &str) -> Result<Option<DatabaseName>, Refusal> {
    optional(field, text)
}

pub(crate) fn job_id(text: &str) -> Result<JobId, Refusal> {
    parse("id", text)
}

pub(crate) fn label(text: &str) -> Result<BackupLabel, Refusal> {
    parse("label", text)
}

/// The named backup; `None` leaves the choice to planning.
pub(crate) fn backup(text: &str) -> Result<Option<BackupLabel>, Refusal> {
    optional("label", text)
}

#[cfg(test)]
mod tests {
    use cellar_model::Code;

    use super::*;

    #[test]
    fn a_refusal_names_the_field_of_a_bad_name() {
        let refusal = cell("name", "Zone4").unwrap_err();
        assert_eq!((refusal.code, refusal.about["field"].as_str()), (Code::InvalidArgument, "name"));
    }
}
