//! Text that must not be seen.

use std::fmt;

/// Fewest bytes of a passphrase. pgBackRest derives its keys with one round of a hash, so an attacker who has the
/// repo can try short ones by the billion.
const SHORTEST: usize = 16;

/// Fewest bytes of a role's password. PostgreSQL hashes it some thousand times, with a salt.
const SHORTEST_PASSWORD: usize = 8;

/// Most bytes of a passphrase; one that is longer is some other file.
const LONGEST: usize = 512;

/// Most bytes of a credential of a store: the key file of a Google service account takes two and a half thousand.
const LONGEST_CREDENTIAL: usize = 8192;

/// A passphrase, password or key. Neither `Debug` nor an error shows it, and it cannot be serialized: it never gets into
/// etcd, an argument, a log or a message unless somebody asks for it with [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a text cannot be a repository's passphrase. Says nothing of the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Too short to withstand guessing.
    #[error("it is shorter than {0} bytes: make one with `openssl rand -base64 48`")]
    TooShort(usize),
    /// Nothing is there.
    #[error("it is empty")]
    Empty,
    /// Not a secret of this kind.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// It could not stand on one line of a configuration file.
    #[error("it holds a line break or another control character")]
    Control,
    /// pgBackRest would remove it, and use another passphrase than the one given.
    #[error("it begins or ends with white space")]
    Space,
}

impl Secret {
    /// A repository's passphrase from the content of a file or variable. One line end behind it is not part of it.
    ///
    /// # Errors
    /// When it is too short or too long, or cannot stand on one line of a configuration file as it is.
    pub fn passphrase(content: &str) -> Result<Self, SecretError> {
        Self::of_line(content, SHORTEST, LONGEST)
    }

    /// A role's password, from the content of a file. One line end behind it is not part of it.
    ///
    /// # Errors
    /// As [`Secret::passphrase`].
    pub fn password(content: &str) -> Result<Self, SecretError> {
        Self::of_line(content, SHORTEST_PASSWORD, LONGEST)
    }

    /// A credential of a store, which others made: its length says nothing.
    ///
    /// # Errors
    /// As [`Secret::passphrase`].
    pub fn credential(content: &str) -> Result<Self, SecretError> {
        Self::of_line(content, 1, LONGEST_CREDENTIAL)
    }

    fn of_line(content: &str, shortest: usize, longest: usize) -> Result<Self, SecretError> {
        let text = content.strip_suffix('\n').unwrap_or(content);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() && shortest == 1 {
            return Err(SecretError::Empty);
        }
        if text.len() < shortest {
            return Err(SecretError::TooShort(shortest));
        }
        if text.len() > longest {
            return Err(SecretError::TooLong(longest));
        }
        if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            return Err(SecretError::Control);
        }
        if text.trim() != text {
            return Err(SecretError::Space);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text itself, for the one file that it is written to.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_stripped_and_nothing_else_changes() {
        for content in
            ["a long passphrase;#=[]\"", "a long passphrase;#=[]\"\n", "a long passphrase;#=[]\"\r\n"]
        {
            assert_eq!(Secret::passphrase(content).unwrap().expose(), "a long passphrase;#=[]\"");
        }
    }

    #[test]
    fn bad_passphrase_is_refused_without_being_shown() {
        let long = "x".repeat(LONGEST + 1);
        for (content, why) in [
            ("", SecretError::TooShort(SHORTEST)),
            ("\n", SecretError::TooShort(SHORTEST)),
            ("fifteen bytes..\n", SecretError::TooShort(SHORTEST)),
            (long.as_str(), SecretError::TooLong(LONGEST)),
            ("two lines are too many\nthis is the second", SecretError::Control),
            ("two line ends are one too many\n\n", SecretError::Control),
            ("a tab\tis a control character", SecretError::Control),
            (" white space before it", SecretError::Space),
            ("white space behind it \n", SecretError::Space),
        ] {
            assert_eq!(Secret::passphrase(content), Err(why), "{content:?}");
        }
        assert_eq!(Secret::password("8 bytes.\n").unwrap().expose(), "8 bytes.");
        for (content, why) in [("7 bytes", SecretError::TooShort(8)), ("a tab\tin it", SecretError::Control)]
        {
            assert_eq!(Secret::password(content), Err(why), "{content:?}");
        }
    }

    #[test]
    fn it_is_not_shown() {
        let secret = Secret::passphrase("0123456789abcdef").unwrap();
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "<redacted> Some(<redacted>)");
    }
}
