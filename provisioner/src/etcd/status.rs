//! How etcd's members are.

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

/// Judges what the members answer. `endpoints` are those of all members.
#[must_use]
pub fn etcd_health(endpoints: &[EtcdEndpoint]) -> EtcdHealth {
    let answers: Vec<_> = endpoints.iter().filter_map(|one| one.status.as_ref().ok()).collect();
    let mut problems = Vec::new();
    for endpoint in endpoints {
        let url = &endpoint.url;
        match &endpoint.status {
            Err(reason) => problems.push(format!("{url} does not answer: {reason}")),
            Ok(status) => {
                if status.leader == 0 {
                    problems.push(format!("{url} has no leader"));
                }
                if status.learner {
                    problems.push(format!("{url} is a learner and has no vote"));
                }
                problems.extend(status.alarms.iter().map(|alarm| format!("{url} has the alarm {alarm}")));
            }
        }
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
