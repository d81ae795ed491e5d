//! etcd's members, a snapshot of its data, and what putting one back has changed.

use cellar_provisioner::{
    EtcdEndpoint, EtcdHealth, EtcdSnapshot, PreparedEtcd, RepairedRecords, RestoredEtcd,
};

use crate::render::facts::NOTHING;
use crate::render::table::Table;
use crate::render::units::size;

fn row(endpoint: &EtcdEndpoint) -> [String; 9] {
    let url = endpoint.url.clone();
    let Ok(status) = &endpoint.status else {
        let nothing = || NOTHING.to_owned();
        let role = "no answer".to_owned();
        return [url, nothing(), role, nothing(), nothing(), nothing(), nothing(), nothing(), nothing()];
    };
    let role = match (status.leader, status.learner) {
        (0, _) => "no leader",
        (leader, _) if leader == status.id => "leader",
        (_, true) => "learner",
        _ => "follower",
    };
    [
        url,
        format!("{:x}", status.id),
        role.to_owned(),
        status.version.clone(),
        size(status.database_bytes),
        status.raft_index.to_string(),
        status.raft_term.to_string(),
        status.alarms.join(","),
        format!("{} ms", endpoint.took.as_millis()),
    ]
}

/// A line for each member, and the problems.
pub(crate) fn status_text(endpoints: &[EtcdEndpoint], health: &EtcdHealth) -> String {
    let headings =
        ["ENDPOINT", "MEMBER", "ROLE", "VERSION", "SIZE", "RAFT INDEX", "TERM", "ALARMS", "ANSWERS IN"];
    let mut table = Table::new(&headings);
    endpoints.iter().for_each(|endpoint| table.row(row(endpoint)));
    let problems = match health {
        EtcdHealth::Well => &[][..],
        EtcdHealth::Degraded(problems) | EtcdHealth::Lost(problems) => problems.as_slice(),
    };
    let problems: String = problems.iter().map(|problem| format!("problem: {problem}\n")).collect();
    format!("{}{problems}", table.render())
}

/// What was written.
pub(crate) fn snapshot_text(written: &EtcdSnapshot) -> String {
    let content = written.content.as_ref().map_or_else(String::new, |content| {
        format!(", revision {}, {} keys with their old revisions", content.revision, content.total_key)
    });
    format!(
        "{}: {}{content}, sha256 {} (checked)",
        written.path.display(),
        size(written.bytes),
        written.sha256
    )
}

/// What was done, and what is not known.
pub(crate) fn restored_text(done: &RestoredEtcd) -> String {
    let mut lines = vec![format!("etcd's data is that of the snapshot, revision {}", done.content.revision)];
    if let Some(kept) = &done.kept {
        lines.push(format!("the data that was there is in {}", kept.display()));
    }
    lines.extend(repaired_lines(&done.repaired));
    lines.push("run `cellar up` to start what uses etcd".to_owned());
    lines.join("\n") + "\n"
}

/// The same for hosts, on which nothing was changed yet.
pub(crate) fn prepared_text(done: &PreparedEtcd) -> String {
    let snapshot = done.snapshot.display();
    let mut lines = vec![format!(
        "{snapshot} is the snapshot, revision {}, with its records brought up to the present",
        done.content.revision
    )];
    lines.extend(repaired_lines(&done.repaired));
    lines.join("\n") + "\n"
}

fn repaired_lines(repaired: &RepairedRecords) -> Vec<String> {
    let mut lines = Vec::new();
    let mut list = |what: &str, names: Vec<String>| {
        if !names.is_empty() {
            lines.push(format!("{what}: {}", names.join(", ")));
        }
    };
    let text = |names: &[cellar_model::CellName]| names.iter().map(ToString::to_string).collect();
    list(
        "jobs that were open in it are closed as failed, how they ended is not known",
        repaired.closed_jobs.iter().map(ToString::to_string).collect(),
    );
    list("cells that are there and were not in it", text(&repaired.added_cells));
    list("cells that were in it and have been removed since", text(&repaired.removed_cells));
    list("cells that were removed and added again since", text(&repaired.replaced_cells));
    list("records that cannot be read and stay as they are", repaired.unreadable.clone());
    for (database, number) in &repaired.incarnations {
        lines.push(format!(
            "database {database} was restored after it: its data is of incarnation {number} and stays so; that restore cannot be rolled back any more"
        ));
    }
    lines.push("lost with what came after it: jobs and their outcomes, schedules, calls in etcd's list (audit.log has them)".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cellar_provisioner::{EtcdMemberStatus, SnapshotContent, etcd_health};

    use super::*;

    fn endpoint(n: u64, leader: Option<u64>) -> EtcdEndpoint {
        let status = leader.ok_or_else(|| "no answer within 3 s".to_owned()).map(|leader| EtcdMemberStatus {
            id: n,
            leader,
            version: "3.4.23".to_owned(),
            database_bytes: 20480,
            raft_index: 1234,
            raft_applied_index: 1234,
            raft_term: 2,
            learner: false,
            alarms: if n == 2 { vec!["NOSPACE".to_owned()] } else { vec![] },
        });
        EtcdEndpoint { url: format!("https://db{n}:12379"), status, took: Duration::from_millis(n) }
    }

    #[test]
    fn each_member_has_a_line_and_each_problem_one() {
        let endpoints = [endpoint(1, Some(1)), endpoint(2, Some(1)), endpoint(3, None)];
        insta::assert_snapshot!(status_text(&endpoints, &etcd_health(&endpoints)), @r"
        ENDPOINT           MEMBER  ROLE       VERSION  SIZE      RAFT INDEX  TERM  ALARMS   ANSWERS IN
        https://db1:12379  1       leader     3.4.23   20.0 KiB  1234        2     -        1 ms
        https://db2:12379  2       follower   3.4.23   20.0 KiB  1234        2     NOSPACE  2 ms
        https://db3:12379  -       no answer  -        -         -           -     -        -
        problem: https://db2:12379 has the alarm NOSPACE
        problem: https://db3:12379 does not answer: no answer within 3 s
        ");
    }

    #[test]
    fn what_is_not_known_after_a_restore_is_told() {
        let done = RestoredEtcd {
            content: SnapshotContent { revision: 42, total_key: 7 },
            kept: Some("/c/etcd/before-x".into()),
            repaired: RepairedRecords {
                closed_jobs: vec!["01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()],
                added_cells: vec!["zone3".parse().unwrap()],
                incarnations: vec![("app".parse().unwrap(), 2)],
                ..RepairedRecords::default()
            },
        };
        let text = restored_text(&done);
        for told in
            ["revision 42", "/c/etcd/before-x", "01890a5d-ac96", "zone3", "incarnation 2", "`cellar up`"]
        {
            assert!(text.contains(told), "{told} is not in {text}");
        }
        assert!(!text.contains("removed since") && !text.contains("cannot be read"), "{text}");
    }
}
