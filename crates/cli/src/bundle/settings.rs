//! Removing what is secret from PostgreSQL's settings and rules of access. Remarks are left out: anything may stand there.

use super::REMOVED;
use super::secrets::Secrets;
use super::sql::learn_passwords;

/// Beginnings of the names of settings of extensions that are shown.
const HARMLESS_EXTENSIONS: [&str; 2] = ["auto_explain.", "pg_stat_statements."];

/// Parts of a setting's name, or of its value before `=`, behind which a secret may be.
const SECRET_NAMES: [&str; 5] = ["pass", "secret", "token", "credential", "private"];

/// Keywords of a connection string that hold no secret.
const HARMLESS_KEYWORDS: [&str; 20] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssencmode",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "port",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// Options of a rule of access that hold no secret.
const HARMLESS_RULE_OPTIONS: [&str; 3] = ["clientcert", "clientname", "map"];

/// A text in single quotes as PostgreSQL's configuration files have it, from its first quote on; its value and length.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if characters.peek().is_some_and(|(_, next)| *next == '\'') => {
                value.push('\'');
                characters.next();
            }
            '\'' => return Some((value, at + 1)),
            '\\' => value.extend(characters.next().map(|(_, next)| next)),
            other => value.push(other),
        }
    }
    None
}

/// A setting's name and value; none for a line that is none.
fn parse_setting(line: &str) -> Option<(&str, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.$".contains(c))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    if name.is_empty() {
        return None;
    }
    if rest.starts_with('\'') {
        return quoted(rest).map(|(value, _)| (name, value));
    }
    let end = rest.find(|c: char| c.is_whitespace() || c == '#').unwrap_or(rest.len());
    Some((name, rest[..end].to_owned()))
}

/// Whether a name says that its value is secret.
fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name != "password_encryption" && SECRET_NAMES.iter().any(|part| name.contains(part))
}

/// A connection string with the values of harmless keywords only; none when it has another form.
fn redact_conninfo(text: &str) -> Option<String> {
    let mut shown = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=')?;
        let keyword = keyword.trim();
        let is_word = !keyword.is_empty() && keyword.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if !is_word {
            return None;
        }
        let after = after.trim_start();
        let (value, length) = if after.starts_with('\'') {
            quoted(after)?
        } else {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            (after[..end].to_owned(), end)
        };
        let value = if HARMLESS_KEYWORDS.contains(&keyword) { value } else { REMOVED.to_owned() };
        shown.push(format!("{keyword}='{value}'"));
        rest = after[length..].trim_start();
    }
    Some(shown.join(" "))
}

/// What is shown of a setting's value. `is_ours` says that Cellar wrote the file.
fn shown_value(name: &str, value: &str, is_ours: bool) -> Option<String> {
    let name = name.to_ascii_lowercase();
    if name == "primary_conninfo" {
        return redact_conninfo(value);
    }
    let of_extension = name.contains('.') && !HARMLESS_EXTENSIONS.iter().any(|start| name.starts_with(start));
    // A shell's text, with whatever its author put into it.
    let is_command = name.ends_with("_command") && !is_ours;
    let lower = value.to_ascii_lowercase();
    let shows_secret = lower.contains("://") || (lower.contains('=') && names_secret(&lower));
    let hidden = of_extension || is_command || names_secret(&name) || shows_secret;
    (!hidden).then(|| value.to_owned())
}

/// Settings of `postgresql.conf` and the like. Secrets in them are remembered.
pub(super) fn redact_settings(text: &str, is_ours: bool, secrets: &mut Secrets) -> String {
    learn_passwords(text, secrets);
    let mut redacted = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match parse_setting(line) {
            None => redacted.push_str(REMOVED),
            Some((name, value)) => {
                let shown = shown_value(name, &value, is_ours).unwrap_or_else(|| {
                    if names_secret(name) {
                        secrets.add(&value);
                    }
                    REMOVED.to_owned()
                });
                redacted.push_str(&format!("{name} = '{}'", shown.replace('\'', "''")));
            }
        }
        redacted.push('\n');
    }
    redacted
}

/// Rules of `pg_hba.conf` and `pg_ident.conf`.
pub(super) fn redact_rules(text: &str) -> String {
    let mut redacted = String::new();
    for line in text.lines() {
        // A `#` within quotes begins no remark, but what is behind it need not be shown.
        let rule = line.split('#').next().unwrap_or_default().trim();
        let mut shown = Vec::new();
        for word in rule.split_whitespace() {
            match word.split_once('=') {
                Some((option, _))
                    if !HARMLESS_RULE_OPTIONS.contains(&option.to_ascii_lowercase().as_str()) =>
                {
                    shown.push(format!("{option}={REMOVED}"));
                    // A value in quotes may go on.
                    break;
                }
                _ => shown.push(word.to_owned()),
            }
        }
        if !shown.is_empty() {
            redacted.push_str(&shown.join(" "));
            redacted.push('\n');
        }
    }
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> String {
        redact_settings(text, false, &mut Secrets::default())
    }

    #[test]
    fn settings_are_shown_and_secrets_are_not() {
        for line in [
            "primary_conninfo = 'host=h user=bob password=hunter2'",
            "primary_conninfo = 'host=h password=''hunter 2hunter2'' port=1'",
            "primary_conninfo = 'postgres://bob:hunter2@h/db'",
            "ssl_passphrase_command = 'echo hunter2'",
            "archive_cleanup_command = 'AWS_KEY=hunter2 clean %r'",
            "my_extension.key = 'hunter2'",
            "my_extension.key hunter2",
            "# the password is hunter2",
            "work_mem = 4MB # hunter2",
            "archive_library = 'x?password=hunter2'",
            "not a setting 'hunter2",
            "work_mem = 'hunter2",
            "'hunter2'",
        ] {
            let shown = redacted(line);
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert_eq!(
            redacted("work_mem = 4MB # x\n\n# y\nlog_statement 'all'"),
            "work_mem = '4MB'\nlog_statement = 'all'\n"
        );
        assert_eq!(
            redacted("password_encryption = 'scram-sha-256'"),
            "password_encryption = 'scram-sha-256'\n"
        );
        assert_eq!(
            redacted("primary_conninfo = 'host=h port=1 password=hunter2 sslkey=/k'"),
            "primary_conninfo = 'host=''h'' port=''1'' password=''[removed]'' sslkey=''/k'''\n"
        );
        let ours =
            redact_settings("restore_command = 'pgbackrest archive-get'", true, &mut Secrets::default());
        assert_eq!(ours, "restore_command = 'pgbackrest archive-get'\n");
        let mut secrets = Secrets::default();
        let _ = redact_settings("primary_conninfo = 'password=hunter2 host=h'", false, &mut secrets);
        assert_eq!(secrets.scrubber().scrub(b"hunter2"), b"[removed]");
    }

    #[test]
    fn rules_of_access_are_shown_without_their_secrets() {
        let rules = "# hunter2\nlocal all postgres peer map=cellar # hunter2\n\
                     host all all ::/0 ldap ldapserver=x ldapbindpasswd=\"hunter 2hunter2\"\n\
                     hostssl replication all 0.0.0.0/0 cert clientcert=verify-full\n";
        assert_eq!(
            redact_rules(rules),
            "local all postgres peer map=cellar\nhost all all ::/0 ldap ldapserver=[removed]\n\
             hostssl replication all 0.0.0.0/0 cert clientcert=verify-full\n"
        );
    }
}
