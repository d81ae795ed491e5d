//! A pooler with answers of the test's choice, on a real socket.

#![allow(unreachable_pub, reason = "a module of test binaries")]

use std::sync::{Arc, Mutex};

use cellar_admin::Dial;
use cellar_api::v1;
use cellar_api::v1::multi_pooler_server::{MultiPooler, MultiPoolerServer};
use cellar_model::Code;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
pub struct FakePooler {
    pub name: String,
    pub backups: Vec<v1::Backup>,
    /// Refuses to read the repo.
    pub broken: bool,
    /// Never answers.
    pub frozen: bool,
    pub log: Vec<&'static str>,
    /// The poolers that were asked to read the repo, in order.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl FakePooler {
    /// Serves; returns the port.
    pub async fn serve(self) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Server::builder().add_service(MultiPoolerServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        port
    }

    async fn freeze(&self) {
        if self.frozen {
            std::future::pending::<()>().await;
        }
    }
}

/// Dials the port in the pooler's record, without TLS.
pub fn dial_plainly() -> Arc<Dial> {
    Arc::new(|pooler| {
        let url = format!("http://127.0.0.1:{}", pooler.grpc_port);
        Ok(Endpoint::from_shared(url).map_err(|error| error.to_string())?.connect_lazy())
    })
}

#[tonic::async_trait]
impl MultiPooler for FakePooler {
    type ReadJobLogStream = BoxStream<'static, Result<v1::JobLogChunk, Status>>;
    type RunBackupStream = BoxStream<'static, Result<v1::RunBackupResponse, Status>>;

    async fn run_backup(
        &self,
        _: Request<tonic::Streaming<v1::RunBackupRequest>>,
    ) -> Result<Response<Self::RunBackupStream>, Status> {
        Err(Status::unimplemented("only poolers call it"))
    }

    async fn get_live_status(
        &self,
        _: Request<v1::GetLiveStatusRequest>,
    ) -> Result<Response<v1::LiveStatus>, Status> {
        self.freeze().await;
        Ok(Response::new(v1::LiveStatus { data_directory: self.name.clone(), ..Default::default() }))
    }

    async fn read_backups(
        &self,
        request: Request<v1::ReadBackupsRequest>,
    ) -> Result<Response<v1::ListBackupsResponse>, Status> {
        self.asked.lock().unwrap().push(self.name.clone());
        self.freeze().await;
        if self.broken {
            let refusal = cellar_model::Refusal::new(Code::PgbackrestFailed, "the repo is not there");
            return Err(cellar_api::status_of(&refusal));
        }
        let label = request.into_inner().label;
        let backups =
            self.backups.iter().filter(|backup| label.is_empty() || backup.label == label).cloned().collect();
        Ok(Response::new(v1::ListBackupsResponse { backups, read_by: String::new() }))
    }

    async fn get_signing_request(
        &self,
        _: Request<v1::GetSigningRequestRequest>,
    ) -> Result<Response<v1::SigningRequest>, Status> {
        Err(Status::unimplemented("renewal is tested with real poolers"))
    }

    async fn install_certificates(
        &self,
        _: Request<v1::InstallCertificatesRequest>,
    ) -> Result<Response<v1::InstallCertificatesResponse>, Status> {
        Err(Status::unimplemented("renewal is tested with real poolers"))
    }

    async fn get_member_facts(
        &self,
        _: Request<v1::GetMemberFactsRequest>,
    ) -> Result<Response<v1::MemberFacts>, Status> {
        Err(Status::unimplemented("failover is tested with real poolers"))
    }

    async fn hold_clients(
        &self,
        _: Request<v1::HoldClientsRequest>,
    ) -> Result<Response<v1::HoldClientsResponse>, Status> {
        Err(Status::unimplemented("PgBouncer is tested with real poolers"))
    }

    async fn list_roles(
        &self,
        _: Request<v1::ListRolesRequest>,
    ) -> Result<Response<v1::ListRolesResponse>, Status> {
        Err(Status::unimplemented("roles are tested with real poolers"))
    }

    async fn create_role(
        &self,
        _: Request<v1::CreateRoleRequest>,
    ) -> Result<Response<v1::ClientRole>, Status> {
        Err(Status::unimplemented("roles are tested with real poolers"))
    }

    async fn set_role_password(
        &self,
        _: Request<v1::SetRolePasswordRequest>,
    ) -> Result<Response<v1::ClientRole>, Status> {
        Err(Status::unimplemented("roles are tested with real poolers"))
    }

    async fn drop_role(&self, _: Request<v1::DropRoleRequest>) -> Result<Response<v1::ClientRole>, Status> {
        Err(Status::unimplemented("roles are tested with real poolers"))
    }

    async fn read_settings(
        &self,
        _: Request<v1::ReadSettingsRequest>,
    ) -> Result<Response<v1::ReadSettingsResponse>, Status> {
        Err(Status::unimplemented("settings are tested with real poolers"))
    }

    async fn read_job_log(
        &self,
        request: Request<v1::ReadJobLogRequest>,
    ) -> Result<Response<Self::ReadJobLogStream>, Status> {
        let chunks: Vec<_> =
            self.log.iter().map(|line| Ok(v1::JobLogChunk { data: line.as_bytes().to_vec() })).collect();
        let chunks = stream::iter(chunks);
        if request.into_inner().follow && self.frozen {
            return Ok(Response::new(chunks.chain(stream::pending()).boxed()));
        }
        Ok(Response::new(chunks.boxed()))
    }
}
