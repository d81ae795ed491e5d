use std::collections::BTreeMap;
use std::time::SystemTime;

use cellar_model::OperatorRole;
use cellar_tls::remember_certificates;

use super::*;
use crate::cluster::state::ClusterState;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A cluster's certificates, without anything that runs.
struct Scene {
    _dir: tempfile::TempDir,
    cluster: Cluster,
    ca: Ca,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::sample(dir.path(), &["zone1", "zone2"]);
        cluster.make_shared_directories().unwrap();
        crate::file::make_directory(&cluster.layout.state(), 0o755, None).unwrap();
        let ca = cluster.authority().unwrap();
        let scene = Self { _dir: dir, cluster, ca };
        scene.ensure();
        scene
    }

    fn ensure(&self) {
        let trusted = self.cluster.trusted().unwrap();
        for set in self.cluster.certificate_sets().unwrap() {
            set.ensure(&self.ca, &trusted).unwrap();
        }
    }

    /// Other certificates for the same keys, as when they are due.
    fn renew_leaves(&mut self, lifetime: Duration) {
        let (keys, serials) = (self.keys(), self.serials("cell zone1"));
        self.cluster.state.cert_lifetime_seconds = Some(lifetime.as_secs());
        self.ensure();
        assert_eq!(self.keys(), keys, "a renewal keeps the keys");
        assert!(self.serials("cell zone1").is_disjoint(&serials));
    }

    fn set(&self, what: &str) -> CertificateSet {
        let sets = self.cluster.certificate_sets_on_disk().unwrap();
        sets.into_iter().find(|set| set.what == what).unwrap()
    }

    fn keys(&self) -> BTreeMap<String, String> {
        let sets = self.cluster.certificate_sets_on_disk().unwrap();
        sets.into_iter().map(|set| (set.what.clone(), set.public_key().unwrap())).collect()
    }

    /// Whose keys are not what they were.
    fn changed(&self, before: &BTreeMap<String, String>) -> Vec<String> {
        let keys = self.keys().into_iter().filter(|(what, key)| before.get(what) != Some(key));
        keys.map(|(what, _)| what).collect()
    }

    fn serials(&self, what: &str) -> BTreeSet<String> {
        self.set(what).serials().collect()
    }

    fn begin(&mut self, serial: &str) {
        self.cluster.begin_revocation(serial, &Steps::new(|_, _| {})).unwrap();
    }

    fn revoking(&self) -> Revoking {
        let state = ClusterState::load(&self.cluster.layout).unwrap().unwrap();
        assert_eq!(state.revoking, self.cluster.state.revoking, "what is to be done is on disk");
        state.revoking.unwrap()
    }

    /// The step of a revocation that replaces keys; what is recorded after it.
    fn replace(&mut self) -> Revoking {
        let mut revoking = self.revoking();
        self.cluster.replace_compromised(&mut revoking, &self.ca, &Steps::new(|_, _| {})).unwrap();
        self.revoking()
    }
}

fn any(serials: &BTreeSet<String>) -> String {
    serials.first().unwrap().clone()
}

#[test]
fn key_is_replaced_also_when_it_is_given_new_certificates_meanwhile() {
    for what in ["cell zone1", "multiadmin", "the command line", "the provisioner", "etcd"] {
        let mut scene = Scene::new();
        let (keys, first) = (scene.keys(), scene.serials(what));
        scene.begin(&any(&first));
        // As `up` does it before it goes on with the revocation, and a multiadmin that renews at any time.
        scene.renew_leaves(DAY);
        let second = scene.serials(what);
        let revoking = scene.replace();
        assert_eq!(scene.changed(&keys), [what]);
        assert!(
            revoking.serials.is_superset(&first) && revoking.serials.is_superset(&second),
            "{revoking:?}"
        );
        assert!(revoking.serials.is_disjoint(&scene.serials(what)));
        // The next run does nothing of it again, and knows what was replaced.
        let keys = scene.keys();
        assert_eq!(scene.replace(), revoking);
        assert_eq!(scene.changed(&keys), Vec::<String>::new());
        assert_eq!(revoking.replaced, [scene.set(what).directory].into());
    }
}

#[test]
fn key_is_found_by_a_certificate_that_it_had_before() {
    let mut scene = Scene::new();
    let (keys, first) = (scene.keys(), scene.serials("cell zone1"));
    scene.renew_leaves(2 * DAY);
    scene.renew_leaves(DAY);
    let last = scene.serials("cell zone1");
    scene.begin(&any(&first));
    assert_eq!(scene.cluster.state.revocations_of(&"zone1".parse().unwrap()), 1, "its user in etcd changes");
    let revoking = scene.replace();
    assert_eq!(scene.changed(&keys), ["cell zone1"]);
    assert!(revoking.serials.is_superset(&first) && revoking.serials.is_superset(&last), "{revoking:?}");
    assert!(revoking.former_name.is_some());
}

#[test]
fn everything_that_a_key_had_is_revoked_after_a_rotation_too() {
    let mut scene = Scene::new();
    let first = scene.serials("cell zone1");
    scene.renew_leaves(DAY);
    let second = scene.serials("cell zone1");
    let trusted = scene.cluster.trusted().unwrap();
    for _ in 0..2 {
        scene.set("cell zone1").renew(&scene.ca, &trusted).unwrap();
    }
    let keys = scene.keys();
    scene.begin(&any(&first));
    let revoking = scene.replace();
    assert!(revoking.serials.is_superset(&first) && revoking.serials.is_superset(&second), "{revoking:?}");
    assert!(revoking.serials.is_disjoint(&scene.serials("cell zone1")), "{revoking:?}");
    assert_eq!(scene.changed(&keys), Vec::<String>::new(), "the key is a new one already");
}

#[test]
fn everything_that_the_key_of_a_deleted_cell_had_is_revoked() {
    let mut scene = Scene::new();
    let (first, tls) = (scene.serials("cell zone2"), scene.set("cell zone2").directory);
    remember_certificates(&tls, &scene.cluster.layout.ca(), None).unwrap();
    std::fs::remove_dir_all(scene.cluster.layout.cell(&"zone2".parse().unwrap()).root()).unwrap();
    scene.cluster.state.remove_cell(&"zone2".parse().unwrap());
    scene.begin(&any(&first));
    let revoking = scene.replace();
    assert!(revoking.serials.is_superset(&first), "{revoking:?}");
    assert!(revoking.former_name.is_some(), "it opens pgBackRest's servers");
}

#[test]
fn certificates_of_a_persons_key_are_revoked_together() {
    let mut scene = Scene::new();
    let out = scene.cluster.layout.root().join("given");
    let issue = |scene: &Scene, days: u32| {
        let issued = scene.cluster.issue_operator(OperatorRole::Viewer, &[], "ci", Some(days * DAY), &out);
        issued.unwrap().serial
    };
    let (first, second) = (issue(&scene, 2), issue(&scene, 1));
    assert_ne!(first, second);
    let (keys, own) = (scene.keys(), std::fs::read(out.join("client.key")).unwrap());
    scene.begin(&first);
    let revoking = scene.replace();
    assert_eq!(revoking.serials, [first, second].into());
    assert_eq!((scene.changed(&keys), revoking.former_name), (Vec::new(), None));
    scene.cluster.sign_revoked(&revoking.serials).unwrap();
    // Also when only the key is left there.
    std::fs::remove_file(out.join("client.crt")).unwrap();
    let _ = issue(&scene, 1);
    assert_ne!(std::fs::read(out.join("client.key")).unwrap(), own, "issued again, it has a new key");
}

#[test]
fn own_certificates_are_not_renewed_while_one_is_being_revoked() {
    let mut scene = Scene::new();
    let trusted = scene.cluster.trusted().unwrap();
    let what = "the command line";
    let mut due = scene.set(what);
    let mut issue = |age: Duration| {
        due.leaves[0].1.lifetime = DAY;
        due.leaves[0].1.valid_from = Some(SystemTime::now() - age);
        due.ensure(&scene.ca, &trusted).unwrap();
    };
    issue(DAY * 3 / 4);
    let first = any(&scene.serials(what));
    scene.begin(&first);
    scene.cluster.renew_operators();
    assert_eq!(any(&scene.serials(what)), first);
    let revoking = scene.cluster.state.revoking.take();
    scene.cluster.renew_operators();
    assert_ne!(any(&scene.serials(what)), first, "it is due");
    // One that has ended would keep the revocation from being finished.
    scene.cluster.state.revoking = revoking;
    let mut ended = scene.set(what);
    ended.leaves[0].1.lifetime = DAY;
    ended.leaves[0].1.valid_from = Some(SystemTime::now() - 2 * DAY);
    ended.ensure(&scene.ca, &trusted).unwrap();
    let last = any(&scene.serials(what));
    scene.cluster.renew_operators();
    assert_ne!(any(&scene.serials(what)), last);
}

#[test]
fn server_whose_set_an_earlier_run_replaced_is_waited_for() {
    let mut scene = Scene::new();
    let first = scene.serials("cell zone1");
    scene.begin(&any(&first));
    let revoking = scene.replace();
    let before: BTreeSet<String> = scene
        .cluster
        .ports_before(&revoking)
        .unwrap()
        .into_iter()
        .filter(|port| is_of(port, &revoking.replaced))
        .map(|port| port.old_serial)
        .collect();
    assert!(!before.is_empty() && before.is_subset(&first), "{before:?}");
    // Its pooler has taken the new set up and removed the old one.
    forget_previous(&scene.set("cell zone1").directory).unwrap();
    let ports = scene.cluster.ports_before(&revoking).unwrap();
    let of_cell = ports.iter().filter(|port| is_of(port, &revoking.replaced));
    assert!(of_cell.into_iter().all(|port| port.old_serial.is_empty()));
}

#[test]
fn serial_number_that_nothing_here_has_is_not_revoked_by_mistake() {
    let mut scene = Scene::new();
    let serial = any(&scene.serials("cell zone1"));
    assert_eq!(scene.cluster.revocable(&serial, false).unwrap(), serial);
    let last = if serial.ends_with('0') { "1" } else { "0" };
    let mistyped = format!("{}{last}", &serial[..serial.len() - 1]);
    let told = scene.cluster.revocable(&mistyped, false).unwrap_err().to_string();
    for part in [format!("did you mean {serial}?"), "certs list".to_owned(), "--unknown".to_owned()] {
        assert!(told.contains(&part), "{told}");
    }
    let other = scene.cluster.revocable("1234", false).unwrap_err().to_string();
    assert!(other.contains("known here") && !other.contains("did you mean"), "{other}");
    assert_eq!(scene.cluster.revocable(&mistyped, true).unwrap(), mistyped);
    // What was begun is gone on with, and what a key had before is known.
    scene.begin(&mistyped);
    assert_eq!(scene.cluster.revocable(&mistyped, false).unwrap(), mistyped);
    scene.renew_leaves(DAY);
    assert_eq!(scene.cluster.revocable(&serial, false).unwrap(), serial);
}
