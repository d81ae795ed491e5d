//! Removing what is secret from logs.
//!
//! PostgreSQL's log may show any statement, and with it any literal: `log_statement`, an error, `auto_explain`. So of a
//! record of PostgreSQL everything is dropped from the first place on where something of a user's may begin, in any
//! language of its messages. Of other lines everything is dropped behind a name such as `password=`.

use std::sync::LazyLock;

use regex::Regex;

use super::REMOVED;
use super::secrets::Secrets;
use super::sql::{command_words, learn_passwords};

/// The severity of a record of PostgreSQL: a colon and two spaces are behind it, in every language.
static RECORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(\p{L}{2,}[0-9]?)\p{Zs}?:  ").ok());

/// Severities of messages in English, and in languages that have the same word.
const ENGLISH: [&str; 14] = [
    "LOG",
    "ERROR",
    "FATAL",
    "PANIC",
    "WARNING",
    "NOTICE",
    "INFO",
    "DETAIL",
    "HINT",
    "CONTEXT",
    "LOCATION",
    "BACKTRACE",
    "STATEMENT",
    "QUERY",
];

/// What is before a statement in a message.
static STATEMENT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"\b(?:statement|execute [^:]*|parse [^:]*|bind [^:]*|fetch from [^:]*|Query Text|plan): ?")
        .ok()
});

/// What begins something of a user's in a message: a literal, a value, the place of a syntax error, a setting of a class that is
/// not PostgreSQL's own.
static USER_TEXT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"'|\$\w*\$|at or near "|: "|"[^"]*\.[^"]*" changed to "|[^\x00-\x7f]"#).ok()
});

/// What is before a secret in any line.
static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)(?:pass(?:word|wd|phrase)?|secret|token|credentials?|(?:api|access|private)[_-]?key)[\w-]*",
        r#"["'\\]*\s*(?:[:=]|\bto\b)\s*"#,
        r"|\bpassword\s+(?:(?:e|u&)?'|\$\w*\$)",
        r"|\b(?:role|user)\b.*\bpassword\s",
    ))
    .ok()
});

/// What pgBackRest itself writes in place of a secret.
const REDACTED: &str = "<redacted>";

/// Where the rest of a line is to be dropped, and what is shown of it all the same.
struct Cut {
    at: usize,
    shown: String,
}

/// A log without secrets. The passwords in its statements are remembered.
pub(super) fn redact_lines(text: &str, secrets: &mut Secrets) -> String {
    learn_passwords(text, secrets);
    let mut redacted = String::with_capacity(text.len());
    let mut is_cut = false;
    for line in text.lines() {
        // A record goes on in lines that begin with white space.
        let goes_on = line.starts_with(['\t', ' ']);
        if goes_on && is_cut {
            continue;
        }
        let cut = cut_of(line);
        match &cut {
            Some(cut) => {
                redacted.push_str(&line[..cut.at]);
                redacted.push_str(&cut.shown);
                redacted.push_str(REMOVED);
            }
            None => redacted.push_str(line),
        }
        redacted.push('\n');
        is_cut = cut.is_some();
    }
    redacted
}

fn cut_of(line: &str) -> Option<Cut> {
    let record = RECORD.as_ref().and_then(|form| form.captures(line));
    let of_record = record.and_then(|record| {
        let (from, severity) = (record.get(0)?.end(), record.get(1)?.as_str());
        cut_of_message(severity, &line[from..]).map(|cut| Cut { at: from + cut.at, ..cut })
    });
    let of_secret = secret_in(line).map(|at| Cut { at, shown: String::new() });
    [of_record, of_secret].into_iter().flatten().min_by_key(|cut| cut.at)
}

/// Where a message of PostgreSQL begins to show something of a user's.
fn cut_of_message(severity: &str, message: &str) -> Option<Cut> {
    let plain = |at| Cut { at, shown: String::new() };
    if ["STATEMENT", "QUERY"].contains(&severity) {
        return Some(Cut { at: 0, shown: command_words(message) });
    }
    let statement = STATEMENT.as_ref().and_then(|form| form.find(message));
    let statement =
        statement.map(|found| Cut { at: found.end(), shown: command_words(&message[found.end()..]) });
    let literal = USER_TEXT.as_ref().and_then(|form| form.find(message)).map(|found| plain(found.start()));
    // `Key (name)=(value)`, `Failing row contains (value)`; `COPY t, line 1: "value"`, `SQL statement "…"`.
    let detail = match severity {
        "DETAIL" => message.find('('),
        "CONTEXT" => message.find('"'),
        // Of another language the forms of messages are not known.
        _ if !ENGLISH.contains(&severity.trim_end_matches(|c: char| c.is_ascii_digit())) => {
            message.find(['"', '('])
        }
        _ => None,
    };
    [statement, literal, detail.map(plain)].into_iter().flatten().min_by_key(|cut| cut.at)
}

/// Where a secret begins in a line.
fn secret_in(line: &str) -> Option<usize> {
    let form = SECRET.as_ref()?;
    form.find_iter(line).map(|found| found.end()).find(|end| {
        let rest = &line[*end..];
        !rest.is_empty() && !rest.starts_with(REDACTED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> String {
        redact_lines(text, &mut Secrets::default())
    }

    #[test]
    fn statements_are_cut_in_every_form() {
        const PREFIX: &str = "2026-03-01 10:15:00.123 UTC [42] ";
        for record in [
            "LOG:  statement: ALTER ROLE bob PASSWORD 'hunter2';",
            "LOG:  statement: ALTER ROLE bob\n\tPASSWORD\n\t'hunter2';",
            "LOG:  duration: 3.2 ms  statement: ALTER ROLE bob PASSWORD 'hunter2'",
            "LOG:  execute <unnamed>: select crypt($1, hunter2)",
            "LOG:  duration: 0.1 ms  bind s1: select hunter2",
            "DETAIL:  parameters: $1 = 'hunter2'",
            "DETAIL:  Parameters: $1 = 'a', $2 = 'hunter2'",
            "ERROR:  syntax error at or near \"hunter2\" at character 29",
            "STATEMENT:  ALTER ROLE bob PASSWORD hunter2;",
            "LOG:  parameter \"my_app.api_key\" changed to \"hunter2\"",
            "ERROR:  invalid input syntax for type integer: \"hunter2\"",
            "DETAIL:  Key (password)=(hunter2) already exists.",
            "DETAIL:  Failing row contains (1, hunter2).",
            "CONTEXT:  COPY t, line 1, column a: \"hunter2\"",
            "CONTEXT:  SQL statement \"alter role bob password hunter2\"",
            "LOG:  duration: 3.2 ms  plan:\n\tQuery Text: select hunter2\n\tSeq Scan on t",
            "LOG:  parameter \"primary_conninfo\" changed to \"host=h password=hunter2\"",
            "LOG:  statement: DO $x$ begin perform hunter2; end $x$",
            // Other languages.
            "LOG:  Anweisung: ALTER ROLE bob PASSWORD 'hunter2'",
            "FEHLER:  Syntaxfehler bei »hunter2«",
            "ANWEISUNG:  ALTER ROLE bob PASSWORD 'hunter2'",
            "ОШИБКА:  ошибка синтаксиса (примерное положение: \"hunter2\")",
            "错误:  语法错误 在 \"hunter2\" 或附近的",
            "错误:  语法 hunter2",
            "DETALLE:  La fila que falla contiene (1, hunter2).",
            "INSTRUCTION :  ALTER USER bob PASSWORD hunter2",
            "LOG:  instruction : ALTER USER bob PASSWORD hunter2",
        ] {
            let shown = redacted(&format!("{PREFIX}{record}\n{PREFIX}LOG:  checkpoint complete\n"));
            assert!(!shown.contains("hunter2"), "{record}: {shown}");
            assert!(shown.starts_with(PREFIX) && shown.contains(REMOVED), "{shown}");
            assert!(shown.ends_with("LOG:  checkpoint complete\n"), "{shown}");
        }
        let statement = format!("{PREFIX}LOG:  statement: ALTER ROLE bob PASSWORD 'hunter2';");
        assert_eq!(redacted(&statement), format!("{PREFIX}LOG:  statement: ALTER ROLE [removed]\n"));
        // Another beginning of a line, as somebody's log_line_prefix has it.
        assert_eq!(
            redacted("[bob@app] LOG:  statement: select 'x'"),
            "[bob@app] LOG:  statement: select [removed]\n"
        );
    }

    #[test]
    fn what_helps_is_kept() {
        for line in [
            "2026-03-01 10:15:00.123 UTC [42] FATAL:  password authentication failed for user \"bob\"",
            "2026-03-01 10:15:00.123 UTC [42] LOG:  database system is ready to accept connections",
            "2026-03-01 10:15:00.123 UTC [42] FATAL:  database \"x\" does not exist",
            "2026-03-01 10:15:00.123 UTC [42] LOG:  parameter \"work_mem\" changed to \"4MB\"",
            "2026-03-01T10:15:00.123456Z  INFO cellar_pooler::start: multipooler starts database=app cell=zone1",
            "2026-03-01 10:15:00.123 P00   INFO: backup command begin 2.45: --repo1-cipher-pass=<redacted> --stanza=app",
            "{\"level\":\"info\",\"ts\":\"2026-03-01T10:15:00.123Z\",\"caller\":\"x\",\"msg\":\"it's ready\"}",
        ] {
            assert_eq!(redacted(line), format!("{line}\n"));
        }
    }

    #[test]
    fn secrets_in_lines_of_other_programs_are_cut() {
        for line in [
            "env: PGPASSWORD=hunter2",
            "aws_secret_access_key = hunter2",
            "{'repo-cipher-pass': 'hunter2'}",
            "ran ALTER ROLE bob PASSWORD hunter2",
            "the last lines: alter user bob with password 'hunter2'",
        ] {
            let shown = redacted(&format!("{line}\n  hunter2\nnext"));
            assert!(!shown.contains("hunter2") && shown.ends_with("\nnext\n"), "{shown}");
        }
    }

    #[test]
    fn passwords_are_remembered_for_other_texts() {
        let mut secrets = Secrets::default();
        let _ = redact_lines("LOG:  statement: ALTER ROLE bob\n\tPASSWORD 'hunter2'", &mut secrets);
        assert_eq!(secrets.scrubber().scrub(b"hunter2"), b"[removed]");
    }

    proptest::proptest! {
        #[test]
        fn no_text_around_a_password_shows_it(
            before in "(?s).{0,40}", between in "[ \t\n]{1,3}", after in "(?s).{0,40}",
            severity in "LOG|ERROR|STATEMENT|FEHLER", intro in "(statement: |execute <unnamed>: |Anweisung: )?",
        ) {
            // As PostgreSQL writes what has several lines.
            let statement = format!("{before} PASSWORD{between}'hunter2'{after}").replace('\n', "\n\t");
            let text = format!("2026-03-01 10:15:00.123 UTC [42] {severity}:  {intro}{statement}\nx LOG:  next\n");
            let mut secrets = Secrets::default();
            let shown = secrets_of_both(&text, &mut secrets);
            proptest::prop_assert!(!shown.contains("hunter2"), "{text:?}: {shown:?}");
        }
    }

    /// As a bundle has it: redacted, and then without what was learned.
    fn secrets_of_both(text: &str, secrets: &mut Secrets) -> String {
        let shown = redact_lines(text, secrets);
        String::from_utf8_lossy(&secrets.scrubber().scrub(shown.as_bytes())).into_owned()
    }
}
