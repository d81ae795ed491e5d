//! Fields of a stored record that this build does not know stay in it when it writes the record again.
//!
//! Processes of two releases write the same records during an update. The older one would drop what the newer one
//! stored, if it wrote no more than it has read.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The record as this build understands it, written again; `None` for a value that is no such record.
pub(crate) type Understood = fn(&[u8]) -> Option<Value>;

/// What this build understands of a stored record of type `R`.
pub(crate) fn understood<R: Serialize + DeserializeOwned>(stored: &[u8]) -> Option<Value> {
    let record: R = serde_json::from_slice(stored).ok()?;
    serde_json::to_value(record).ok()
}

/// The new value with the fields of the stored one that this build does not know.
///
/// An object that the new value no longer has takes its unknown fields with it. Lists are not looked into: their
/// elements have no names by which to find them again.
pub(crate) fn kept(stored: &[u8], new: Vec<u8>, understood: Understood) -> Vec<u8> {
    let keep = || {
        let known = understood(stored)?;
        let stored: Value = serde_json::from_slice(stored).ok()?;
        if known == stored {
            return None;
        }
        let mut merged: Value = serde_json::from_slice(&new).ok()?;
        add_unknown(merged.as_object_mut()?, stored.as_object()?, known.as_object()?);
        serde_json::to_vec(&merged).ok()
    };
    keep().unwrap_or(new)
}

fn add_unknown(new: &mut Map<String, Value>, stored: &Map<String, Value>, known: &Map<String, Value>) {
    for (name, value) in stored {
        match (known.get(name), value, new.get_mut(name)) {
            // An unknown field; one that this build leaves out because it is empty changes nothing.
            (None, _, None) => drop(new.insert(name.clone(), value.clone())),
            (Some(Value::Object(known)), Value::Object(stored), Some(Value::Object(new))) => {
                add_unknown(new, stored, known);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_model::{Incarnation, JobRecord};
    use serde_json::json;

    fn rewritten<R: Serialize + DeserializeOwned>(stored: &Value, change: impl FnOnce(&mut R)) -> Value {
        let text = stored.to_string().into_bytes();
        let mut record: R = serde_json::from_slice(&text).unwrap();
        change(&mut record);
        let new = serde_json::to_vec(&record).unwrap();
        serde_json::from_slice(&kept(&text, new, understood::<R>)).unwrap()
    }

    fn job(more: &Value) -> Value {
        let mut job = json!({
            "id": "01890a5d-ac96-774b-bcce-b302099a8057", "database": "app", "cell": "zone2",
            "kind": "JOB_KIND_BACKUP", "requestedBy": "ann",
            "backup": {"type": "BACKUP_TYPE_INCR", "allowPrimary": false, "maxLagBytes": "268435456"},
            "createTime": "2026-03-01T10:00:00Z", "deadline": "2026-03-04T10:00:00Z",
        });
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job
    }

    #[test]
    fn fields_of_a_newer_release_survive() {
        let cancel = json!({"requestedBy": "ann", "time": "2026-03-01T11:00:00Z", "reason": "late"});
        let stored = job(&json!({"cancel": cancel, "priority": {"class": 7}, "tags": ["a"]}));
        let mut expected = stored.clone();
        expected["cancel"]["requestedBy"] = json!("bob");
        let written = rewritten::<JobRecord>(&stored, |job| {
            job.cancel.as_mut().unwrap().requested_by = "bob".to_owned();
        });
        assert_eq!(written, expected);
    }

    #[test]
    fn removed_object_takes_its_unknown_fields_with_it() {
        let cancel = json!({"requestedBy": "ann", "time": "2026-03-01T11:00:00Z", "reason": "late"});
        let written = rewritten::<JobRecord>(&job(&json!({"cancel": cancel})), |job| job.cancel = None);
        assert_eq!(written, job(&json!({})));
    }

    #[test]
    fn known_field_that_was_emptied_stays_empty() {
        let stored = json!({"number": 2, "keptIn": "zone1", "origin": "copied"});
        let written = rewritten::<Incarnation>(&stored, |incarnation| {
            incarnation.number = 3;
            incarnation.kept_in = None;
        });
        assert_eq!(written, json!({"number": 3, "origin": "copied"}));
    }

    #[test]
    fn what_is_no_such_record_is_replaced() {
        assert_eq!(kept(b"null", b"{}".to_vec(), understood::<JobRecord>), b"{}");
        assert_eq!(kept(b"\"a\"", b"\"b\"".to_vec(), understood::<String>), b"\"b\"");
    }
}
