//! What was requested of a job, beside its database and cell: one function for each kind.

use cellar_api::v1::job::Spec;
use cellar_api::v1::{
    BackupParams, DrillParams, ExpireParams, Job, RebuildParams, RecoverParams, RestoreParams,
};

use crate::render::facts::Fact;
use crate::render::plan::target;
use crate::render::units;
use crate::render::words::type_word;

/// The facts of a job's parameters; those without a value are left out where they are shown.
pub(crate) fn parameters(job: &Job) -> Vec<Fact> {
    let mut facts = vec![("step of", job.parent.clone().unwrap_or_default())];
    facts.extend(match &job.spec {
        None => Vec::new(),
        Some(Spec::Backup(params)) => backup(params),
        Some(Spec::Rebuild(params)) => rebuild(params),
        Some(Spec::Restore(params)) => restore(params),
        Some(Spec::Recover(params)) => recover(params),
        Some(Spec::Drill(params)) => drill(params),
        Some(Spec::Subject(restore)) => vec![("of restore", restore.clone())],
        Some(Spec::Expire(params)) => expire(params),
        Some(Spec::Restart(params)) => vec![("primary", flag(params.is_primary, "allowed"))],
    });
    if let Some(dead) = &job.dead_primary {
        let since = if dead.reported { "; it has reported since" } else { "" };
        facts.push(("primary", format!("vouched for as dead in {}{since}", dead.cell)));
    }
    facts
}

fn flag(is_set: bool, words: &str) -> String {
    if is_set { words.to_owned() } else { String::new() }
}

fn in_place(is_set: bool) -> Fact {
    ("in place", flag(is_set, "yes: the old data is not kept"))
}

fn kept_for(restore: Option<&String>) -> String {
    restore.map(|id| format!("the old data that was kept for restore {id}")).unwrap_or_default()
}

fn backup(params: &BackupParams) -> Vec<Fact> {
    vec![
        ("type", type_word(params.r#type()).to_owned()),
        ("primary", flag(params.allow_primary, "allowed as source")),
    ]
}

fn rebuild(params: &RebuildParams) -> Vec<Fact> {
    let keep = params.keep_for.as_ref().map(|id| format!("kept for restore {id}"));
    vec![("old data", keep.unwrap_or_default()), ("reinstated", kept_for(params.put_back.as_ref()))]
}

fn restore(params: &RestoreParams) -> Vec<Fact> {
    vec![
        ("target", target(params.target.as_ref())),
        ("timeline", params.timeline.map(|timeline| timeline.to_string()).unwrap_or_default()),
        ("onto", params.onto.clone().unwrap_or_default()),
        ("backup", params.backup.clone().unwrap_or_default()),
        in_place(params.in_place),
    ]
}

fn recover(params: &RecoverParams) -> Vec<Fact> {
    vec![
        ("target", target(params.target.as_ref())),
        ("timeline", params.timeline.to_string()),
        ("from", params.set.clone().unwrap_or_else(|| kept_for(params.kept.as_ref()))),
        ("last WAL", params.last_segment.clone().unwrap_or_default()),
        ("incarnation", params.incarnation.to_string()),
        in_place(params.in_place),
    ]
}

fn drill(params: &DrillParams) -> Vec<Fact> {
    let rate = match params.max_bytes_per_second {
        0 => "no limit".to_owned(),
        rate => format!("at most {} a second", units::size(rate)),
    };
    let one_line = |check: &String| check.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut facts = vec![("backup", params.backup.clone().unwrap_or_else(|| "the newest".to_owned()))];
    facts.extend(params.checks.iter().map(|check| ("check", one_line(check))));
    facts.extend([
        ("checked in", flag(!params.checks.is_empty(), &params.check_database)),
        ("pg_amcheck", flag(params.skip_amcheck, "left out")),
        ("nice", params.nice.to_string()),
        ("rate", rate),
    ]);
    facts
}

fn expire(params: &ExpireParams) -> Vec<Fact> {
    let what = params.backup.clone().unwrap_or_else(|| "all that the retention does not keep".to_owned());
    vec![("expires", what), ("dry run", flag(params.dry_run, "yes: nothing is deleted"))]
}
