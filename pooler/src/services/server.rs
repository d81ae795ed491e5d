//! The pooler's own gRPC service: what is too lively for etcd, and renewed certificates.

use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use cellar_api::v1::multi_pooler_server::{MultiPooler, MultiPoolerServer};
use cellar_api::v1::{
    Backup, BackupType, GetLiveStatusRequest, GetSigningRequestRequest, InstallCertificatesRequest,
    InstallCertificatesResponse, JobLogChunk, ListBackupsResponse, LiveStatus, ReadBackupsRequest,
    ReadJobLogRequest, Role, SigningRequest,
};
use cellar_api::{DESCRIPTORS, wkt};
use cellar_model::{BackupLabel, Code, JobId, Refusal};
use cellar_pgbackrest::BackupInfo;
use cellar_postgres::{InstanceFacts, Probe};
use cellar_tls::{Guard, MAX_REQUEST, MtlsListener, ReloadableServerConfig, ServerFiles, ServerLimits};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::config_files::write_bootstrap;
use crate::repository::backup_proof::log_path;
use crate::services::certificates;

/// Pause after the port could not be had.
const RETRY: Duration = Duration::from_secs(2);

/// How long pgBackRest may take to read the repo.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How many pgBackRest processes may read the repo at once, each with memory and connections to the repo.
const READERS: usize = 4;

/// How long a caller waits for its turn to read the repo.
const READ_TURN: Duration = Duration::from_secs(20);

/// Bytes of a log sent at once.
const CHUNK: usize = 64 << 10;

/// How often a growing log is looked at.
const FOLLOW: Duration = Duration::from_millis(250);

/// A question for the agent, whose parts live on one thread.
enum Question {
    Live(oneshot::Sender<Result<LiveStatus, Refusal>>),
    Backups(Option<BackupLabel>, oneshot::Sender<Result<ListBackupsResponse, Refusal>>),
    Log(JobId, oneshot::Sender<(PathBuf, bool)>),
    SigningRequest(oneshot::Sender<Result<String, Refusal>>),
    Install(InstallCertificatesRequest, oneshot::Sender<Result<(), Refusal>>),
}

/// Serves and answers, for ever.
pub(crate) async fn serve(agent: Rc<Agent>) {
    let (questions, mut asked) = mpsc::channel::<Question>(32);
    let listening = tokio::task::spawn_local(listen(Rc::clone(&agent), questions));
    let readers = Rc::new(Semaphore::new(READERS));
    while let Some(question) = asked.recv().await {
        let (agent, readers) = (Rc::clone(&agent), Rc::clone(&readers));
        // Each on its own: a slow repo must not hold up a question about the instance.
        tokio::task::spawn_local(async move {
            match question {
                Question::Live(to) => drop(to.send(live(&agent).await)),
                Question::SigningRequest(to) => drop(to.send(certificates::signing_request(&agent))),
                Question::Install(renewed, to) => drop(to.send(certificates::install(&agent, &renewed))),
                Question::Backups(label, mut to) => {
                    let answer = async {
                        let turn = tokio::time::timeout(READ_TURN, readers.acquire()).await;
                        let Ok(Ok(_turn)) = turn else { return Err(too_many_readers(&agent)) };
                        backups(&agent, label.as_ref()).await
                    };
                    tokio::select! {
                        answer = answer => drop(to.send(answer)),
                        // Nobody waits for it any more: pgBackRest is ended with the future.
                        () = to.closed() => {}
                    }
                }
                Question::Log(id, to) => {
                    let ended = agent.mirror.view().has_ended(&id);
                    drop(to.send((log_path(&agent, &id), ended)));
                }
            }
        });
    }
    listening.abort();
}

async fn listen(agent: Rc<Agent>, questions: mpsc::Sender<Question>) {
    loop {
        if let Err(error) = listen_once(&agent, questions.clone()).await {
            tracing::warn!(%error, "the gRPC server does not run");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen_once(
    agent: &Agent,
    questions: mpsc::Sender<Question>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (card, _) = agent.assignment()?;
    let files = ServerFiles::in_dir(PathBuf::from(&card.tls_directory), "pooler.crt", "server.key");
    let address: SocketAddr = format!("{}:{}", card.listen, card.grpc_port).parse()?;
    let config = ReloadableServerConfig::load(files)?;
    agent.grpc_tls.replace(Some(config.clone()));
    let listener = MtlsListener::bind(address, config).await?.ending_revoked(agent.revoked.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<MultiPoolerServer<Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()?;
    ServerLimits::default()
        .server()
        .layer(Guard::new(agent.cluster.clone(), agent.revoked.clone(), cellar_api::status_of))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(MultiPoolerServer::new(Service { questions }).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming(listener.incoming())
        .await?;
    Ok(())
}

async fn live(agent: &Agent) -> Result<LiveStatus, Refusal> {
    let down = |message: String| Refusal::new(Code::CellDown, message).about("cell", &agent.cell);
    let (card, _) = agent.assignment()?;
    let mut probe = Probe::new(agent.endpoint(&card), PROBE_TIMEOUT);
    let facts = probe.facts().await.map_err(|error| down(error.to_string()))?;
    let free_bytes = crate::repository::reader::free_bytes(std::path::Path::new(&card.data_directory));
    Ok(LiveStatus { free_bytes, ..live_status(&facts) })
}

fn live_status(facts: &InstanceFacts) -> LiveStatus {
    let observed = facts.to_observed();
    let standby = facts.role == cellar_model::Role::Standby;
    LiveStatus {
        receive_lsn: facts.receive_lsn.map(|lsn| lsn.to_string()),
        replay_lsn: facts.replay_lsn.map(|lsn| lsn.to_string()),
        write_lsn: facts.write_lsn.map(|lsn| lsn.to_string()),
        lag_bytes: if standby {
            observed.primary_lsn.map(|primary| primary.bytes_ahead_of(observed.replay_lsn))
        } else {
            None
        },
        streaming_standbys: facts.streaming_to.clone(),
        system_identifier: Some(facts.system_identifier.to_string()),
        timeline: Some(facts.timeline.get()),
        role: match facts.role {
            cellar_model::Role::Primary => Role::Primary,
            cellar_model::Role::Standby => Role::Standby,
            cellar_model::Role::Unknown => Role::Unknown,
        }
        .into(),
        data_directory: facts.data_directory.clone(),
        free_bytes: 0,
    }
}

async fn backups(agent: &Agent, only: Option<&BackupLabel>) -> Result<ListBackupsResponse, Refusal> {
    let failed = |what: &dyn std::fmt::Display| {
        Refusal::new(Code::PgbackrestFailed, format!("reading the repo from cell {}: {what}", agent.cell))
            .about("cell", &agent.cell)
    };
    let (card, database) = agent.assignment()?;
    let config = write_bootstrap(agent, &database, &card).map_err(|error| failed(&error))?;
    let info = agent
        .pgbackrest
        .info(&config, &database.stanza, READ_TIMEOUT)
        .await
        .map_err(|error| failed(&error).hint(error.hint()))?;
    let mut backups: Vec<Backup> = info
        .backups
        .iter()
        .filter(|backup| only.is_none_or(|label| backup.label == *label))
        .map(message)
        .collect();
    if let (Some(label), Some(backup)) = (only, backups.first_mut()) {
        let record = agent.pgbackrest.backup_record(&config, &database.stanza, label, READ_TIMEOUT).await;
        backup.from_standby = record.ok().map(|record| record.option_backup_standby);
    }
    Ok(ListBackupsResponse { backups, read_by: agent.cell.to_string() })
}

fn too_many_readers(agent: &Agent) -> Refusal {
    let message = format!("cell {} reads the repo for {READERS} others already", agent.cell);
    Refusal::new(Code::Unavailable, message).about("cell", &agent.cell).hint("try again in a moment")
}

fn message(backup: &BackupInfo) -> Backup {
    let time = |seconds: Option<i64>| seconds.map(|seconds| wkt::Timestamp { seconds, nanos: 0 });
    Backup {
        label: backup.label.to_string(),
        r#type: match backup.backup_type {
            cellar_model::BackupType::Full => BackupType::Full,
            cellar_model::BackupType::Diff => BackupType::Diff,
            cellar_model::BackupType::Incr => BackupType::Incr,
        }
        .into(),
        prior: backup.prior.as_ref().map(ToString::to_string),
        start_time: time(backup.started),
        stop_time: time(backup.stopped),
        start_lsn: backup.lsn_start.map(|lsn| lsn.to_string()).unwrap_or_default(),
        stop_lsn: backup.lsn_stop.map(|lsn| lsn.to_string()).unwrap_or_default(),
        wal_start: backup.archive_start.clone().unwrap_or_default(),
        wal_stop: backup.archive_stop.clone().unwrap_or_default(),
        size_bytes: backup.size.unwrap_or(0),
        repo_bytes: backup.repo_size_delta.or(backup.repo_size).unwrap_or(0),
        error: backup.error.unwrap_or(false),
        annotations: backup.annotations.clone(),
        ..Backup::default()
    }
}

struct Service {
    questions: mpsc::Sender<Question>,
}

impl Service {
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

    type ReadJobLogStream = ReceiverStream<Result<JobLogChunk, Status>>;

    async fn read_job_log(
        &self,
        request: Request<ReadJobLogRequest>,
    ) -> Result<Response<Self::ReadJobLogStream>, Status> {
        let request = request.into_inner();
        // Only a job id can become a file name.
        let id: JobId = request.id.parse().map_err(|error| invalid("id", &error))?;
        let (chunks, stream) = mpsc::channel(4);
        let questions = self.questions.clone();
        tokio::spawn(async move {
            let service = Service { questions };
            let mut position = 0;
            loop {
                // Asked before reading, so that what was written last is read once more.
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
                    () = tokio::time::sleep(FOLLOW) => {}
                    // A log that does not grow must not be watched for a caller who has left.
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

/// The next part of a log; empty at its end, and for one that is not there.
fn read_chunk(path: &PathBuf, position: u64) -> Vec<u8> {
    let mut data = Vec::new();
    let Ok(mut file) = std::fs::File::open(path) else { return data };
    if file.seek(SeekFrom::Start(position)).is_ok() {
        let _ = file.take(CHUNK as u64).read_to_end(&mut data);
    }
    data
}
