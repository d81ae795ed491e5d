use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use cellar_model::PgbackrestName;
use cellar_system::Owner;
use cellar_tls::{
    CLOCK_SKEW, CertificateInfo, Identity, Issued, KeyFile, LEAF_LIFETIME, LeafRequest, TlsError,
    generate_ca, generate_delegate, generate_server_cert, issue, sign_request,
};

use crate::support::{World, admin, cluster, mode};

#[test]
fn server_certificate_has_the_specified_names_and_uses() {
    let world = World::new();
    let dir = world.path("zone1/tls");
    let issued = generate_server_cert(&world.ca, &dir, "zone1.example.org", None).unwrap();
    assert!(issued.is_new());
    let info = CertificateInfo::from_file(&dir.join("server.crt")).unwrap();
    assert_eq!(info.common_name, "pgbackrest");
    assert!(info.server_auth && info.client_auth && !info.authority);
    assert_eq!(info.dns_names, ["localhost", "zone1.example.org"].map(String::from).into());
    assert_eq!(info.ip_addresses, ["127.0.0.1", "::1"].map(|a| a.parse().unwrap()).into());
    let now = SystemTime::now();
    let left = info.not_after.duration_since(now).unwrap();
    assert!(left <= LEAF_LIFETIME && left > LEAF_LIFETIME - Duration::from_secs(60), "{left:?}");
    let past = now.duration_since(info.not_before).unwrap();
    let skew = CLOCK_SKEW.as_secs();
    assert!((skew..skew + 60).contains(&past.as_secs()), "{past:?}");
    assert_eq!(info.serial.len(), 32);
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("server.key")), 0o600);
    assert_eq!(mode(&dir.join("server.crt")), 0o644);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
}

#[test]
fn one_key_serves_all_certificates_of_a_cell() {
    let world = World::new();
    let dir = world.path("tls");
    let (database, cell) = ("shop".parse().unwrap(), "zone1".parse().unwrap());
    generate_server_cert(&world.ca, &dir, "localhost", None).unwrap();
    world.ca.install_certificate(&dir, None).unwrap();
    let key_bytes = fs::read(dir.join("server.key")).unwrap();
    let key = KeyFile::load_or_create(&dir.join("server.key"), None).unwrap();
    let pooler = LeafRequest::pooler(&cluster(), &database, &cell, "localhost");
    issue(&world.ca, &pooler, &key, &dir.join("pooler.crt")).unwrap();
    issue(&world.ca, &LeafRequest::replication(&cluster(), &cell), &key, &dir.join("replication.crt"))
        .unwrap();
    let mut serials = std::collections::BTreeSet::new();
    for (name, common_name, uri) in [
        ("server.crt", "pgbackrest", None),
        ("pooler.crt", "shop.zone1", Some("spiffe://demo/pooler/shop/zone1")),
        ("replication.crt", "cellar_replication", Some("spiffe://demo/replication/zone1")),
    ] {
        let identity = Identity::load(&dir.join("ca.crt"), &dir.join(name), &dir.join("server.key")).unwrap();
        assert_eq!(identity.info().common_name, common_name);
        assert_eq!(identity.info().uri.as_deref(), uri);
        serials.insert(identity.info().serial.clone());
    }
    assert_eq!(serials.len(), 3);
    assert!(!CertificateInfo::from_file(&dir.join("replication.crt")).unwrap().server_auth);
    assert_eq!(fs::read(dir.join("server.key")).unwrap(), key_bytes);
}

#[test]
fn second_run_changes_no_byte() {
    let world = World::new();
    let dir = world.path("tls");
    let state = || {
        ["server.key", "server.crt"].map(|name| {
            let path = dir.join(name);
            (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().ino())
        })
    };
    generate_server_cert(&world.ca, &dir, "zone1", None).unwrap();
    let before = state();
    let again = generate_server_cert(&world.ca, &dir, "zone1", None).unwrap();
    assert!(matches!(again, Issued::Kept(_)));
    assert_eq!(state(), before);
}

#[test]
fn unusable_certificate_is_issued_again_for_the_same_key() {
    let world = World::new();
    let other = World::new();
    let path = world.path("tls/client.crt");
    let key = KeyFile::load_or_create(&world.path("tls/client.key"), None).unwrap();
    let wanted = admin("alice");
    let ago = |seconds| Some(SystemTime::now() - Duration::from_secs(seconds));
    let day = Duration::from_secs(86_400);
    let reissued = || issue(&world.ca, &wanted, &key, &path).unwrap().is_new();

    assert!(reissued());
    assert!(!reissued());
    for (why, unfit) in [
        ("another name", admin("bob")),
        ("another use", LeafRequest { server_auth: true, ..wanted.clone() }),
        ("a name too many", wanted.clone().with_host("localhost")),
        ("expired", LeafRequest { valid_from: ago(2 * 86_400), lifetime: day, ..wanted.clone() }),
        ("two thirds over", LeafRequest { valid_from: ago(60_000), lifetime: day, ..wanted.clone() }),
        ("too long a life", wanted.clone().with_lifetime(2 * LEAF_LIFETIME)),
    ] {
        // Removed, because an existing one with a shorter life would be kept.
        fs::remove_file(&path).unwrap();
        issue(&world.ca, &unfit, &key, &path).unwrap();
        assert!(reissued(), "{why}");
        assert!(!reissued(), "{why}");
    }
    issue(&other.ca, &wanted, &key, &path).unwrap();
    assert!(reissued(), "another authority");
    let other_key = KeyFile::load_or_create(&world.path("tls/other.key"), None).unwrap();
    issue(&world.ca, &wanted, &other_key, &path).unwrap();
    assert!(reissued(), "another key");
    fs::write(&path, "rubbish").unwrap();
    assert!(reissued(), "rubbish");
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(reissued(), "not even text");
    let half_over = LeafRequest { valid_from: ago(40_000), lifetime: day, ..wanted.clone() };
    issue(&world.ca, &half_over, &key, &path).unwrap();
    assert!(!reissued(), "one with enough life left is kept");
}

#[test]
fn short_lived_certificate_is_valid_and_not_due_at_once() {
    let world = World::new();
    let key = KeyFile::load_or_create(&world.path("tls/client.key"), None).unwrap();
    let minute = admin("ci").with_lifetime(Duration::from_secs(60));
    let path = world.path("tls/client.crt");
    assert!(issue(&world.ca, &minute, &key, &path).unwrap().is_new());
    assert!(!issue(&world.ca, &minute, &key, &path).unwrap().is_new());
}

#[test]
fn leaf_does_not_outlive_its_authority() {
    let world = World::new();
    let key = KeyFile::load_or_create(&world.path("tls/client.key"), None).unwrap();
    let long = admin("ci").with_lifetime(20 * LEAF_LIFETIME);
    let issued = issue(&world.ca, &long, &key, &world.path("tls/client.crt")).unwrap();
    assert_eq!(issued.info().not_after, world.ca.info().not_after);
}

#[test]
fn mode_and_owner_of_a_key_are_corrected_unless_it_has_another_link() {
    let world = World::new();
    let path = world.path("tls/server.key");
    generate_server_cert(&world.ca, &world.path("tls"), "localhost", None).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(!generate_server_cert(&world.ca, &world.path("tls"), "localhost", None).unwrap().is_new());
    assert_eq!(mode(&path), 0o600);
    assert_eq!(fs::read(&path).unwrap(), bytes);

    // A service user cannot have the authority's key handed over by a link in its own directory.
    fs::remove_file(&path).unwrap();
    symlink(world.path("ca/ca.key"), &path).unwrap();
    assert!(generate_server_cert(&world.ca, &world.path("tls"), "localhost", None).is_err());
    fs::remove_file(&path).unwrap();
    fs::hard_link(world.path("ca/ca.key"), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = generate_server_cert(&world.ca, &world.path("tls"), "localhost", None).unwrap_err();
    assert!(matches!(error, TlsError::BadFile { .. }), "{error}");

    fs::remove_file(&path).unwrap();
    fs::write(&path, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
    let error = generate_server_cert(&world.ca, &world.path("tls"), "localhost", None).unwrap_err();
    assert!(!error.to_string().contains("c2Vj"), "{error}");
}

#[test]
fn files_belong_to_the_service_user_from_the_beginning() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let world = World::new();
    let owner = Owner { uid: 65_534, gid: 65_533 };
    let dir = world.path("tls");
    let ids = |name: &str| {
        let metadata = fs::metadata(dir.join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    generate_server_cert(&world.ca, &dir, "localhost", Some(owner)).unwrap();
    assert!(world.ca.install_certificate(&dir, Some(owner)).unwrap());
    assert!(!world.ca.install_certificate(&dir, Some(owner)).unwrap());
    for name in ["", "server.key", "server.crt", "ca.crt"] {
        assert_eq!(ids(name), (owner.uid, owner.gid), "{name:?}");
    }
    // Another owner later: same key, same certificate, handed over.
    let bytes = fs::read(dir.join("server.crt")).unwrap();
    let other = Owner { uid: 65_532, gid: 65_532 };
    assert!(!generate_server_cert(&world.ca, &dir, "localhost", Some(other)).unwrap().is_new());
    assert_eq!(ids("server.key"), (other.uid, other.gid));
    assert_eq!(ids("server.crt"), (other.uid, other.gid));
    assert_eq!(fs::read(dir.join("server.crt")).unwrap(), bytes);
}

#[test]
fn identity_with_one_wrong_part_is_refused() {
    let (world, other) = (World::new(), World::new());
    let (files, foreign) = (world.server(), other.server());
    let load = |ca, certificate, key| Identity::load(ca, certificate, key).unwrap_err();
    let error = load(&files.authorities, &files.certificate, &foreign.key);
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    let error = load(&foreign.authorities, &files.certificate, &files.key);
    assert!(matches!(error, TlsError::Untrusted { .. }), "{error}");
    let error = load(&files.authorities, &files.key, &files.key);
    assert!(matches!(error, TlsError::BadFile { .. }), "{error}");
    let error = load(&files.authorities, &files.certificate, &files.certificate);
    assert!(matches!(error, TlsError::BadFile { .. }), "{error}");
    let error = load(&files.authorities, &world.path("none"), &files.key);
    assert!(error.is_not_found() && error.to_string().contains("none"), "{error}");

    // While an authority is replaced, both are trusted.
    let both = world.path("both.crt");
    fs::write(&both, format!("{}{}", other.ca.pem(), world.ca.pem())).unwrap();
    Identity::load(&both, &files.certificate, &files.key).unwrap();
    Identity::load(&both, &foreign.certificate, &foreign.key).unwrap();
}

#[test]
fn expired_and_future_certificates_are_refused() {
    let world = World::new();
    let hour = Duration::from_secs(3600);
    for from in [SystemTime::now() - 3 * hour, SystemTime::now() + hour] {
        let request = LeafRequest { valid_from: Some(from), lifetime: hour, ..admin("alice") };
        let dir = world.client_dir("client", &request);
        let error = Identity::load(&dir.join("ca.crt"), &dir.join("client.crt"), &dir.join("client.key"))
            .unwrap_err();
        assert!(matches!(error, TlsError::Untrusted { .. }), "{error}");
    }
}

#[test]
fn delegate_signs_for_a_proven_key_and_decides_names_and_uses() {
    let world = World::new();
    let cluster = "demo".parse().unwrap();
    let delegate = generate_delegate(&world.ca, &world.path("signing"), &cluster, None).unwrap();
    let key = KeyFile::load_or_create(&world.path("tls/server.key"), None).unwrap();
    let request = LeafRequest::pgbackrest(PgbackrestName::default(), "zone1.example.org");
    let pem = sign_request(&delegate, &request, &key.signing_request().unwrap()).unwrap();
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 2, "the delegate's certificate follows");
    // Whoever trusts the root alone accepts it, with the key that was proven and no other.
    let certificate = world.path("tls/server.crt");
    std::fs::write(&certificate, &pem).unwrap();
    let root = world.path("root");
    std::fs::create_dir(&root).unwrap();
    world.ca.install_certificate(&root, None).unwrap();
    let identity = Identity::load(&root.join("ca.crt"), &certificate, key.path()).unwrap();
    assert_eq!(identity.info().common_name, "pgbackrest");
    assert!(identity.info().dns_names.contains("zone1.example.org"));
    let other = KeyFile::load_or_create(&world.path("other.key"), None).unwrap();
    assert!(Identity::load(&root.join("ca.crt"), &certificate, other.path()).is_err());
    // It is kept while it lasts, rebuilt for another root, and may make no authority of its own.
    let again = generate_delegate(&world.ca, &world.path("signing"), &cluster, None).unwrap();
    assert_eq!(again.info().serial, delegate.info().serial);
    let stranger = generate_ca(&world.path("stranger"), &cluster).unwrap();
    let renewed = generate_delegate(&stranger, &world.path("signing"), &cluster, None).unwrap();
    assert_ne!(renewed.info().serial, delegate.info().serial);
    assert!(generate_delegate(&delegate, &world.path("deeper"), &cluster, None).is_err());
    for forged in ["", "rubbish", &pem] {
        assert!(sign_request(&delegate, &request, forged).is_err());
    }
}
