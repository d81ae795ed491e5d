//! Removing what is secret from JSON: answers of commands and files of state.

use serde_json::Value;

use super::REMOVED;
use super::log_text::redact_log;
use super::secrets::Secrets;

/// Names of fields whose values are a user's statements.
const STATEMENTS: [&str; 3] = ["check", "checks", "sql"];

/// Parts of names of fields whose values are secret.
const SECRET_NAMES: [&str; 5] = ["password", "passphrase", "secret", "token", "credential"];

/// A document without secrets; as a log if it is no document.
pub(super) fn redact_json(text: &str, secrets: &mut Secrets) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            redact_value(&mut value, secrets);
            format!("{value:#}\n")
        }
        Err(_) => redact_log(text, secrets),
    }
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
                if SECRET_NAMES.iter().any(|part| lower.contains(part)) {
                    *value = Value::String(REMOVED.to_owned());
                } else if is_statement {
                    cut_literals(value, secrets);
                } else {
                    redact_value(value, secrets);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Shows statements up to their first literal.
fn cut_literals(value: &mut Value, secrets: &mut Secrets) {
    match value {
        Value::String(text) => {
            super::sql::learn_passwords(text, secrets);
            if let Some(at) = text.find(['\'', '$']) {
                *text = format!("{}{REMOVED}", &text[..at]);
            }
            redact_value(value, secrets);
        }
        Value::Array(values) => values.iter_mut().for_each(|value| cut_literals(value, secrets)),
        other => redact_value(other, secrets),
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
                "drill": {"checks": ["select login('x', 'hunter2')", "select 1"], "sql": "select $$hunter2$$"},
            }],
            "cipherPassphrase": "hunter2", "accessToken": {"x": "hunter2"}, "bytes": 7, "done": true, "none": null,
        });
        let shown = redact_json(&document.to_string(), &mut Secrets::default());
        assert!(!shown.contains("hunter2"), "{shown}");
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["jobs"][0]["error"]["toolOutput"], "a\nLOG:  statement: alter role [removed]\nb");
        assert_eq!(shown["jobs"][0]["drill"]["checks"][1], "select 1");
        assert_eq!((&shown["bytes"], &shown["done"]), (&Value::from(7), &Value::Bool(true)));
        let no_document = redact_json("error: password=hunter2", &mut Secrets::default());
        assert_eq!(no_document, "error: password=[removed]\n");
    }
}
