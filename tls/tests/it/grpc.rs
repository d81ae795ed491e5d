use std::sync::{Arc, Mutex};
use std::time::Duration;

use cellar_tls::{MtlsConnectInfo, MtlsListener};
use tonic::transport::Server;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{World, admin};

#[tokio::test]
async fn handler_sees_the_identity_of_its_caller() {
    let world = World::new();
    let listener = MtlsListener::bind("127.0.0.1:0".parse().unwrap(), world.server_config()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let server = tokio::spawn({
        let seen = seen.clone();
        let (_, health) = tonic_health::server::health_reporter();
        let interceptor = tonic::service::InterceptorLayer::new(move |request: tonic::Request<()>| {
            let info = request.extensions().get::<MtlsConnectInfo>();
            seen.lock().unwrap().push(info.unwrap().peer.uri.clone().unwrap());
            Ok(request)
        });
        Server::builder().layer(interceptor).add_service(health).serve_with_incoming_shutdown(
            listener.incoming(),
            async {
                stopped.await.unwrap();
            },
        )
    });

    let call = async |tls: &cellar_tls::ClientTls| {
        let endpoint = tls.endpoint(&address, Some(Duration::from_secs(5))).unwrap();
        let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
        let request = HealthCheckRequest { service: String::new() };
        HealthClient::new(channel).check(request).await.map_err(|e| e.to_string())
    };
    call(&world.client()).await.unwrap();
    let bob = cellar_tls::ClientTls::from_dir(&world.client_dir("bob", &admin("bob"))).unwrap();
    call(&bob).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["spiffe://demo/admin/alice", "spiffe://demo/admin/bob"]);

    assert!(call(&bob.domain_name("zone9")).await.is_err());
    assert!(call(&World::new().client()).await.is_err());
    assert_eq!(seen.lock().unwrap().len(), 2);

    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn invalid_address_is_refused() {
    let client = World::new().client();
    for address in ["", "a b:1", "host:port:1"] {
        let error = client.endpoint(address, None).unwrap_err();
        assert!(error.to_string().contains("HOST:PORT"), "{error}");
    }
}
