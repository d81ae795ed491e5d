use super::*;
use crate::records::calendar::CalendarError;
use proptest::prelude::*;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn calendar(cron: &str, zone: &str) -> Calendar {
    Calendar::new(cron, zone).unwrap()
}

fn times(calendar: &Calendar, after: &str, count: usize) -> Vec<String> {
    let mut after = time(after);
    let mut found = Vec::new();
    for _ in 0..count {
        after = calendar.next(after).unwrap();
        found.push(after.to_string());
    }
    found
}

fn schedule(cron: &str, settled: &str) -> Schedule {
    Schedule {
        database: "app".parse().unwrap(),
        name: "nightly".parse().unwrap(),
        calendar: calendar(cron, "UTC"),
        work: ScheduledWork::Verify {},
        paused: false,
        set_by: "me".into(),
        settled: time(settled),
        last: None,
        newest_job: None,
    }
}

#[test]
fn times_are_those_of_crontab() {
    let nightly = calendar("30 1 * * *", "");
    assert_eq!(times(&nightly, "2026-03-01T01:30:00Z", 2), ["2026-03-02T01:30:00Z", "2026-03-03T01:30:00Z"]);
    let sundays = calendar("0 3 * * SUN", "UTC");
    assert_eq!(times(&sundays, "2026-03-03T00:00:00Z", 1), ["2026-03-08T03:00:00Z"]);
    let quarters = calendar("*/15  *  * * *", "UTC");
    assert_eq!(quarters.to_string(), "*/15 * * * * UTC");
    assert_eq!(
        times(&quarters, "2026-03-03T00:14:59.5Z", 2),
        ["2026-03-03T00:15:00Z", "2026-03-03T00:30:00Z"]
    );
    let leap = calendar("0 0 29 2 *", "UTC");
    assert_eq!(times(&leap, "2026-03-03T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
}

#[test]
fn each_local_time_comes_once() {
    // Clocks in Berlin go from 02:00 to 03:00 on 2026-03-29 at 01:00 UTC, and back on 2026-10-25 at 01:00 UTC.
    let half_past_two = calendar("30 2 * * *", "Europe/Berlin");
    assert_eq!(
        times(&half_past_two, "2026-03-28T00:00:00Z", 3),
        ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]
    );
    // After the change, when it is 03:10 there, 02:30 has still to come: at 03:30.
    assert_eq!(times(&half_past_two, "2026-03-29T01:10:00Z", 1), ["2026-03-29T01:30:00Z"]);
    assert_eq!(times(&half_past_two, "2026-03-29T01:30:00Z", 1), ["2026-03-30T00:30:00Z"]);
    assert_eq!(
        times(&half_past_two, "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    let halves = calendar("*/30 * * * *", "Europe/Berlin");
    assert_eq!(
        times(&halves, "2026-10-25T00:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z"],
        "not again in the hour that is there twice"
    );
    assert_eq!(
        times(&halves, "2026-03-29T00:00:00Z", 3),
        ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]
    );
}

#[test]
fn bad_calendar_is_refused() {
    for bad in [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "a b c d e",
        "* * * * * UTC",
        "@daily",
        "* * * * \u{7f}",
        "* * * * é",
        "-1 * * * *",
        "*/0 * * * *",
    ] {
        assert!(matches!(Calendar::new(bad, "UTC"), Err(CalendarError::Cron { .. })), "{bad}");
    }
    assert!(Calendar::new(&format!("{} * * * *", "1,".repeat(200)), "UTC").is_err());
    for bad in ["Mars/Olympus", " ", "UTC\n", "../etc/passwd", "/etc/passwd", "."] {
        assert!(matches!(Calendar::new("* * * * *", bad), Err(CalendarError::TimeZone(_))), "{bad}");
    }
    // Files beside the zones, which each host may have otherwise; a record with one is still read.
    for file in ["posixrules", "localtime", "Factory", "posix/Europe/Berlin", "right/UTC"] {
        assert!(matches!(Calendar::new("* * * * *", file), Err(CalendarError::TimeZone(_))), "{file}");
    }
    let recorded = serde_json::from_str::<Calendar>(r#"{"cron": "1 2 * * *", "timeZone": "posixrules"}"#);
    assert!(recorded.is_ok(), "{recorded:?}");
    assert_eq!(Calendar::new("0 0 30 2 *", ""), Err(CalendarError::Never("0 0 30 2 *".into())));
    let odd: Result<Calendar, _> = serde_json::from_str(r#"{"cron": "* * *"}"#);
    assert!(odd.is_err());
}

#[test]
fn run_begins_at_its_time_and_not_long_after() {
    let nightly = schedule("30 1 * * *", "2026-03-01T12:00:00Z");
    let due = time("2026-03-02T01:30:00Z");
    for (now, turn) in [
        ("2026-03-01T11:00:00Z", ScheduleAction::Rest),
        ("2026-03-02T01:29:59Z", ScheduleAction::Rest),
        ("2026-03-02T01:30:00Z", ScheduleAction::Begin(due)),
        ("2026-03-02T02:29:59Z", ScheduleAction::Begin(due)),
        ("2026-03-02T02:30:01Z", ScheduleAction::Missed(due)),
        ("2026-03-09T01:00:00Z", ScheduleAction::Missed(due)),
        ("2026-03-09T01:31:00Z", ScheduleAction::Begin(time("2026-03-09T01:30:00Z"))),
    ] {
        assert_eq!(nightly.turn(time(now)), turn, "{now}");
    }
    let settled = Schedule { settled: due, ..nightly.clone() };
    assert_eq!(settled.turn(time("2026-03-02T02:00:00Z")), ScheduleAction::Rest);
    assert_eq!(settled.next(time("2026-03-02T02:00:00Z")), Some(time("2026-03-03T01:30:00Z")));
    let paused = Schedule { paused: true, ..nightly };
    assert_eq!(paused.turn(due), ScheduleAction::Rest);
    assert_eq!(paused.next(due), None);
}

#[test]
fn of_many_times_that_passed_the_newest_counts() {
    let often = schedule("*/10 * * * *", "2026-03-01T12:00:00Z");
    assert_eq!(often.turn(time("2026-03-01T12:39:00Z")), ScheduleAction::Begin(time("2026-03-01T12:30:00Z")));
    assert_eq!(often.turn(time("2026-03-05T12:39:00Z")), ScheduleAction::Begin(time("2026-03-05T12:30:00Z")));
}

#[test]
fn due_time_has_one_request_id() {
    let nightly = schedule("30 1 * * *", "2026-03-01T12:00:00Z");
    let id = nightly.request_id(time("2026-03-02T01:30:00Z")).unwrap();
    assert_eq!(id.to_string(), "schedule/nightly/2026-03-02T01:30:00Z");
    let long = Schedule { name: "n".repeat(63).parse().unwrap(), ..nightly };
    assert!(long.request_id(time("2026-03-02T01:30:00Z")).is_some());
}

proptest! {
    #[test]
    fn no_record_of_any_time_panics(settled in any::<i64>(), now in any::<i64>(), cron in "[*/0-9,LW# -]{5,30}") {
        let text = format!("{} * * *", cron.trim());
        let calendar = Calendar::new(&text, "Europe/Berlin").unwrap_or_else(|_| calendar("0 0 1 1 *", "UTC"));
        let at = |n: i64| Timestamp::from_second(n % 253_402_000_000).unwrap();
        let subject = Schedule { calendar, settled: at(settled), ..schedule("* * * * *", "2026-03-01T12:00:00Z") };
        match subject.turn(at(now)) {
            // A time that lies ahead was settled by a wrong clock, and counts for nothing.
            ScheduleAction::Begin(due) | ScheduleAction::Missed(due) => {
                prop_assert!(due <= at(now) && (due > subject.settled || subject.settled > at(now)));
            }
            ScheduleAction::Rest => {}
        }
    }

    #[test]
    fn next_time_is_later_and_none_lies_between(after in 1_700_000_000_i64..1_900_000_000, minute in 0..60, hour in 0..24) {
        let daily = calendar(&format!("{minute} {hour} * * *"), "America/New_York");
        let after = Timestamp::from_second(after).unwrap();
        let next = daily.next(after).unwrap();
        let span = next.as_second() - after.as_second();
        prop_assert!((1..=25 * 3600 + 1).contains(&span), "{}", span);
    }
}

#[test]
fn schedule_that_was_settled_by_a_wrong_clock_runs_again() {
    let now = time("2026-03-01T10:00:20Z");
    for settled in ["2026-03-01T11:30:00Z", "2031-01-01T00:00:00Z"] {
        let mut schedule = schedule("*/15 * * * *", settled);
        assert_eq!(
            schedule.turn(now),
            ScheduleAction::Begin(time("2026-03-01T10:00:00Z")),
            "settled at {settled}"
        );
        assert_eq!(schedule.next(now), Some(time("2026-03-01T10:15:00Z")));
        schedule.settled = time("2026-03-01T10:00:00Z");
        assert_eq!(schedule.turn(now), ScheduleAction::Rest);
    }
    // Clocks of two leaders may differ by minutes.
    assert_eq!(schedule("*/15 * * * *", "2026-03-01T10:30:00Z").turn(now), ScheduleAction::Rest);
}
