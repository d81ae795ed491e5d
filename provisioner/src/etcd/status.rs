//! How etcd's members are.

use std::fmt;

use cellar_topology::EtcdEndpoint;

use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::Result;

/// How etcd is as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcdHealth {
    /// Every member answers and follows one leader, and no alarm is set.
    Well,
    /// A majority works; these are the problems.
    Degraded(Vec<String>),
    /// No majority follows one leader: nothing can be written, and no job begins or ends.
    Lost(Vec<String>),
}

/// What is wrong with a member of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberProblem {
    /// It does not answer, for this reason.
    Silent(String),
    /// It runs and follows no leader.
    NoLeader,
    /// It is being given its data, and does not count yet.
    Learner,
    /// An alarm is set for it.
    Alarm(String),
}

impl fmt::Display for MemberProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(reason) => write!(f, "does not answer: {reason}"),
            Self::NoLeader => f.write_str("has no leader"),
            Self::Learner => f.write_str("is a learner and has no vote"),
            Self::Alarm(alarm) => write!(f, "has the alarm {alarm}"),
        }
    }
}

/// What is wrong with the member at an endpoint, the worst first.
pub(crate) fn member_problems(endpoint: &EtcdEndpoint) -> Vec<MemberProblem> {
    let status = match &endpoint.status {
        Ok(status) => status,
        Err(reason) => return vec![MemberProblem::Silent(reason.clone())],
    };
    let no_leader = (status.leader == 0).then_some(MemberProblem::NoLeader);
    let learner = status.learner.then_some(MemberProblem::Learner);
    let alarms = status.alarms.iter().cloned().map(MemberProblem::Alarm);
    no_leader.into_iter().chain(learner).chain(alarms).collect()
}

/// Judges what the members answer. `endpoints` are those of all members.
#[must_use]
pub fn etcd_health(endpoints: &[EtcdEndpoint]) -> EtcdHealth {
    let answers: Vec<_> = endpoints.iter().filter_map(|one| one.status.as_ref().ok()).collect();
    let mut problems = Vec::new();
    for endpoint in endpoints {
        let of_member = member_problems(endpoint).into_iter();
        problems.extend(of_member.map(|problem| format!("{} {problem}", endpoint.url)));
    }
    let followers = |leader: u64| answers.iter().filter(|one| one.leader == leader && !one.learner).count();
    let most = answers.iter().filter(|one| one.leader != 0).map(|one| followers(one.leader)).max();
    if most.unwrap_or(0) <= endpoints.len() / 2 {
        return EtcdHealth::Lost(problems);
    }
    // Two leaders at once: one of them does not know yet that it is none.
    let leaders: std::collections::BTreeSet<u64> =
        answers.iter().map(|one| one.leader).filter(|leader| *leader != 0).collect();
    if leaders.len() > 1 {
        problems.push("the members name different leaders".to_owned());
    }
    if problems.is_empty() { EtcdHealth::Well } else { EtcdHealth::Degraded(problems) }
}

impl Cluster {
    /// Asks every member of etcd how it is.
    ///
    /// # Errors
    /// When there is no certificate to ask with. A member that does not answer is no error.
    pub async fn etcd_status(&self) -> Result<Vec<EtcdEndpoint>> {
        Ok(self.etcd().await?.endpoints().await)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cellar_topology::EtcdMemberStatus;

    use super::*;

    fn endpoint(n: u64, answer: Option<u64>) -> EtcdEndpoint {
        let status = answer.ok_or_else(|| "no answer within 3 s".to_owned()).map(|leader| EtcdMemberStatus {
            id: n,
            leader,
            version: "3.4.23".to_owned(),
            database_bytes: 20480,
            raft_index: 10,
            raft_applied_index: 10,
            raft_term: 2,
            learner: false,
            alarms: vec![],
        });
        EtcdEndpoint { url: format!("https://db{n}:12379"), status, took: Duration::from_millis(3) }
    }

    fn health(answers: &[Option<u64>]) -> EtcdHealth {
        let endpoints: Vec<_> = (1..).zip(answers).map(|(n, answer)| endpoint(n, *answer)).collect();
        etcd_health(&endpoints)
    }

    #[test]
    fn majority_must_follow_one_leader() {
        assert_eq!(health(&[Some(1)]), EtcdHealth::Well);
        assert_eq!(health(&[Some(2), Some(2), Some(2)]), EtcdHealth::Well);
        assert!(matches!(health(&[Some(2), Some(2), None]), EtcdHealth::Degraded(found) if found.len() == 1));
        assert!(
            matches!(health(&[Some(2), Some(2), Some(0)]), EtcdHealth::Degraded(found) if found.len() == 1)
        );
        assert!(
            matches!(health(&[Some(2), Some(2), Some(3)]), EtcdHealth::Degraded(found) if found.len() == 1)
        );
        for lost in [&[None][..], &[Some(0)], &[Some(1), None, None], &[Some(0), Some(0), None], &[]] {
            assert!(matches!(health(lost), EtcdHealth::Lost(_)), "{lost:?}");
        }
        // Two of four are no majority.
        assert!(matches!(health(&[Some(1), Some(1), None, None]), EtcdHealth::Lost(_)));
    }

    #[test]
    fn alarms_and_learners_are_problems() {
        let mut endpoints: Vec<_> = (1..=3).map(|n| endpoint(n, Some(1))).collect();
        let status = endpoints[2].status.as_mut().unwrap();
        status.alarms.push("NOSPACE".to_owned());
        status.learner = true;
        let EtcdHealth::Degraded(problems) = etcd_health(&endpoints) else { panic!("{endpoints:?}") };
        assert_eq!(
            problems,
            ["https://db3:12379 is a learner and has no vote", "https://db3:12379 has the alarm NOSPACE"]
        );
    }
}
