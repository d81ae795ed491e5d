//! Removing what is secret from JSON: answers of commands and files of state.

use serde_json::Value;

use super::REMOVED;
use super::log_text::redact_lines;
use super::secrets::Secrets;
use super::sql::{command_words, learn_passwords};

/// Names of fields that hold a user's statements, or what came of them.
const STATEMENTS: [&str; 3] = ["check", "checks", "sql"];

/// Checks that are no statements.
const OWN_CHECKS: [&str; 2] = ["pg_amcheck", "page checksums"];

/// Parts of names of fields whose values are secret.
const SECRET_NAMES: [&str; 9] = [
    "password",
    "passphrase",
    "passwd",
    "secret",
    "token",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
];

/// Whether a field's name says that its value is secret.
fn names_secret(name: &str) -> bool {
    let name: String = name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    name.ends_with("pass") || SECRET_NAMES.iter().any(|part| name.contains(part))
}

/// A log without secrets. Its lines may be documents: those of the audit log, and of daemons that were asked for JSON.
pub(super) fn redact_log(text: &str, secrets: &mut Secrets) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut plain = String::new();
    for line in text.lines() {
        let document = if line.starts_with('{') { serde_json::from_str::<Value>(line).ok() } else { None };
        let Some(value) = document else {
            plain.push_str(line);
            plain.push('\n');
            continue;
        };
        redacted.push_str(&redact_lines(&std::mem::take(&mut plain), secrets));
        let mut shown = value.clone();
        redact_value(&mut shown, secrets);
        // As it was written, with its fields in their order, when nothing had to be removed.
        redacted.push_str(&if shown == value { line.to_owned() } else { shown.to_string() });
        redacted.push('\n');
    }
    redacted.push_str(&redact_lines(&plain, secrets));
    redacted
}

/// A document without secrets; none when it is no document.
pub(super) fn redact_json(text: &str, secrets: &mut Secrets) -> Option<String> {
    let mut value = serde_json::from_str::<Value>(text).ok()?;
    redact_value(&mut value, secrets);
    Some(format!("{value:#}\n"))
}

/// A file of state without secrets. One that cannot be read is shown, because it needs a look.
pub(super) fn redact_state(text: &str, secrets: &mut Secrets) -> String {
    redact_json(text, secrets).unwrap_or_else(|| redact_log(text, secrets))
}

fn redact_value(value: &mut Value, secrets: &mut Secrets) {
    match value {
        Value::String(text) => {
            let redacted = redact_log(text, secrets);
            *text = redacted.strip_suffix('\n').unwrap_or(&redacted).to_owned();
        }
        Value::Array(values) => values.iter_mut().for_each(|value| redact_value(value, secrets)),
        Value::Object(fields) => {
            for (name, value) in fields {
                let lower = name.to_ascii_lowercase();
                let is_statement = STATEMENTS.contains(&lower.as_str());
                if names_secret(name) {
                    *value = Value::String(REMOVED.to_owned());
                } else if is_statement {
                    cut_statements(value, secrets);
                } else {
                    redact_value(value, secrets);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Shows the words of a statement that say what it does, and no text of a user's.
fn cut_statements(value: &mut Value, secrets: &mut Secrets) {
    match value {
        Value::String(text) => {
            learn_passwords(text, secrets);
            let is_code = text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            if !is_code && !OWN_CHECKS.contains(&text.as_str()) {
                *text = format!("{}{REMOVED}", command_words(text));
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| cut_statements(value, secrets)),
        Value::Object(fields) => {
            let name = fields.get("name").and_then(Value::as_str);
            let is_own = name.is_some_and(|name| OWN_CHECKS.contains(&name));
            for value in fields.values_mut() {
                if is_own { redact_value(value, secrets) } else { cut_statements(value, secrets) }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_documents_are_removed() {
        let document = serde_json::json!({
            "jobs": [{
                "id": "1", "error": {"toolOutput": "a\nLOG:  statement: alter role b password 'hunter2'\nb"},
                "drill": {"checks": ["select login('x', 'hunter2')", "alter role x"], "sql": "select $$hunter2$$"},
                "result": {"checks": [{"name": "select 'hunter2'", "output": "hunter2", "passed": true}, {"name": "pg_amcheck", "detail": "page 7"}]},
                "log": "{\"arguments\":{\"sql\":\"select hunter2\"},\"ts\":1}\nb",
            }],
            "cipherPassphrase": "hunter2", "accessToken": {"x": "hunter2"}, "bytes": 7, "done": true, "none": null,
        });
        let shown = redact_json(&document.to_string(), &mut Secrets::default()).unwrap();
        assert!(!shown.contains("hunter2"), "{shown}");
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["jobs"][0]["error"]["toolOutput"], "a\nLOG:  statement: alter role [removed]\nb");
        assert_eq!(shown["jobs"][0]["drill"]["checks"][1], "alter role [removed]");
        let own = &shown["jobs"][0]["result"]["checks"][1];
        assert_eq!((&own["name"], &own["detail"]), (&Value::from("pg_amcheck"), &Value::from("page 7")));
        assert_eq!((&shown["bytes"], &shown["done"]), (&Value::from(7), &Value::Bool(true)));
        let no_document = redact_state("error: password=hunter2", &mut Secrets::default());
        assert_eq!(no_document, "error: password=[removed]\n");
    }

    #[test]
    fn secrets_in_records_of_json_are_removed() {
        let text = "{\"repo-cipher-pass\":\"hunter2\",\"msg\":\"a\\nPGPASSWORD=hunter2\",\"checks\":[\"select hunter2\"]}\nnext";
        let shown = redact_log(text, &mut Secrets::default());
        assert!(!shown.contains("hunter2") && shown.ends_with("}\nnext\n"), "{shown}");
    }
}
