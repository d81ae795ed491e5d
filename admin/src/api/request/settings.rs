//! Changes of a database's settings.

use std::collections::{BTreeMap, BTreeSet};

use cellar_api::v1;
use cellar_model::Refusal;

use crate::cluster::settings::SettingsChange;
use crate::refusal::invalid;

/// Settings that one request may change.
const MAX_CHANGES: usize = 100;

/// Parses a change. Names are PostgreSQL's, which makes no difference between upper and lower case.
pub(crate) fn change(message: &v1::ChangeSettingsRequest) -> Result<SettingsChange, Refusal> {
    let set: BTreeMap<String, String> =
        message.set.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    let unset: BTreeSet<String> = message.unset.iter().map(|name| name.to_ascii_lowercase()).collect();
    if set.len() != message.set.len() {
        return Err(invalid("set", "a setting is given twice, in upper and lower case"));
    }
    if set.is_empty() && unset.is_empty() {
        return Err(invalid("set", "no setting is given and none is taken away"));
    }
    if set.len() + unset.len() > MAX_CHANGES {
        return Err(invalid("set", format!("a request changes {MAX_CHANGES} settings at most")));
    }
    match set.keys().find(|name| unset.contains(*name)) {
        Some(name) => Err(invalid("unset", format!("{name} is to be set and unset"))),
        None => Ok(SettingsChange { set, unset }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(set: &[(&str, &str)], unset: &[&str]) -> Result<SettingsChange, Refusal> {
        change(&v1::ChangeSettingsRequest {
            database: String::new(),
            set: set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            unset: unset.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    #[test]
    fn names_have_one_case_and_one_meaning() {
        let change = asked(&[("Work_Mem", "4MB")], &["JIT"]).unwrap();
        assert_eq!(change.set["work_mem"], "4MB");
        assert!(change.unset.contains("jit"));
        for bad in [asked(&[], &[]), asked(&[("a", "1"), ("A", "2")], &[]), asked(&[("a", "1")], &["A"])] {
            assert!(bad.is_err(), "{bad:?}");
        }
        let many: Vec<String> = (0..=MAX_CHANGES).map(|n| format!("a{n}")).collect();
        assert!(asked(&[], &many.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    }
}
