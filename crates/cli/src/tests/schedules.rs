//! Schedules.

use cellar_api::v1::ListSchedulesResponse;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::jobs::succeeded;
use super::messages::{ID, message};
use crate::render::schedules::list;

fn view(name: &str, work: &Value, last: &Value, settled: &str) -> Value {
    json!({
        "schedule": {
            "database": "app", "name": name, "calendar": {"cron": "30 1 * * *", "timeZone": "UTC"}, "work": work,
            "setBy": "spiffe://demo/admin/ada", "settled": settled, "last": last,
        },
        "nextTime": "2026-03-03T01:30:00Z",
    })
}

#[test]
fn schedules_are_listed_with_their_last_run() {
    let backup = json!({"backup": {"cells": ["zone3", "zone2"], "type": "BACKUP_TYPE_FULL"}});
    let error = json!({"code": "CELL_DOWN", "message": "cell zone3 is down\u{1b}[2J", "hint": "h"});
    let (due, before) = ("2026-03-02T01:30:00Z", "2026-03-01T09:00:00Z");
    let mut done = view("nightly", &backup, &json!({"due": due, "job": ID}), due);
    done["lastJob"] = serde_json::to_value(succeeded()).unwrap();
    let mut paused = view("proof", &json!({"drill": {"cell": "zone2"}}), &Value::Null, before);
    paused["schedule"]["paused"] = true.into();
    let answer: ListSchedulesResponse = message(json!({
        "schedules": [
            done,
            view("forgotten", &json!({"verify": {}}), &json!({"due": due, "job": ID}), due),
            view("missed", &backup, &json!({"due": due, "error": error}), due),
            view("new", &json!({"expire": {}}), &Value::Null, before),
            view("waiting", &backup, &json!({"due": due, "error": error}), before),
            paused,
        ],
        "unreadableRecords": ["/cellar/demo/schedules/app/odd"],
    }));
    assert_snapshot!(format!("{}{}", list(&answer), list(&ListSchedulesResponse::default())));
}
