//! Which version of Cellar wrote what a host is given: what a newer one wrote is whole and not damaged, and says itself what
//! is to be done.

/// This version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What to do about what a newer version wrote.
pub(crate) const UPDATE: &str =
    "update this host's programs to that version (docs/guides/hosts.md, Upgrade), then repeat the command";

fn numbers(version: &str) -> Vec<u64> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default().split('.');
    numbers.map(|number| number.parse().unwrap_or(0)).collect()
}

/// Whether a version is older than this one. One of the same number that wrote what is not known here is a later build.
pub(crate) fn is_older(version: &str) -> bool {
    numbers(version) < numbers(VERSION)
}

/// That a newer version wrote it.
pub(crate) fn newer(version: Option<&str>) -> String {
    let version = version.map_or_else(String::new, |version| format!(", version {version}"));
    format!("it was made by a newer cellar{version}, and this one is {VERSION}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(is_older("0.0.9") && is_older("0.0.9-rc1"));
        for other in [VERSION, "99.1.0", "0.10.0", "1.0"] {
            assert!(!is_older(other), "{other}");
        }
        assert!(numbers("0.9.0") < numbers("0.10.0"));
    }
}
