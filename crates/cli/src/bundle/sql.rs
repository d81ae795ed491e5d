//! Passwords in statements and connection strings.

use std::sync::LazyLock;

use regex::Regex;

use super::secrets::Secrets;

/// Where a password stands in a statement or a connection string; its text is the only group that matches.
static PASSWORDS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"(?is)\bpassword\s+(?:e|u&)?'((?:[^'\\]|''|\\.)*)'",
        r"(?is)\bpassword\s+\$\w*\$(.*?)\$\w*\$",
        // Without quotes it is no SQL, and PostgreSQL's error shows it.
        r"(?is)\b(?:role|user)\s+\S+\s+(?:with\s+)?(?:encrypted\s+)?password\s+([^\s'\x22$;]+)",
        r"(?is)\bpassword\s*=\s*''?((?:[^'\\]|\\.)+)''?",
        r"(?is)\bpassword\s*=\s*([^\s'\x22]+)",
    ]
    .iter()
    .filter_map(|form| Regex::new(form).ok())
    .collect()
});

/// Remembers the passwords that a text shows, so that they are removed where no rule knows them.
pub(super) fn learn_passwords(text: &str, secrets: &mut Secrets) {
    for form in PASSWORDS.iter() {
        for password in form.captures_iter(text).filter_map(|found| found.get(1)) {
            secrets.add(password.as_str());
            secrets.add(&password.as_str().replace("''", "'"));
        }
    }
}

/// The words at the beginning of a statement that say what it does: nothing in them is of the user.
pub(super) fn command_words(statement: &str) -> String {
    let is_word =
        |word: &str| (2..=16).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphabetic());
    let mut words = statement.split_whitespace();
    let Some(first) = words.next().filter(|word| is_word(word)) else { return String::new() };
    let has_kind = ["ALTER", "CREATE", "DROP"].iter().any(|verb| first.eq_ignore_ascii_case(verb));
    match words.next().filter(|word| has_kind && is_word(word)) {
        Some(kind) => format!("{first} {kind} "),
        None => format!("{first} "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_learned_from_every_kind_of_statement() {
        for statement in [
            "ALTER ROLE bob PASSWORD 'hunter2'",
            "alter user bob with encrypted password E'hunter2'",
            "CREATE ROLE bob\n\tPASSWORD\n\t'hunter2'",
            "ALTER ROLE bob PASSWORD $x$hunter2$x$",
            "ALTER ROLE bob PASSWORD hunter2;",
            "CREATE USER MAPPING FOR x SERVER y OPTIONS (user 'a', password 'hunter2')",
            "CREATE SUBSCRIPTION s CONNECTION 'host=h password=hunter2 dbname=d' PUBLICATION p",
            "primary_conninfo = 'host=h password=''hunter2'''",
        ] {
            let mut secrets = Secrets::default();
            learn_passwords(statement, &mut secrets);
            assert_eq!(secrets.scrubber().scrub(b"hunter2"), b"[removed]", "{statement}");
        }
    }

    #[test]
    fn of_a_statement_the_command_is_shown() {
        assert_eq!(command_words("ALTER ROLE bob PASSWORD 'x'"), "ALTER ROLE ");
        assert_eq!(command_words("select hunter2"), "select ");
        assert_eq!(command_words("'x'"), "");
    }
}
