use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use cellar_tls::{CA_LIFETIME, Ca, TlsError, certificate_expiry, generate_ca};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::support::{World, cluster, mode};

#[test]
fn authority_is_p256_valid_for_ten_years_and_signs_leaves() {
    let world = World::new();
    let der = CertificateDer::from_pem_slice(world.ca.pem().as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(1));
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    certificate.verify_signature(None).unwrap();
    assert_eq!(certificate.public_key().parsed().unwrap().key_size(), 256);
    let left =
        certificate_expiry(&world.path("ca/ca.crt")).unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left <= CA_LIFETIME && left > CA_LIFETIME - Duration::from_secs(60), "{left:?}");
}

#[test]
fn files_of_an_authority_are_private() {
    let world = World::new();
    assert_eq!(mode(&world.path("ca")), 0o700);
    assert_eq!(mode(&world.path("ca/ca.key")), 0o600);
    assert_eq!(mode(&world.path("ca/ca.crt")), 0o644);
    let names: BTreeSet<String> = fs::read_dir(world.path("ca"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, [".lock", "ca.crt", "ca.key"].map(String::from).into());
    assert!(!format!("{:?}", world.ca).contains("PRIVATE"));
}

#[test]
fn existing_authority_is_never_overwritten() {
    let world = World::new();
    let read = || ["ca.key", "ca.crt"].map(|name| fs::read(world.path("ca").join(name)).unwrap());
    let before = read();
    let again = generate_ca(&world.path("ca"), &cluster()).unwrap();
    assert_eq!(again.info(), world.ca.info());
    assert_eq!(read(), before);
}

#[test]
fn run_that_was_killed_after_the_key_is_finished_with_the_same_key() {
    let world = World::new();
    let key = fs::read(world.path("ca/ca.key")).unwrap();
    fs::remove_file(world.path("ca/ca.crt")).unwrap();
    assert!(matches!(Ca::load(&world.path("ca")), Err(TlsError::NoAuthority { .. })));
    let finished = generate_ca(&world.path("ca"), &cluster()).unwrap();
    assert_ne!(finished.info().serial, world.ca.info().serial);
    assert_eq!(fs::read(world.path("ca/ca.key")).unwrap(), key);
}

#[test]
fn missing_key_is_an_error_that_says_what_to_do() {
    let world = World::new();
    let certificate = fs::read(world.path("ca/ca.crt")).unwrap();
    fs::remove_file(world.path("ca/ca.key")).unwrap();
    let error = generate_ca(&world.path("ca"), &cluster()).unwrap_err();
    assert!(matches!(error, TlsError::AuthorityKeyMissing { .. }));
    assert!(error.to_string().contains("put the key back"), "{error}");
    assert_eq!(fs::read(world.path("ca/ca.crt")).unwrap(), certificate);
    assert!(!world.path("ca/ca.key").exists());
}

#[test]
fn halves_of_two_authorities_are_refused() {
    let (one, other) = (World::new(), World::new());
    fs::copy(other.path("ca/ca.key"), one.path("ca/ca.key")).unwrap();
    let error = generate_ca(&one.path("ca"), &cluster()).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
}

#[test]
fn leaf_is_refused_as_authority() {
    let world = World::new();
    let files = world.server();
    fs::create_dir(world.path("fake")).unwrap();
    fs::copy(files.certificate, world.path("fake/ca.crt")).unwrap();
    fs::copy(files.key, world.path("fake/ca.key")).unwrap();
    let error = Ca::load(&world.path("fake")).unwrap_err();
    assert!(error.to_string().contains("CA:TRUE"), "{error}");
}

#[test]
fn key_that_others_may_read_is_refused() {
    let world = World::new();
    fs::set_permissions(world.path("ca/ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let error = Ca::load(&world.path("ca")).unwrap_err();
    assert!(matches!(error, TlsError::ExposedKey { mode: 0o640, .. }), "{error}");
}

#[test]
fn concurrent_runs_make_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca");
    let serials: BTreeSet<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| generate_ca(&path, &cluster()).unwrap().info().serial.clone()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(serials.len(), 1);
    Ca::load(&path).unwrap();
}
