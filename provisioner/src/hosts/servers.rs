//! Whether every etcd member and every multiadmin on the hosts of a cluster answers, and how long its certificate lasts, as
//! seen from the operator's machine. One that is silent costs nothing while the others work, so nobody would notice.

use std::time::Duration;

use cellar_api::v1::ListCellsRequest;
use cellar_model::{CellName, Code, HostName, Ports};
use cellar_system::addresses_of;
use cellar_tls::{CertificateInfo, ClientTls, ProbeProtocol, Probed, probe};
use cellar_topology::EtcdEndpoint;
use futures_util::future::join_all;

use crate::certificates::clients::CHOICE_TIMEOUT;
use crate::cluster::local_cluster::Cluster;
use crate::error::finding::Finding;
use crate::error::provision_error::Result;
use crate::etcd::status::{EtcdHealth, MemberProblem, etcd_health, member_problems};

/// How long a server may take to show its certificate, and whether it accepts the client.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// An etcd member or a multiadmin on the host of a cell.
#[derive(Debug, Clone)]
pub struct HostServer {
    /// What it is, with its cell and address.
    pub what: String,
    /// Its cell.
    pub cell: CellName,
    /// What is wrong with it, and what to do.
    pub problem: Option<Finding>,
    /// The certificate that it serves; none when it could not be had.
    pub certificate: Option<CertificateInfo>,
    /// Which it is.
    pub(super) kind: ServerKind,
}

/// Which server of a host it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerKind {
    /// The etcd member, with the id that it says it has.
    Etcd(Option<u64>),
    Multiadmin,
}

/// What is wrong with a member of etcd. `lost` when no majority works.
fn etcd_problem(
    what: &str,
    cell: &CellName,
    host: &str,
    answer: &EtcdEndpoint,
    lost: bool,
) -> Option<Finding> {
    let majority = if lost { "; until a majority of the members runs, no job begins or ends" } else { "" };
    let problems = member_problems(answer);
    let hint = match problems.first()? {
        MemberProblem::Silent(_) => format!(
            "on {host}: `cellar host status` and `cellar host start`{majority}. If its data or its host is lost: {}",
            if lost {
                "docs/runbooks/lost-etcd.md".to_owned()
            } else {
                format!("`cellar etcd replace {cell}` here")
            }
        ),
        MemberProblem::NoLeader => format!("start the other members, and let {host} reach them{majority}"),
        MemberProblem::Learner => "wait until the others have given it their data".to_owned(),
        MemberProblem::Alarm(_) => {
            "docs/troubleshooting.md (etcd is down) says what to do about it".to_owned()
        }
    };
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Some(Finding { message: format!("{what} {}", said.join(" and ")), hint: Some(hint) })
}

/// What is wrong with a multiadmin that has answered so.
fn multiadmin_problem(
    what: &str,
    host: &str,
    answer: std::result::Result<(), tonic::Status>,
    lost: bool,
) -> Option<Finding> {
    let status = answer.err()?;
    let (message, hint) = match cellar_api::reason_of(&status) {
        // It answers, and waits for etcd as everybody does.
        Some(Code::Unavailable) if lost => return None,
        Some(_) => (
            format!("{what} refuses: {}", status.message()),
            format!("log/multiadmin.log on {host} says more; a member of etcd may be cut off from it"),
        ),
        None => (
            format!("{what} does not answer: {}", status.message()),
            format!("on {host}: `cellar host status` and `cellar host start`"),
        ),
    };
    Some(Finding { message, hint: Some(hint) })
}

impl Cluster {
    /// Every etcd member and every multiadmin on the hosts of this cluster; none of a local cluster.
    ///
    /// # Errors
    /// When there is no certificate to ask with. A server that does not answer is no error.
    pub async fn host_servers(&self) -> Result<Vec<HostServer>> {
        if self.is_local() {
            return Ok(Vec::new());
        }
        let etcd = self.etcd().await?;
        let (endpoints, multiadmins) = tokio::join!(etcd.endpoints(), self.ask_multiadmins());
        let multiadmins = multiadmins?;
        let lost = matches!(etcd_health(&endpoints), EtcdHealth::Lost(_));
        let mut servers = Vec::new();
        for ((cell, host), answer) in self.etcd_hosts().into_iter().zip(&endpoints) {
            let what = format!("the etcd member of cell {cell} ({})", answer.url);
            let problem = etcd_problem(&what, cell, host, answer, lost);
            let id = answer.status.as_ref().ok().map(|status| status.id);
            servers.push((host, Ports::ETCD_CLIENT, ServerKind::Etcd(id), cell, what, problem));
        }
        for ((cell, host), (address, answer)) in self.admin_hosts().into_iter().zip(multiadmins) {
            let what = format!("the multiadmin of cell {cell} ({address})");
            let problem = multiadmin_problem(&what, host, answer, lost);
            servers.push((host, Ports::ADMIN_GRPC, ServerKind::Multiadmin, cell, what, problem));
        }
        let with_certificate =
            servers.into_iter().map(|(host, port, kind, cell, what, problem)| async move {
                let certificate = self.served_at(host, port).await.ok();
                HostServer { what, cell: cell.clone(), problem, certificate, kind }
            });
        Ok(join_all(with_certificate).await)
    }

    /// Every multiadmin's address, and how it answers a request that takes etcd.
    async fn ask_multiadmins(&self) -> Result<Vec<(String, std::result::Result<(), tonic::Status>)>> {
        self.renew_operators();
        let asked = self.admin_addresses()?.into_iter().map(|address| async move {
            let mut client = self.client_of(&address, Some(CHOICE_TIMEOUT))?;
            let answer = client.list_cells(ListCellsRequest {}).await.map(drop);
            Ok((address, answer))
        });
        join_all(asked).await.into_iter().collect()
    }

    /// The certificate that a server of a host serves; else why it cannot be had. `base` is its port before the offset.
    async fn served_at(&self, host: &HostName, base: u16) -> std::result::Result<CertificateInfo, String> {
        let port = self.port(base).map_err(|error| error.to_string())?;
        let tls = ClientTls::from_dir(&self.etcd_client_tls()).map_err(|error| error.to_string())?;
        Ok(probe_server(host, port, ProbeProtocol::Grpc, &tls).await?.served)
    }
}

/// What a server of a host says to a client with this certificate; else why it cannot be asked.
pub(super) async fn probe_server(
    host: &str,
    port: u16,
    protocol: ProbeProtocol,
    client: &ClientTls,
) -> std::result::Result<Probed, String> {
    let addresses = addresses_of(host).map_err(|error| error.to_string())?;
    let address =
        addresses.into_iter().next().ok_or_else(|| format!("the host {host} has no address here"))?;
    let client = client.rustls_config().map_err(|error| error.to_string())?;
    let found = probe((address, port).into(), host, protocol, client, PROBE_TIMEOUT).await;
    found.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use cellar_model::Refusal;
    use cellar_topology::EtcdMemberStatus;

    use super::*;

    fn answer(status: std::result::Result<u64, &str>, alarms: &[&str]) -> EtcdEndpoint {
        let status = status.map_err(str::to_owned).map(|leader| EtcdMemberStatus {
            id: 7,
            leader,
            version: "3.4.23".to_owned(),
            database_bytes: 1,
            raft_index: 1,
            raft_applied_index: 1,
            raft_term: 1,
            learner: false,
            alarms: alarms.iter().map(|alarm| (*alarm).to_owned()).collect(),
        });
        EtcdEndpoint { url: "https://db3:12379".to_owned(), status, took: Duration::ZERO }
    }

    fn of_etcd(answer: &EtcdEndpoint, lost: bool) -> Option<(String, String)> {
        let found = etcd_problem("it", &"zone3".parse().unwrap(), "db3", answer, lost)?;
        Some((found.message, found.hint.unwrap()))
    }

    #[test]
    fn silent_member_is_started_and_replaced_only_while_there_is_a_majority() {
        assert_eq!(of_etcd(&answer(Ok(7), &[]), false), None);
        let (said, hint) = of_etcd(&answer(Err("refused"), &[]), false).unwrap();
        assert!(said.contains("it does not answer: refused"), "{said}");
        assert!(hint.contains("on db3: ") && hint.contains("cellar etcd replace zone3"), "{hint}");
        let (_, hint) = of_etcd(&answer(Err("refused"), &[]), true).unwrap();
        assert!(hint.contains("lost-etcd.md") && !hint.contains("replace"), "{hint}");
        let (said, _) = of_etcd(&answer(Ok(0), &[]), true).unwrap();
        assert!(said.contains("no leader"), "{said}");
        let (said, _) = of_etcd(&answer(Ok(7), &["NOSPACE"]), false).unwrap();
        assert!(said.contains("NOSPACE"), "{said}");
    }

    #[test]
    fn multiadmin_that_only_lacks_etcd_is_no_problem_of_its_own() {
        let refusal = || cellar_api::status_of(&Refusal::new(Code::Unavailable, "cannot reach etcd"));
        assert!(multiadmin_problem("it", "db3", Ok(()), false).is_none());
        assert!(multiadmin_problem("it", "db3", Err(refusal()), true).is_none());
        let cut_off = multiadmin_problem("it", "db3", Err(refusal()), false).unwrap();
        assert!(cut_off.message.contains("refuses: cannot reach etcd"), "{cut_off:?}");
        let silent =
            multiadmin_problem("it", "db3", Err(tonic::Status::unavailable("tcp connect error")), true)
                .unwrap();
        assert!(
            silent.message.contains("does not answer") && silent.hint.unwrap().contains("cellar host start")
        );
    }
}
