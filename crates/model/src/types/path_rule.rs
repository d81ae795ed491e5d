//! What a directory may be called.
//!
//! Paths stand in `pgbackrest.conf`, where a remark behind a value becomes part of it and a carriage return
//! ends the line (measured with 2.45). They also become words of the `restore_command` that pgBackRest
//! writes, which quotes nothing but spaces: a shell reads them, and PostgreSQL replaces `%`. So
//! characters with a meaning there are refused, and at the first door: one cell whose directory
//! cannot be written would keep the files of all the others from being written.

/// Longest accepted value in bytes, Linux's PATH_MAX.
const LONGEST: usize = 4096;

/// Characters with a meaning for pgBackRest's file, for a shell, or for PostgreSQL in a command.
const SPECIAL: &[char] = &[
    ';', '#', '[', ']', '"', '\'', '`', '$', '&', '|', '<', '>', '(', ')', '{', '}', '*', '?', '!', '\\',
    '%', '~',
];

/// Why the text cannot be a value of `pgbackrest.conf`, if it cannot.
#[must_use]
pub fn value_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > LONGEST {
        Some("it is longer than 4096 bytes")
    } else if text.chars().any(|c| c.is_control() || c == '\u{2028}' || c == '\u{2029}') {
        Some("it holds a line break or another control character")
    } else if text.trim() != text {
        Some("it begins or ends with white space, which pgBackRest removes")
    } else {
        None
    }
}

/// Why the text cannot be the path of one of our directories or files, if it cannot.
#[must_use]
pub fn path_fault(text: &str) -> Option<&'static str> {
    if let Some(fault) = value_fault(text) {
        return Some(fault);
    }
    if !text.starts_with('/') {
        return Some("it is not an absolute path");
    }
    if text.contains(SPECIAL) {
        return Some(
            "it holds one of ;#[]\"'`$&|<>(){}*?!\\%~ which pgBackRest, a shell or PostgreSQL would misread",
        );
    }
    // PostgreSQL reports its data directory without these, and pgBackRest compares the texts.
    if text.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
        return Some("it ends with '/' or has an empty, '.' or '..' component");
    }
    None
}
