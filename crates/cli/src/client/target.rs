//! Which multiadmin a command talks to.

use std::path::Path;
use std::time::Duration;

use cellar_api::v1::ListCellsRequest;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_provisioner::Cluster;
use cellar_tls::ClientTls;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::local;

/// A unary call that takes longer has failed. Reading a large repository takes seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one of several multiadmins may take to show that it can be used.
const CHOICE_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer that is read, in bytes. The listing of a repository with thousands of backups is larger than
/// tonic's default of 4 MiB.
const MAX_ANSWER_SIZE: usize = 64 << 20;

/// The client of the generated code.
pub(crate) type Client = MultiAdminClient<Channel>;

/// One multiadmin: its address, and how to call it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `host:port`.
    pub(crate) address: String,
    tls: ClientTls,
    /// What to do when it cannot be reached.
    hint: String,
}

impl Target {
    /// The multiadmin at `--admin`, or that of the local cluster.
    ///
    /// Several addresses, separated by commas, are of multiadmins that are as good as each other: the first is taken that
    /// can be talked to.
    pub(crate) async fn of(global: &Global) -> Outcome<Self> {
        if let (Some(address), Some(dir)) = (&global.admin, &global.client_dir) {
            let hint = "check the address, and that multiadmin runs there".to_owned();
            return Self::new(address, dir, hint).await;
        }
        let directory = global.directory()?;
        if global.cluster.is_some() {
            // `CELLAR_DIR` or `--dir` may name another cluster, and a command must not work on that one.
            local::open(global)?;
        }
        let client = global.client_dir.clone().unwrap_or_else(|| directory.join("client"));
        let endpoint = client.join("endpoint");
        let address = std::fs::read_to_string(&endpoint).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => no_endpoint(global, &directory, &endpoint),
            _ => Failure::Io { what: format!("read {}", endpoint.display()), source: error },
        })?;
        let cluster = Cluster::open(&directory).ok();
        if let Some(cluster) = cluster.as_ref().filter(|_| global.client_dir.is_none()) {
            cluster.renew_operators();
        }
        let hint = match cluster.is_some_and(|cluster| !cluster.is_local()) {
            true => {
                "`cellar doctor` names what does not answer; start it with `cellar host start` on its host"
                    .to_owned()
            }
            false => format!(
                "start what does not run with `cellar up --dir {}`; multiadmin's log is {}",
                directory.display(),
                directory.join("log/multiadmin.log").display()
            ),
        };
        Self::new(address.trim(), &client, hint).await
    }

    async fn new(addresses: &str, client_dir: &Path, hint: String) -> Outcome<Self> {
        let targets = addresses.split(',').map(|address| Self::at(address, client_dir, hint.clone()));
        let mut targets = targets.collect::<Outcome<Vec<_>>>()?;
        match targets.len() {
            1 => Ok(targets.remove(0)),
            _ => first_that_answers(targets).await,
        }
    }

    fn at(address: &str, client_dir: &Path, hint: String) -> Outcome<Self> {
        let mut tls = ClientTls::from_dir(client_dir)?;
        if let Some((host, _)) = address.rsplit_once(':') {
            tls = tls.domain_name(host.trim_start_matches('[').trim_end_matches(']'));
        }
        let target = Self { address: address.to_owned(), tls, hint };
        // Refuses a bad address now rather than at the first call.
        target.tls.endpoint(address, None)?;
        Ok(target)
    }

    /// Whether it answers, and can reach etcd: one that is cut off refuses every call.
    async fn check(self) -> Outcome<Self> {
        let mut client = self.connect(Some(CHOICE_TIMEOUT))?;
        match client.list_cells(ListCellsRequest {}).await {
            Err(status)
                if matches!(
                    status.code(),
                    tonic::Code::Unavailable
                        | tonic::Code::DeadlineExceeded
                        | tonic::Code::Cancelled
                        | tonic::Code::Unknown
                ) =>
            {
                Err(self.failure(status))
            }
            // Also a refusal is an answer, and the command's own call shows it.
            _ => Ok(self),
        }
    }

    /// A client whose calls end after a minute.
    pub(crate) fn client(&self) -> Outcome<Client> {
        self.connect(Some(CALL_TIMEOUT))
    }

    /// A client for calls that answer with a stream, which may stay quiet for hours.
    pub(crate) fn streaming_client(&self) -> Outcome<Client> {
        self.connect(None)
    }

    fn connect(&self, timeout: Option<Duration>) -> Outcome<Client> {
        let endpoint = self.tls.endpoint(&self.address, timeout)?;
        Ok(MultiAdminClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_ANSWER_SIZE))
    }

    /// The failure that a status means: one that does not come from Cellar means that multiadmin cannot be reached.
    pub(crate) fn failure(&self, status: tonic::Status) -> Failure {
        let from_cellar = cellar_api::reason_of(&status).is_some();
        let no_answer = matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled
        );
        if from_cellar || !no_answer {
            return status.into();
        }
        let mut reason = status.message().to_owned();
        let mut cause = std::error::Error::source(&status);
        while let Some(source) = cause {
            reason = source.to_string();
            cause = source.source();
        }
        // rustls names multiadmin's expired certificate so, and the alert ours.
        let expired = reason.contains("certificate expired") || reason.contains("CertificateExpired");
        let hint = if expired {
            "renew the certificates on the machine of the cluster with `cellar certs rotate` (on hosts `cellar cluster \
             bundle`, installed there), and issue those of \
             operators again with `cellar certs issue`"
                .to_owned()
        } else {
            self.hint.clone()
        };
        Failure::Unreachable { address: self.address.clone(), reason, hint }
    }
}

/// The failure that a missing file with multiadmin's address means. Only where nothing else is there is no cluster.
fn no_endpoint(global: &Global, directory: &Path, endpoint: &Path) -> Failure {
    let message = format!("{} is missing, which has multiadmin's address", endpoint.display());
    let hint = match (&global.client_dir, Cluster::open(directory)) {
        (Some(_), _) => {
            "name the address with --admin HOST:PORT; `cellar certs issue` writes it to that file"
        }
        (None, Ok(cluster)) if cluster.is_local() => {
            "the cluster is there, and goes on: `cellar up` writes the file again"
        }
        (None, Ok(_)) => "the cluster is there, and goes on: `cellar cluster bundle` writes the file again",
        (None, Err(error)) => return error.into(),
    };
    Failure::NoClient { message, hint: hint.to_owned() }
}

/// The first of several that answers; all are asked at once. When none does, the failure of the first.
async fn first_that_answers(targets: Vec<Target>) -> Outcome<Target> {
    let mut answers = JoinSet::new();
    for target in targets {
        answers.spawn(target.check());
    }
    let mut failure = None;
    while let Some(answer) = answers.join_next().await {
        match answer {
            Ok(Ok(target)) => return Ok(target),
            Ok(Err(found)) => failure = failure.or(Some(found)),
            Err(_panicked) => {}
        }
    }
    Err(failure
        .unwrap_or_else(|| Failure::usage("no address of multiadmin is given", "name one with --admin")))
}
