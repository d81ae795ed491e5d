//! The methods of the pooler's gRPC service. Each becomes a question to the agent's thread.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_api::v1::multi_pooler_server::MultiPooler;
use cellar_api::v1::{
    ClientRole, CreateRoleRequest, DropRoleRequest, GetLiveStatusRequest, GetMemberFactsRequest,
    GetSigningRequestRequest, HoldClientsRequest, HoldClientsResponse, InstallCertificatesRequest,
    InstallCertificatesResponse, JobLogChunk, ListBackupsResponse, ListRolesRequest, ListRolesResponse,
    LiveStatus, MemberFacts, ReadBackupsRequest, ReadJobLogRequest, ReadSettingsRequest,
    ReadSettingsResponse, RunBackupRequest, RunBackupResponse, SetRolePasswordRequest, SigningRequest,
};
use cellar_model::{BackupLabel, CellName, ClusterName, Code, DatabaseName, JobId, Principal, Refusal, Term};
use cellar_tls::MtlsConnectInfo;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::services::backup_for_cell::BackupCall;
use crate::services::client_roles::Order;

/// Bytes of a log that are sent at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How often a growing log is read.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// A question for the agent's thread, with where its answer goes.
pub(crate) enum Question {
    /// What the instance answers now.
    Live(oneshot::Sender<Result<LiveStatus, Refusal>>),
    /// What this member of a database with quorum commit says of itself.
    Member(oneshot::Sender<Option<MemberFacts>>),
    /// That the clients of this cell's PgBouncer be held: for the cell that leads under that term. Whether nothing goes on there.
    Hold(CellName, Term, oneshot::Sender<bool>),
    /// All backups of the repo, or one.
    Backups(Option<BackupLabel>, oneshot::Sender<Result<ListBackupsResponse, Refusal>>),
    /// Where a job's log is, and whether the job has ended.
    Log(JobId, oneshot::Sender<(PathBuf, bool)>),
    /// A proof that this cell has its key, to be given renewed certificates.
    SigningRequest(oneshot::Sender<Result<String, Refusal>>),
    /// A backup for another cell, whose answers go to the caller as they come.
    RunBackup(BackupCall),
    /// Something about the roles that applications connect as.
    Roles(Order, oneshot::Sender<Result<Vec<ClientRole>, Refusal>>),
    /// What there is of the database's settings here.
    Settings(ReadSettingsRequest, oneshot::Sender<Result<ReadSettingsResponse, Refusal>>),
    /// Renewed certificates.
    Install(InstallCertificatesRequest, oneshot::Sender<Result<(), Refusal>>),
}

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct Service {
    /// The cluster that callers must belong to.
    pub(crate) cluster: ClusterName,
    /// The database that this pooler is of.
    pub(crate) database: DatabaseName,
    /// To the agent's thread.
    pub(crate) questions: mpsc::Sender<Question>,
}

impl Service {
    /// The cell whose pooler calls, as its certificate says: one of this database.
    fn calling_cell<T>(&self, request: &Request<T>) -> Result<CellName, Refusal> {
        let uri = request.extensions().get::<MtlsConnectInfo>().and_then(|info| info.peer.uri.clone());
        match uri.as_deref().and_then(|uri| Principal::parse(uri, &self.cluster)) {
            Some(Principal::Pooler(database, cell)) if database == self.database => Ok(cell),
            _ => {
                let message = format!("only a pooler of database {} may ask for this", self.database);
                Err(Refusal::new(Code::PermissionDenied, message).about("database", &self.database))
            }
        }
    }

    async fn roles(&self, order: Order) -> Result<Vec<ClientRole>, Status> {
        let roles = self.ask(|to| Question::Roles(order, to)).await?;
        roles.map_err(|refusal| cellar_api::status_of(&refusal))
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Status> {
        let stopping = || Status::unavailable("the multipooler is stopping");
        let (to, answer) = oneshot::channel();
        self.questions.send(question(to)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

#[tonic::async_trait]
impl MultiPooler for Service {
    async fn get_live_status(
        &self,
        _: Request<GetLiveStatusRequest>,
    ) -> Result<Response<LiveStatus>, Status> {
        let live = self.ask(Question::Live).await?;
        live.map(Response::new).map_err(|refusal| cellar_api::status_of(&refusal))
    }

    async fn get_member_facts(
        &self,
        _: Request<GetMemberFactsRequest>,
    ) -> Result<Response<MemberFacts>, Status> {
        let facts = self.ask(Question::Member).await?;
        let none = || Status::unavailable("this member has not looked at itself under quorum commit yet");
        facts.map(Response::new).ok_or_else(none)
    }

    async fn hold_clients(
        &self,
        request: Request<HoldClientsRequest>,
    ) -> Result<Response<HoldClientsResponse>, Status> {
        let caller = self.calling_cell(&request).map_err(|refusal| cellar_api::status_of(&refusal))?;
        let term = Term::new(request.into_inner().term);
        let quiet = self.ask(|to| Question::Hold(caller, term, to)).await?;
        Ok(Response::new(HoldClientsResponse { quiet }))
    }

    async fn read_backups(
        &self,
        request: Request<ReadBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let text = request.into_inner().label;
        let label: Option<BackupLabel> = if text.is_empty() {
            None
        } else {
            Some(text.parse().map_err(|error| invalid("label", &error))?)
        };
        let backups = self.ask(|to| Question::Backups(label, to)).await?;
        backups.map(Response::new).map_err(|refusal| cellar_api::status_of(&refusal))
    }

    async fn get_signing_request(
        &self,
        _: Request<GetSigningRequestRequest>,
    ) -> Result<Response<SigningRequest>, Status> {
        let pem = self.ask(Question::SigningRequest).await?;
        pem.map(|pem| Response::new(SigningRequest { pem }))
            .map_err(|refusal| cellar_api::status_of(&refusal))
    }

    async fn install_certificates(
        &self,
        request: Request<InstallCertificatesRequest>,
    ) -> Result<Response<InstallCertificatesResponse>, Status> {
        let done = self.ask(|to| Question::Install(request.into_inner(), to)).await?;
        done.map(|()| Response::new(InstallCertificatesResponse {}))
            .map_err(|refusal| cellar_api::status_of(&refusal))
    }

    async fn read_settings(
        &self,
        request: Request<ReadSettingsRequest>,
    ) -> Result<Response<ReadSettingsResponse>, Status> {
        let read = self.ask(|to| Question::Settings(request.into_inner(), to)).await?;
        read.map(Response::new).map_err(|refusal| cellar_api::status_of(&refusal))
    }

    async fn list_roles(&self, _: Request<ListRolesRequest>) -> Result<Response<ListRolesResponse>, Status> {
        let roles = self.roles(Order::List).await?;
        Ok(Response::new(ListRolesResponse { roles }))
    }

    async fn create_role(&self, request: Request<CreateRoleRequest>) -> Result<Response<ClientRole>, Status> {
        let roles = self.roles(Order::Create(request.into_inner())).await?;
        Ok(Response::new(roles.into_iter().next().unwrap_or_default()))
    }

    async fn set_role_password(
        &self,
        request: Request<SetRolePasswordRequest>,
    ) -> Result<Response<ClientRole>, Status> {
        let roles = self.roles(Order::SetPassword(request.into_inner())).await?;
        Ok(Response::new(roles.into_iter().next().unwrap_or_default()))
    }

    async fn drop_role(&self, request: Request<DropRoleRequest>) -> Result<Response<ClientRole>, Status> {
        let roles = self.roles(Order::Drop(request.into_inner())).await?;
        Ok(Response::new(roles.into_iter().next().unwrap_or_default()))
    }

    type RunBackupStream = ReceiverStream<Result<RunBackupResponse, Status>>;

    async fn run_backup(
        &self,
        request: Request<Streaming<RunBackupRequest>>,
    ) -> Result<Response<Self::RunBackupStream>, Status> {
        let caller = self.calling_cell(&request).map_err(|refusal| cellar_api::status_of(&refusal))?;
        let (answers, stream) = mpsc::channel(4);
        let call = BackupCall { caller, asked: request.into_inner(), answers };
        let stopping = |_| Status::unavailable("the multipooler is stopping");
        self.questions.send(Question::RunBackup(call)).await.map_err(stopping)?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type ReadJobLogStream = ReceiverStream<Result<JobLogChunk, Status>>;

    async fn read_job_log(
        &self,
        request: Request<ReadJobLogRequest>,
    ) -> Result<Response<Self::ReadJobLogStream>, Status> {
        let request = request.into_inner();
        // Only a job id can become a file name.
        let id: JobId = request.id.parse().map_err(|error| invalid("id", &error))?;
        let (chunks, stream) = mpsc::channel(4);
        let service = self.clone();
        tokio::spawn(async move {
            let mut position = 0;
            loop {
                // Asked before the log is read, so that what was written before the job's end is read.
                let Ok((path, ended)) = service.ask(|to| Question::Log(id, to)).await else { return };
                loop {
                    let data = read_chunk(&path, position);
                    position += data.len() as u64;
                    if data.is_empty() {
                        break;
                    }
                    if chunks.send(Ok(JobLogChunk { data })).await.is_err() {
                        return;
                    }
                }
                if ended || !request.follow {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
                    // The caller has left: nobody waits for a log that does not grow.
                    () = chunks.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn invalid(field: &'static str, error: &dyn std::fmt::Display) -> Status {
    cellar_api::status_of(&Refusal::new(Code::InvalidArgument, error.to_string()).about("field", field))
}

/// The next part of a log; empty at its end, and for a log that does not exist.
fn read_chunk(path: &Path, position: u64) -> Vec<u8> {
    let mut data = Vec::new();
    let Ok(mut file) = std::fs::File::open(path) else { return data };
    if file.seek(SeekFrom::Start(position)).is_ok() {
        let _ = file.take(CHUNK_BYTES as u64).read_to_end(&mut data);
    }
    data
}
