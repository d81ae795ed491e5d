//! The pooler's own gRPC server, and the answers to its requests: what changes too often for etcd, and renewed
//! certificates.
//!
//! tonic serves requests on any thread, and the agent lives on one. So the service sends each request as a [`Question`]
//! to the agent's thread.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use cellar_api::DESCRIPTORS;
use cellar_api::v1::multi_pooler_server::MultiPoolerServer;
use cellar_model::{BackupLabel, Code, Refusal};
use cellar_system::tell_ready;
use cellar_tls::{Guard, MAX_REQUEST, MtlsListener, ReloadableServerConfig, ServerFiles, ServerLimits};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::agent::Agent;
use crate::services::backup_for_cell::{self, Working};
use crate::services::backup_list::backups;
use crate::services::certificates;
use crate::services::client_roles;
use crate::services::grpc_service::{Question, Service};
use crate::services::live_status::live;
use crate::services::pgbouncer;
use crate::services::settings;

/// How long to wait after the server could not listen or has ended.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How many pgBackRest processes may read the repo at once, each with memory and connections to the repo.
const MAX_READERS: usize = 4;

/// How long a caller waits until fewer than [`MAX_READERS`] read the repo.
const READER_TIMEOUT: Duration = Duration::from_secs(20);

/// Questions that wait for the agent's thread.
const MAX_QUESTIONS: usize = 32;

/// Serves and answers. Never returns.
pub(crate) async fn serve(agent: Rc<Agent>) {
    let (questions, mut asked) = mpsc::channel::<Question>(MAX_QUESTIONS);
    let listening = tokio::task::spawn_local(listen(Rc::clone(&agent), questions));
    let readers = Rc::new(Semaphore::new(MAX_READERS));
    let working = Working::default();
    while let Some(question) = asked.recv().await {
        let (agent, readers, working) = (Rc::clone(&agent), Rc::clone(&readers), working.clone());
        // Each question has a task of its own: a slow repo must not hold up a question about the instance.
        tokio::task::spawn_local(async move { answer(&agent, &readers, &working, question).await });
    }
    listening.abort();
}

async fn answer(agent: &Agent, readers: &Semaphore, working: &Working, question: Question) {
    match question {
        Question::Live(to) => drop(to.send(live(agent).await)),
        Question::Member(to) => drop(to.send(agent.availability.member_facts())),
        Question::Hold(caller, term, to) => drop(to.send(pgbouncer::hold(agent, &caller, term).await)),
        Question::SigningRequest(to) => drop(to.send(certificates::signing_request(agent))),
        Question::Install(renewed, to) => drop(to.send(certificates::install(agent, &renewed))),
        Question::Roles(order, to) => drop(to.send(client_roles::obey(agent, order).await)),
        Question::Settings(asked, to) => drop(to.send(settings::read(agent, &asked).await)),
        Question::Backups(label, to) => answer_backups(agent, readers, label.as_ref(), to).await,
        Question::RunBackup(call) => backup_for_cell::serve(agent, working, call).await,
        Question::Log(id, to) => {
            let ended = agent.mirror.view().has_ended(&id);
            drop(to.send((agent.job_log(&id), ended)));
        }
    }
}

async fn answer_backups(
    agent: &Agent,
    readers: &Semaphore,
    label: Option<&BackupLabel>,
    mut to: oneshot::Sender<Result<cellar_api::v1::ListBackupsResponse, Refusal>>,
) {
    let answer = async {
        let permit = tokio::time::timeout(READER_TIMEOUT, readers.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(too_many_readers(agent)) };
        backups(agent, label).await
    };
    tokio::select! {
        answer = answer => drop(to.send(answer)),
        // The caller has left: dropping the future ends pgBackRest.
        () = to.closed() => {}
    }
}

fn too_many_readers(agent: &Agent) -> Refusal {
    let message = format!("cell {} reads the repo for {MAX_READERS} others already", agent.cell);
    Refusal::new(Code::Unavailable, message).about("cell", &agent.cell).hint("try again in a moment")
}

async fn listen(agent: Rc<Agent>, questions: mpsc::Sender<Question>) {
    loop {
        if let Err(error) = listen_once(&agent, questions.clone()).await {
            tracing::warn!(%error, "the gRPC server does not run");
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn listen_once(
    agent: &Agent,
    questions: mpsc::Sender<Question>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (card, _) = agent.assignment()?;
    let files = ServerFiles::in_dir(PathBuf::from(&card.tls_directory), "pooler.crt", "server.key");
    agent.refresh_listening(&card).await;
    let addresses = agent.listening.borrow().sockets(card.grpc_port);
    let config = ReloadableServerConfig::load(files)?;
    agent.grpc_tls.replace(Some(config.clone()));
    let listener = MtlsListener::bind_all(&addresses, config).await?.ending_revoked(agent.revoked.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<MultiPoolerServer<Service>>().await;
    // Also after a failure: the service manager takes it once, and shows what it is told.
    tell_ready();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()?;
    let service = Service { cluster: agent.cluster.clone(), database: agent.database.clone(), questions };
    ServerLimits::default()
        .server()
        .layer(Guard::new(agent.cluster.clone(), agent.revoked.clone(), cellar_api::status_of))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(MultiPoolerServer::new(service).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming(listener.incoming())
        .await?;
    Ok(())
}
