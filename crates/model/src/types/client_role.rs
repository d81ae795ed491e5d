//! Roles of PostgreSQL that applications connect as, and how their passwords are kept.

use std::fmt;
use std::str::FromStr;

/// Longest name in bytes: PostgreSQL cuts what is longer.
const MAX_NAME: usize = 63;

/// Names that PostgreSQL or Cellar has for itself; also all that begin with `pg_` or `cellar_`.
const RESERVED: [&str; 9] = [
    "postgres",
    "template0",
    "template1",
    "public",
    "none",
    "user",
    "current_user",
    "session_user",
    "current_role",
];

/// Why a text is not a name that is made for a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not usable as the name of a role or its database: {reason}")]
pub struct ClientNameError {
    /// What was given, cut to 80 characters.
    pub text: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

/// The name of an application's role, or of its database within PostgreSQL: 1 to 63 lower-case letters, digits, `_` and `-`,
/// beginning with a letter. Such a name is the same in SQL, `pg_hba.conf`, certificates and URIs, quoted or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientName(String);

impl ClientName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = ClientNameError;

    fn from_str(text: &str) -> Result<Self, ClientNameError> {
        let fail = |reason| Err(ClientNameError { text: text.chars().take(80).collect(), reason });
        if text.is_empty() || text.len() > MAX_NAME {
            return fail("1 to 63 bytes are allowed");
        }
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        if !text.bytes().all(fits) {
            return fail("only lower-case letters, digits, '_' and '-' are allowed");
        }
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            return fail("it must begin with a letter");
        }
        if text.starts_with("pg_") || text.starts_with("cellar_") || RESERVED.contains(&text) {
            return fail("PostgreSQL or Cellar has this name for itself");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What PostgreSQL keeps of a password (RFC 5803): `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`.
///
/// Nobody can log in with it, but a weak password can be guessed from it, so neither `Debug` nor an error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier(String);

/// The text is no verifier. Says nothing of the text: it may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a SCRAM-SHA-256 verifier as PostgreSQL stores one")]
pub struct ScramVerifierError;

/// Fewest iterations of the hash, which is PostgreSQL's own number.
const LEAST_ITERATIONS: u32 = 4096;

/// Most iterations: PostgreSQL's client computes them at each login.
const MOST_ITERATIONS: u32 = 1_000_000;

/// Whether the text is base64 of so many bytes.
fn is_base64_of(text: &str, bytes: std::ops::RangeInclusive<usize>) -> bool {
    let plain = text.trim_end_matches('=');
    let padding = text.len() - plain.len();
    text.len().is_multiple_of(4)
        && padding <= 2
        && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b))
        && bytes.contains(&(text.len() / 4 * 3 - padding.min(text.len())))
}

impl ScramVerifier {
    /// The text itself, for PostgreSQL.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for ScramVerifier {
    type Err = ScramVerifierError;

    fn from_str(text: &str) -> Result<Self, ScramVerifierError> {
        let read = || {
            let rest = text.strip_prefix("SCRAM-SHA-256$")?;
            let (salted, keys) = rest.split_once('$')?;
            let (iterations, salt) = salted.split_once(':')?;
            let (stored, server) = keys.split_once(':')?;
            let is_count = iterations.len() <= 7 && iterations.bytes().all(|b| b.is_ascii_digit());
            let count = iterations.parse::<u32>().ok().filter(|_| is_count)?;
            let fits = (LEAST_ITERATIONS..=MOST_ITERATIONS).contains(&count)
                && is_base64_of(salt, 8..=64)
                && is_base64_of(stored, 32..=32)
                && is_base64_of(server, 32..=32);
            fits.then(|| Self(text.to_owned()))
        };
        read().ok_or(ScramVerifierError)
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn name_of_a_role_is_one_that_nothing_else_has() {
        for text in ["app", "a", "app-1", "my_app", "cellar", "pgbouncer"] {
            assert_eq!(text.parse::<ClientName>().unwrap().as_str(), text);
        }
        let long = "a".repeat(64);
        for text in [
            "",
            "App",
            "1app",
            "-a",
            "_a",
            "a b",
            "a.b",
            "a:b",
            "a\n",
            "é",
            "a\"",
            "a'",
            "a\0",
            "postgres",
            "public",
            "none",
            "pg_monitor",
            "cellar_client",
            "cellar_monitor",
            "template1",
            &long,
        ] {
            assert!(text.parse::<ClientName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_a_verifier_is_taken_for_one_and_it_is_not_shown() {
        let verifier: ScramVerifier = VERIFIER.parse().unwrap();
        assert_eq!(verifier.expose(), VERIFIER);
        assert_eq!(format!("{verifier:?}"), "<redacted>");
        for text in [
            "",
            "secret",
            "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            &VERIFIER.replace("4096", "1"),
            &VERIFIER.replace("4096", "+4096"),
            &VERIFIER.replace("4096", "99999999"),
            &VERIFIER.replace("W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z"),
            &VERIFIER.replace("WG5d", ""),
            &VERIFIER.replace("WG5d", "WG'd"),
            &format!("{VERIFIER}'; DROP ROLE x; --"),
            &format!("{VERIFIER}\n"),
        ] {
            let error = text.parse::<ScramVerifier>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_accepted_text_needs_quoting(text in "SCRAM-SHA-256\\$4096:.{0,40}\\$.{0,60}", name in ".{0,70}") {
            if let Ok(verifier) = text.parse::<ScramVerifier>() {
                prop_assert!(!verifier.expose().contains(['\'', '"', '\\', '\n', ' ']));
            }
            if let Ok(name) = name.parse::<ClientName>() {
                prop_assert!(!name.as_str().contains(['\'', '"', '\\', '\n', ' ', ',', '+', '@', '/', '.', ':']));
            }
        }
    }
}
