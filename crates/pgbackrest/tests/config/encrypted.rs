//! Files of an encrypted repository.

use cellar_model::{RepoCipher, Secret};

use super::*;

fn secret() -> Secret {
    Secret::passphrase("not a; real #passphrase=[\"x\"]").unwrap()
}

#[test]
fn an_encrypted_repository_adds_its_two_lines_to_every_file() {
    let encrypted = Database { repo_cipher: Some(RepoCipher::Aes256Cbc), ..database() };
    let secret = secret();
    let (local, other) = (pooler(0), pooler(1));
    let render = |database: &Database, passphrase: Option<&Secret>| {
        let input =
            ConfigInput { database, local: &local, others: &[&other], tls_server_auth: "*", passphrase };
        Ok::<_, ConfigError>([
            render_full(&input)?,
            render_bootstrap(&input)?,
            render_job(database, &local, Some(&other), passphrase)?,
        ])
    };
    let plain = render(&database(), None).unwrap();
    assert_eq!(render(&database(), Some(&secret)).unwrap(), plain, "a passphrase that nobody asked for");
    for (text, plain) in render(&encrypted, Some(&secret)).unwrap().iter().zip(&plain) {
        let lines = format!(
            "repo1-path=/backup/repo\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={}\n",
            secret.expose()
        );
        assert_eq!(*text, plain.replace("repo1-path=/backup/repo\n", &lines));
        for line in what_pgbackrest_says(text) {
            assert!(!line.contains("configuration file contains") && !line.contains("[03"), "{line}");
        }
    }
    assert!(matches!(render(&encrypted, None), Err(ConfigError::NoPassphrase(_))));
}
