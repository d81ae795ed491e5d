//! Which certificates open which port of a running cluster: every kind of bad one, every role, at every port.

mod issuer;
mod ports;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use cellar_tests::{Cluster, Finished, block_on, eventually, listening_of, run};
use cellar_tls::{Ca, CertificateInfo, LeafRequest, MtlsListener, ReloadableServerConfig, ServerFiles};
use tokio_stream::StreamExt;

use issuer::Service::{EtcdClient, EtcdPeer, Multiadmin, Pgbackrest, Pooler, Postgres};
use issuer::{HOST, Issuer, Service, cluster_name, parties};
use ports::{Port, connect_as, denied_by_a_pooler, open_ports_of, ports_of};

pub(crate) use ports::{accepted_by, ask_pooler, cell_of_server, list_served, loopback, repo_command};

#[test]
fn every_port_opens_to_its_own_guests_only() {
    let cluster = Cluster::up("zone1,zone2");
    let known = ports_of(&cluster);
    // Two are of pgBackRest, which listens on one address.
    assert_eq!(known.len(), 7 * loopback().len() + 2, "{known:?}");
    // These ask nobody for a certificate: what they say is in `routing`.
    let open = open_ports_of(&cluster);
    assert_eq!(open.len(), 2 * loopback().len(), "{open:?}");
    // The servers of pgBackRest may take a moment longer than `up` waits for.
    eventually("every server to listen", || {
        let found = listening_of(cluster.directory());
        for address in &found {
            assert!(address.ip().is_loopback(), "{address} can be reached from elsewhere");
            let is_known = known.contains_key(address) || open.contains(address);
            assert!(is_known, "something nobody knows of listens at {address}");
        }
        found.len() == known.len() + open.len()
    });

    let issuer = Issuer::new(&cluster);
    for service in [EtcdClient, EtcdPeer, Multiadmin, Pooler, Postgres, Pgbackrest] {
        let info = CertificateInfo::from_file(&issuer.revoked(service).certificate).expect("a certificate");
        let _ = cluster.cellar(&["certs", "revoke", &info.serial, "--unknown"]);
    }
    let name = accepted_by(&cluster, "zone1");
    eventually("every server to refuse what is revoked", || {
        let refuses = |(address, service): (&SocketAddr, &Service)| {
            let (port, key_pair) = (Port { service: *service, address: *address }, issuer.revoked(*service));
            block_on(connect_as(&cluster, port, Some(&key_pair))).is_err()
        };
        known.iter().all(refuses)
    });
    let mut faults = Vec::new();
    let mut tried = 0;
    block_on(async {
        for (address, service) in &known {
            let (address, service) = (*address, *service);
            let port = Port { service, address };
            let bad = issuer.bad(service, name).into_iter().map(|(what, key_pair)| (what, key_pair, false));
            let of_parties = parties(name).into_iter().map(|(what, request, welcome)| {
                let key_pair = issuer.key_pair(&issuer.ca, what, &request);
                (what, Some(key_pair), welcome.contains(&service))
            });
            for (what, key_pair, welcome) in bad.chain(of_parties) {
                tried += 1;
                let answer = connect_as(&cluster, port, key_pair.as_ref()).await;
                if answer.is_ok() != welcome {
                    faults.push(format!("{what} at {service:?} ({address}): {answer:?}"));
                }
            }
        }
    });
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(tried, known.len() * 15);

    // What each may call of a pooler.
    let port = cluster.poolers().into_iter().find_map(|view| view.pooler).expect("a pooler").grpc_port;
    let port = port.try_into().expect("a port");
    let of_multiadmin = [
        "CreateRole",
        "DropRole",
        "GetSigningRequest",
        "InstallCertificates",
        "ListRoles",
        "ReadBackups",
        "ReadJobLog",
        "ReadSettings",
        "SetRolePassword",
    ];
    let of_peers = ["GetLiveStatus", "GetMemberFacts", "HoldClients", "RunBackup"];
    let all: BTreeSet<&str> = of_multiadmin.into_iter().chain(of_peers).collect();
    let authorities = cluster.directory().join("ca/ca.crt");
    for (what, request, _) in parties(name) {
        let key_pair = issuer.key_pair(&issuer.ca, what, &request);
        let denied = block_on(denied_by_a_pooler(port, &authorities, &key_pair));
        let wanted = match what {
            "multiadmin" => BTreeSet::from(["HoldClients", "RunBackup"]),
            "a pooler" => of_multiadmin.into(),
            _ => all.clone(),
        };
        assert_eq!(denied, wanted, "{what}");
    }
    // And pgBackRest's servers serve one stanza.
    let (address, service) =
        ports_of(&cluster).into_iter().find(|(_, service)| *service == Pgbackrest).expect("one");
    let key_pair = issuer.key_pair(&issuer.ca, "pgBackRest", &service.guest(name));
    let list =
        |stanza: &str| list_served(&cluster, address.port(), &key_pair.certificate, &key_pair.key, stanza);
    list("app").expect("its own");
    let refused = list("other").expect_err("another's");
    assert!(refused.contains("access denied"), "{refused}");

    for cell in ["zone1", "zone2"] {
        eventually(&format!("{cell} to be well after all that"), || {
            cluster.status(cell).is_some_and(|status| status.message.is_empty())
        });
    }
}

/// A server with that certificate; how many clients it has shaken hands with.
async fn served(
    issuer: &Issuer,
    ca: &Ca,
    name: &str,
    request: &LeafRequest,
    arguments: &[&str],
    cluster: &Cluster,
) -> (Finished, usize) {
    let key_pair = issuer.key_pair(ca, name, request);
    let authorities = ca.dir().join("ca.crt");
    let files = ServerFiles { authorities, certificate: key_pair.certificate, key: key_pair.key };
    let config = ReloadableServerConfig::load(files).expect("a server");
    let listener = MtlsListener::bind(([127, 0, 0, 1], 0).into(), config).await.expect("a port");
    let address = format!("{HOST}:{}", listener.local_addr().expect("a port").port());
    let client = cluster.directory().join("client").display().to_string();
    let mut command = cluster.command(&[arguments, &["--admin", &address, "--client-dir", &client]].concat());
    let asked = tokio::task::spawn_blocking(move || run(&mut command));
    let mut incoming = listener.incoming();
    let mut count = 0;
    tokio::pin!(asked);
    loop {
        tokio::select! {
            finished = &mut asked => return (finished.expect("cellar runs"), count),
            // Hung up on at once: who shook hands has seen enough.
            Some(stream) = incoming.next() => {
                drop(stream.expect("a connection"));
                count += 1;
            }
        }
    }
}

#[test]
fn our_client_talks_to_no_server_but_the_right_one() {
    let cluster = Cluster::bootstrapped("zone1");
    let issuer = Issuer::new(&cluster);
    let right = LeafRequest::multiadmin(&cluster_name(), HOST);
    let elsewhere = LeafRequest {
        dns_names: ["elsewhere.example".to_owned()].into(),
        ip_addresses: [[192, 0, 2, 1].into()].into(),
        ..right.clone()
    };
    let ask = |ca: &Ca, name: &str, request: &LeafRequest| {
        block_on(served(&issuer, ca, name, request, &["jobs", "list"], &cluster))
    };
    let (finished, shaken) = ask(&issuer.ca, "right", &right);
    assert!(shaken > 0, "the control: {finished:?}");
    for (name, ca, request, why) in [
        ("elsewhere", &issuer.ca, &elsewhere, "not valid for name"),
        ("other", &issuer.other, &right, "invalid peer certificate"),
    ] {
        let (finished, shaken) = ask(ca, name, request);
        assert_eq!(shaken, 0, "{name}: {finished:?}");
        let said = finished.refused(4);
        assert!(said.contains(why), "{name}: {said}");
    }
}
