//! Texts that must not be in a bundle, and their removal wherever they stand.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::bytes::Regex;

use super::REMOVED;

/// Characters that a text has at least to be removed everywhere. A shorter one stands by accident in many words.
const MIN_LENGTH: usize = 6;

/// Bytes of a file of secrets that are read.
const MAX_FILE: u64 = 64 << 10;

/// Words that stand in every log: a password that is one of them is removed from its statement only.
const COMMON: [&str; 10] = [
    "cellar",
    "cluster",
    "database",
    "multiadmin",
    "multipooler",
    "password",
    "pgbackrest",
    "postgres",
    "postgresql",
    "primary",
];

/// Secrets that are told by their form.
static FORMS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"(?s-u)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
        r#"(?-u)SCRAM-SHA-(?:1|256)\$[^\s'",]+"#,
        r"(?-u)\bmd5[0-9a-f]{32}\b",
        // The user and password of a URL.
        r#"(?-u)://[^/\s:@'"]+:[^@\s'"]+@"#,
    ]
    .iter()
    .filter_map(|form| Regex::new(form).ok())
    .collect()
});

/// The secrets that are known.
#[derive(Debug, Default)]
pub(crate) struct Secrets(BTreeSet<Vec<u8>>);

impl Secrets {
    /// One more, in the forms in which programs write it.
    pub(crate) fn add(&mut self, secret: &str) {
        let secret = secret.trim();
        let is_common = COMMON.iter().any(|word| secret.eq_ignore_ascii_case(word));
        if secret.chars().count() < MIN_LENGTH || is_common {
            return;
        }
        let escaped = serde_json::to_string(secret).unwrap_or_default();
        let forms = [secret, &escaped[1..escaped.len().max(2) - 1], &secret.replace('\'', "''")];
        self.0.extend(forms.into_iter().filter(|form| form.len() >= MIN_LENGTH).map(Into::into));
    }

    /// The lines of a file that holds a key or a passphrase. One that cannot be read was copied by nobody here.
    pub(crate) fn add_file(&mut self, path: &Path) {
        let Ok((file, _)) = cellar_system::open_to_read(path) else { return };
        let mut bytes = Vec::new();
        if std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_FILE), &mut bytes).is_ok() {
            String::from_utf8_lossy(&bytes).lines().filter(|line| !line.starts_with("-----")).for_each(
                |line| {
                    self.add(line);
                    // Credentials of a store stand behind the option that they become.
                    if let Some((_, value)) = line.split_once('=').filter(|_| line.starts_with("repo1-")) {
                        self.add(value);
                    }
                },
            );
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Removes them, and what has the form of a secret.
    pub(crate) fn scrubber(&self) -> Scrubber {
        let known = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&self.0).ok();
        Scrubber { known, count: self.0.len() }
    }
}

/// Removes known secrets from texts.
#[derive(Debug)]
pub(crate) struct Scrubber {
    /// None when there are more than can be looked for at once.
    known: Option<AhoCorasick>,
    count: usize,
}

impl Scrubber {
    /// Whether it looks for all secrets that it was given.
    pub(crate) fn is_complete(&self) -> bool {
        self.known.is_some()
    }

    pub(crate) fn scrub(&self, text: &[u8]) -> Vec<u8> {
        let mut text = match &self.known {
            Some(known) if self.count > 0 => {
                known.replace_all_bytes(text, &vec![REMOVED.as_bytes(); self.count])
            }
            _ => text.to_owned(),
        };
        for form in FORMS.iter() {
            if form.is_match(&text) {
                text = form.replace_all(&text, REMOVED.as_bytes()).into_owned();
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(secrets: &[&str], text: &str) -> String {
        let mut all = Secrets::default();
        secrets.iter().for_each(|secret| all.add(secret));
        String::from_utf8(all.scrubber().scrub(text.as_bytes())).unwrap()
    }

    #[test]
    fn known_secrets_are_removed_in_every_form() {
        let secret = "it's \"hunter2\"\\";
        for form in [secret.to_owned(), serde_json::to_string(secret).unwrap(), secret.replace('\'', "''")] {
            let left = scrubbed(&[secret], &format!("a {form} b"));
            assert!(!left.contains("hunter2") && left.starts_with("a ") && left.ends_with(" b"), "{left}");
        }
        assert_eq!(scrubbed(&["hunter2", "hunter2long"], "x=hunter2long"), "x=[removed]");
        assert_eq!(scrubbed(&["ab", "postgres"], "ab postgres"), "ab postgres", "too short, too common");
    }

    #[test]
    fn secrets_are_known_by_their_form() {
        let key = "-----BEGIN EC PRIVATE KEY-----\nAAAA\nBBBB\n-----END EC PRIVATE KEY-----";
        assert_eq!(scrubbed(&[], &format!("a\n{key}\nb")), "a\n[removed]\nb");
        assert_eq!(scrubbed(&[], "a -----BEGIN PRIVATE KEY-----\nAAAA"), "a [removed]", "its end is cut off");
        assert_eq!(scrubbed(&[], "p SCRAM-SHA-256$4096:c2FsdA==$x:y q"), "p [removed] q");
        assert_eq!(scrubbed(&[], "md50123456789abcdef0123456789abcdef."), "[removed].");
        assert_eq!(scrubbed(&[], "postgres://bob:hunter2@host/db"), "postgres[removed]host/db");
        assert_eq!(scrubbed(&[], "https://localhost:12379/x"), "https://localhost:12379/x");
    }

    #[test]
    fn secrets_are_read_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----\n")
            .unwrap();
        let mut secrets = Secrets::default();
        secrets.add_file(&path);
        secrets.add_file(&dir.path().join("none"));
        assert_eq!(secrets.scrubber().scrub(b"k MIGHAgEAMBMG"), b"k [removed]");
    }
}
