//! Identities and roles: who a caller is, and which methods it may call.

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::access::Effect;
use cellar_model::{
    AuditOutcome, Code, DatabaseScope, JobKind, JobRecord, Key, PgbackrestName, Principal, access,
};
use cellar_tls::{LeafRequest, OperatorRole};
use tonic::Request;
use tonic::transport::Channel;

use crate::support::raw::Raw;
use crate::support::tls::{Guarded, cluster};
use crate::support::{World, backup_of, db};

#[tokio::test]
async fn the_callers_identity_comes_from_its_certificate() {
    let world = World::new().await;
    let server = Guarded::serve(&world.admin().await).await;
    let mut client = server.ann().await;
    let job = client.backup(backup_of(3)).await.unwrap().into_inner();
    assert_eq!(job.requested_by, "spiffe://demo/admin/ann");
    let canceled = client.cancel_job(v1::CancelJobRequest { id: job.id }).await.unwrap().into_inner();
    assert_eq!(canceled.cancel.unwrap().requested_by, "spiffe://demo/admin/ann");
    // Without TLS there is no certificate, and no answer.
    let plain = Channel::from_shared(format!("http://{}", server.address)).unwrap().connect_lazy();
    assert!(MultiAdminClient::new(plain).list_cells(v1::ListCellsRequest {}).await.is_err());
}

/// The table of roles, on a running server: every method with a certificate of every kind.
#[tokio::test]
async fn each_role_may_call_exactly_the_methods_of_the_table() {
    let (cluster, other) = (cluster(), "other".parse().unwrap());
    let operator = |role| LeafRequest::operator(&cluster, role, "ci").unwrap();
    let (database, cell) = ("app".parse().unwrap(), "zone1".parse().unwrap());
    let requests = [
        operator(OperatorRole::Viewer),
        operator(OperatorRole::Operator),
        operator(OperatorRole::Admin),
        LeafRequest::pooler(&cluster, &database, &cell, "localhost"),
        LeafRequest::multiadmin(&cluster, "localhost"),
        LeafRequest::replication(&cluster, &cell),
        LeafRequest::pgbackrest(PgbackrestName::default(), "localhost"),
        LeafRequest::etcd_server(&cluster, "localhost"),
        // Signed by the same authority, but of another cluster.
        LeafRequest::operator(&other, OperatorRole::Admin, "ann").unwrap(),
    ];
    let world = World::new().await;
    let server = Guarded::serve(&world.admin().await).await;
    let (mut refused, mut seen) = (0, 0);
    for request in &requests {
        let channel = server.connect_as(request).await;
        let principal = request.uri.as_deref().and_then(|uri| Principal::parse(uri, &cluster));
        for (method, needs, effect) in
            access::METHODS.iter().filter(|(method, ..)| method.contains("MultiAdmin/"))
        {
            let may = principal.as_ref().is_some_and(|principal| access::allows(principal, *needs));
            // An empty message asks for no dry run, which needs more than the method does.
            let expires = *method == "/cellar.v1.MultiAdmin/ExpireBackups"
                && principal == Some(Principal::Operator(OperatorRole::Operator, DatabaseScope::All));
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            // An empty message: what the guard admits is answered, or refused for its arguments.
            let answer =
                grpc.server_streaming(Request::new(Vec::new()), method.parse().unwrap(), Raw).await.map(drop);
            let denied = answer.as_ref().is_err_and(|status| status.code() == tonic::Code::PermissionDenied);
            // After the answer the call is in the log: its begin and its end, or that the guard refused it.
            let lines = world.audit_lines();
            let new = &lines[std::mem::replace(&mut seen, lines.len())..];
            let rpc = method.rsplit('/').next().unwrap();
            assert!(new.iter().all(|record| record.rpc == rpc), "{new:?}");
            let outcomes: Vec<AuditOutcome> = new.iter().map(|record| record.outcome).collect();
            match (effect, denied) {
                (Effect::Reads, _) => assert_eq!(outcomes, [], "{method}"),
                (Effect::Mutates, true) if expires => {
                    assert_eq!(outcomes, [AuditOutcome::Begun, AuditOutcome::Refused], "{method}");
                }
                (Effect::Mutates, true) => assert_eq!(outcomes, [AuditOutcome::Refused], "{method}"),
                (Effect::Mutates, false) => {
                    assert_eq!(outcomes[0], AuditOutcome::Begun, "{method}");
                    assert!(
                        matches!(outcomes[1..], [AuditOutcome::Allowed | AuditOutcome::Failed]),
                        "{method}"
                    );
                }
            }
            for record in new {
                let identity = request.uri.clone().unwrap_or_else(|| "pgbackrest".to_owned());
                assert_eq!(record.identity, identity, "{method}");
                assert!(record.peer.starts_with("127.0.0.1:"), "{record:?}");
            }
            assert_eq!(denied, !may || expires, "{method} as {:?}: {answer:?}", request.uri);
            if let Err(status) = answer.as_ref().map_err(Clone::clone)
                && denied
            {
                refused += 1;
                assert_eq!(cellar_api::reason_of(&status), Some(Code::PermissionDenied));
                let needed = if expires { access::Needs::Role(JobKind::Expire.role()) } else { *needs };
                assert!(status.message().contains(&needed.to_string()), "{status}");
            }
        }
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = "/cellar.v1.MultiAdmin/DropEverything".parse().unwrap();
        let status = grpc.unary(Request::new(Vec::new()), path, Raw).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "a method that is not in the table");
    }
    assert!(refused > 100, "{refused}");
}

/// Canceling a job needs the same role as requesting it.
#[tokio::test]
async fn an_operator_cannot_cancel_a_restore() {
    let world = World::new().await;
    world.record_made_primary().await;
    let server = Guarded::serve(&world.admin().await).await;
    let mut ann = server.ann().await;
    let target = v1::restore_target::Target::Latest(v1::LatestTarget {});
    let request = v1::RestoreDatabaseRequest {
        target: Some(v1::RestoreTarget { target: Some(target.clone()) }),
        ..Default::default()
    };
    let job = ann.restore_database(request).await.unwrap().into_inner();
    let operator = LeafRequest::operator(&cluster(), OperatorRole::Operator, "ci").unwrap();
    let mut ci = MultiAdminClient::new(server.connect_as(&operator).await);
    let status = ci.cancel_job(v1::CancelJobRequest { id: job.id.clone() }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
    // Nor through one of its steps, of whatever kind.
    let plan = v1::RestoreDatabaseRequest {
        target: Some(v1::RestoreTarget { target: Some(target) }),
        ..Default::default()
    };
    let step = ci.plan_restore(plan).await.unwrap().into_inner();
    let record = world.job(&step.id.parse().unwrap()).await.unwrap();
    let record = JobRecord { parent: Some(job.id.parse().unwrap()), ..record };
    world.put(&Key::Job(db(), record.id), &record).await;
    let status = ci.cancel_job(v1::CancelJobRequest { id: step.id }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
    let canceled = ann.cancel_job(v1::CancelJobRequest { id: job.id }).await.unwrap().into_inner();
    assert!(canceled.cancel.is_some());
}

#[tokio::test]
async fn an_operator_cancels_the_dry_run_of_an_expiry_and_not_an_expiry() {
    let world = World::new().await;
    world.record_made_primary().await;
    let server = Guarded::serve(&world.admin().await).await;
    let operator = LeafRequest::operator(&cluster(), OperatorRole::Operator, "ci").unwrap();
    let (mut ann, mut ci) = (server.ann().await, MultiAdminClient::new(server.connect_as(&operator).await));
    let dry_run = v1::ExpireBackupsRequest { dry_run: true, ..Default::default() };
    let job = ci.expire_backups(dry_run).await.unwrap().into_inner();
    let canceled = ci.cancel_job(v1::CancelJobRequest { id: job.id }).await.unwrap().into_inner();
    assert!(canceled.cancel.is_some());
    let job = ann.expire_backups(v1::ExpireBackupsRequest::default()).await.unwrap().into_inner();
    let status = ci.cancel_job(v1::CancelJobRequest { id: job.id }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
}
