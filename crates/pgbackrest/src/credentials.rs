//! The credentials of a repository's store: taken from a file or the environment, kept in a file that nobody else may
//! read, and added to the private configs of pgBackRest.
//!
//! The names are those that people have in their set-ups. The file that is kept has pgBackRest's own form, so it says what
//! it is for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use cellar_model::{Secret, SecretError, Store, StoreKind};

use crate::private_file::{PrivateFileError, read_private};

/// A variable that credentials are taken from.
struct Name {
    kind: StoreKind,
    /// The one `key-type` that it is for; none when any will do.
    key_type: Option<&'static str>,
    name: &'static str,
    /// The option of pgBackRest that it becomes, behind `repo1-`.
    option: &'static str,
}

const fn s3(name: &'static str, option: &'static str) -> Name {
    Name { kind: StoreKind::S3, key_type: Some("shared"), name, option }
}

const fn azure(key_type: Option<&'static str>, name: &'static str) -> Name {
    Name { kind: StoreKind::Azure, key_type, name, option: AZURE_KEY }
}

const fn gcs(key_type: Option<&'static str>, name: &'static str) -> Name {
    Name { kind: StoreKind::Gcs, key_type, name, option: GCS_KEY }
}

const NAMES: &[Name] = &[
    s3("AWS_ACCESS_KEY_ID", S3_KEY),
    s3("AWS_SECRET_ACCESS_KEY", S3_SECRET),
    s3("AWS_SESSION_TOKEN", S3_TOKEN),
    s3("PGBACKREST_R2_KEY", S3_KEY),
    s3("PGBACKREST_R2_ACCESS_KEY_ID", S3_KEY),
    s3("PGBACKREST_R2_SECRET", S3_SECRET),
    s3("PGBACKREST_R2_SECRET_ACCESS_KEY", S3_SECRET),
    s3("PGBACKREST_REPO1_S3_KEY", S3_KEY),
    s3("PGBACKREST_REPO1_S3_KEY_SECRET", S3_SECRET),
    s3("PGBACKREST_REPO1_S3_TOKEN", S3_TOKEN),
    azure(Some("shared"), "AZURE_STORAGE_KEY"),
    azure(Some("sas"), "AZURE_STORAGE_SAS_TOKEN"),
    azure(None, "PGBACKREST_REPO1_AZURE_KEY"),
    gcs(Some("service"), KEY_FILE),
    gcs(Some("token"), "GOOGLE_OAUTH_ACCESS_TOKEN"),
    gcs(None, "PGBACKREST_REPO1_GCS_KEY"),
    Name {
        kind: StoreKind::Sftp,
        key_type: None,
        name: "PGBACKREST_REPO1_SFTP_PRIVATE_KEY_PASSPHRASE",
        option: "sftp-private-key-passphrase",
    },
];

/// The variable that names the key file of a Google service account.
const KEY_FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// Variables of the same set-ups that say what the URL says: they have to agree with it.
const AGREEING: &[(StoreKind, &str)] = &[
    (StoreKind::S3, "PGBACKREST_R2_BUCKET"),
    (StoreKind::S3, "PGBACKREST_R2_ENDPOINT"),
    (StoreKind::Azure, "AZURE_STORAGE_ACCOUNT"),
    (StoreKind::Azure, "AZURE_STORAGE_CONTAINER"),
];

const S3_KEY: &str = "s3-key";
const S3_SECRET: &str = "s3-key-secret";
const S3_TOKEN: &str = "s3-token";
const AZURE_KEY: &str = "azure-key";
const GCS_KEY: &str = "gcs-key";

/// How a line of the kept file begins.
const PREFIX: &str = "repo1-";

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read, or others may.
    #[error("the credentials of the repository's store: {0}")]
    File(#[from] PrivateFileError),
    /// A line is no `NAME=VALUE`.
    #[error("line {line} of the credentials in {} is not NAME=VALUE", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
    },
    /// A name that the kind of store has no use for.
    #[error("a repository of kind {kind} takes no credential {name}, but {known}")]
    UnknownName {
        /// The kind.
        kind: &'static str,
        /// The name, if it looks like one.
        name: String,
        /// The names that it takes.
        known: String,
    },
    /// The value cannot stand in a config.
    #[error("the credential {name} is refused: {reason}")]
    Value {
        /// Its name.
        name: String,
        /// The rule that it breaks.
        reason: SecretError,
    },
    /// Two names for one thing, with different values.
    #[error("{first} and {second} are both given, and differ")]
    Twice {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A variable says something else than the URL.
    #[error("{name} is not what the repository's URL says")]
    Differs {
        /// Its name.
        name: String,
    },
    /// Something is missing.
    #[error("the credentials of the repository {repository} lack {missing}")]
    Missing {
        /// Its URL.
        repository: String,
        /// What may be given.
        missing: String,
    },
    /// What the kept file holds is not of this kind of store.
    #[error("line {line} of {} is no credential of a repository of kind {kind}", path.display())]
    Kept {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// The kind.
        kind: &'static str,
    },
}

/// What a store knows a cluster by. `Debug` shows no value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<&'static str, Secret>);

/// Whether a variable of this name is taken for a credential of some store, so that no daemon should inherit it.
#[must_use]
pub fn is_credential_variable(name: &str) -> bool {
    NAMES.iter().any(|known| known.name == name)
}

/// The names that this store has a use for, each with the option that it becomes.
fn names_of(store: &Store) -> impl Iterator<Item = (&'static str, &'static str)> {
    let has_none = matches!(store.key_type(), Some("auto" | "web-id"));
    let fits = move |name: &&Name| {
        name.kind == store.kind()
            && !has_none
            && (name.key_type.is_none() || name.key_type == store.key_type())
    };
    NAMES.iter().filter(fits).map(|name| (name.name, name.option))
}

/// The options that a store cannot be used without.
fn needed(store: &Store) -> &'static [&'static str] {
    match (store.kind(), store.key_type()) {
        (StoreKind::S3, Some("shared")) => &[S3_KEY, S3_SECRET],
        (StoreKind::Azure, Some("shared" | "sas")) => &[AZURE_KEY],
        (StoreKind::Gcs, Some("service" | "token")) => &[GCS_KEY],
        _ => &[],
    }
}

impl Credentials {
    /// Takes those of this store from names and values. With `only_these` a name that is not one of them is refused; else
    /// it is somebody else's, as in the environment.
    ///
    /// The value of `GOOGLE_APPLICATION_CREDENTIALS` is the path of a file, whose content is taken.
    ///
    /// # Errors
    /// When a name is refused, two contradict each other or the URL, or a value cannot stand in a config. Whether all that
    /// is needed is there is not looked at: see [`Credentials::check`].
    pub fn of_names(
        store: &Store,
        given: impl IntoIterator<Item = (String, String)>,
        only_these: bool,
    ) -> Result<Self, CredentialsError> {
        let kind = store.kind();
        let mut found: BTreeMap<&'static str, (String, Secret)> = BTreeMap::new();
        for (name, value) in given {
            if AGREEING.contains(&(kind, name.as_str())) {
                check_agrees(store, &name, &value)?;
                continue;
            }
            let Some((known, option)) = names_of(store).find(|(known, _)| *known == name) else {
                if only_these {
                    return Err(unknown_name(store, &name));
                }
                continue;
            };
            let value = match known {
                KEY_FILE => one_line(&read_private(Path::new(&value))?),
                _ => value,
            };
            let secret = Secret::credential(&value)
                .map_err(|reason| CredentialsError::Value { name: known.to_owned(), reason })?;
            match found.insert(option, (known.to_owned(), secret)) {
                Some((first, before)) if found.get(option).is_some_and(|(_, now)| *now != before) => {
                    return Err(CredentialsError::Twice { first, second: known.to_owned() });
                }
                _ => {}
            }
        }
        Ok(Self(found.into_iter().map(|(option, (_, secret))| (option, secret)).collect()))
    }

    /// Reads a file of lines `NAME=VALUE` that a person wrote: empty lines and those that begin with `#` are left out, and
    /// `export ` before a name and quotes round a value are as in a shell.
    ///
    /// # Errors
    /// As [`Credentials::of_names`], when others than its owner may read the file, or something is missing.
    pub fn read_given(store: &Store, path: &Path) -> Result<Self, CredentialsError> {
        let text = read_private(path)?;
        let mut given = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let Some((name, value)) = line.split_once('=') else {
                return Err(CredentialsError::Line { path: path.to_owned(), line: at + 1 });
            };
            given.push((name.trim().to_owned(), unquoted(value.trim()).to_owned()));
        }
        let these = Self::of_names(store, given, true)?;
        these.check(store)?;
        Ok(these)
    }

    /// Reads the file that is kept, as [`Credentials::kept_text`] wrote it.
    ///
    /// # Errors
    /// When it cannot be read, others than its owner may read it, or it is of another kind of store.
    pub fn read_kept(store: &Store, path: &Path) -> Result<Self, CredentialsError> {
        let text = read_private(path)?;
        let mut found = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') || line == "[global]" {
                continue;
            }
            let kept = line.strip_prefix(PREFIX).and_then(|line| line.split_once('='));
            let kept = kept.and_then(|(name, value)| {
                let (_, option) = names_of(store).find(|(_, option)| *option == name)?;
                Some((option, Secret::credential(value).ok()?))
            });
            let Some((option, secret)) = kept else {
                let (path, kind) = (path.to_owned(), store.kind().as_str());
                return Err(CredentialsError::Kept { path, line: at + 1, kind });
            };
            found.insert(option, secret);
        }
        let these = Self(found);
        these.check(store)?;
        Ok(these)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all that the store needs is there.
    ///
    /// # Errors
    /// [`CredentialsError::Missing`] with the names of what is not.
    pub fn check(&self, store: &Store) -> Result<(), CredentialsError> {
        let missing = needed(store).iter().filter(|option| !self.0.contains_key(*option));
        let missing: Vec<String> = missing
            .map(|option| {
                let names = names_of(store).filter(|(_, of)| of == option).map(|(name, _)| name);
                names.collect::<Vec<_>>().join(" or ")
            })
            .collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(CredentialsError::Missing {
                repository: store.to_string(),
                missing: missing.join(", and "),
            }),
        }
    }

    fn lines(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (option, secret)| {
            let _ = writeln!(text, "{PREFIX}{option}={}", secret.expose());
            text
        })
    }

    /// The file that is kept of them. It holds secrets: 0600.
    #[must_use]
    pub fn kept_text(&self) -> String {
        format!(
            "# Credentials of the repository's store. `cellar up --repo-credentials-file FILE` replaces them.\n[global]\n{}",
            self.lines()
        )
    }

    /// The content of a Google service account's key file, and these with `path` in its place: pgBackRest takes such a key
    /// as a file only. None when there is no such key.
    #[must_use]
    pub fn split_key_file(&self, path: &Path) -> Option<(Secret, Self)> {
        let key = self.0.get(GCS_KEY).filter(|key| key.expose().starts_with('{'))?;
        let path = Secret::credential(&path.display().to_string()).ok()?;
        let mut others = self.0.clone();
        others.insert(GCS_KEY, path);
        Some((key.clone(), Self(others)))
    }

    /// A rendered `pgbackrest.conf` with them, first in its `[global]`. It holds secrets then: 0600.
    #[must_use]
    pub fn added_to(&self, config: &str) -> String {
        match self.is_empty() {
            true => config.to_owned(),
            false => config.replacen("[global]\n", &format!("[global]\n{}", self.lines()), 1),
        }
    }
}

fn check_agrees(store: &Store, name: &str, value: &str) -> Result<(), CredentialsError> {
    let agrees = match name {
        "PGBACKREST_R2_ENDPOINT" => {
            let host = value.trim_end_matches('/');
            store.option("endpoint") == Some(host.strip_prefix("https://").unwrap_or(host))
        }
        "AZURE_STORAGE_ACCOUNT" => store.account() == Some(value),
        _ => store.place() == value,
    };
    if agrees { Ok(()) } else { Err(CredentialsError::Differs { name: name.to_owned() }) }
}

fn unknown_name(store: &Store, name: &str) -> CredentialsError {
    // It may be a value that stands in the wrong place.
    let is_name = name.len() <= 60 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let known = names_of(store).map(|(name, _)| name).collect::<Vec<_>>().join(", ");
    let known = match store.key_type() {
        _ if !known.is_empty() => known,
        key_type => format!("none at all with key-type={}", key_type.unwrap_or_default()),
    };
    let name = if is_name { name.to_owned() } else { "of that name".to_owned() };
    CredentialsError::UnknownName { kind: store.kind().as_str(), name, known }
}

/// JSON on one line: line breaks stand only between its words.
fn one_line(json: &str) -> String {
    json.lines().map(str::trim).collect()
}

fn unquoted(value: &str) -> &str {
    let within = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    const S3: &str = "s3://backups/demo?endpoint=r2.example&region=auto&uri-style=path";

    fn store(url: &str) -> Store {
        url.parse().unwrap()
    }

    /// The lines that the content of a file becomes.
    fn given(url: &str, content: &str) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("given");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
        Credentials::read_given(&store(url), &path).map(|it| it.lines()).map_err(|error| error.to_string())
    }

    #[test]
    fn names_of_widespread_set_ups_are_understood() {
        let s3 = "repo1-s3-key=KEYID\nrepo1-s3-key-secret=se;#cret=\n";
        for content in [
            "AWS_ACCESS_KEY_ID=KEYID\nAWS_SECRET_ACCESS_KEY=se;#cret=\n",
            "# mine\n\nexport AWS_ACCESS_KEY_ID=\"KEYID\"\nexport AWS_SECRET_ACCESS_KEY='se;#cret='",
            "PGBACKREST_R2_KEY=KEYID\nPGBACKREST_R2_SECRET=se;#cret=\nPGBACKREST_R2_BUCKET=backups\nPGBACKREST_R2_ENDPOINT=https://r2.example/",
            "PGBACKREST_REPO1_S3_KEY=KEYID\nPGBACKREST_REPO1_S3_KEY_SECRET=se;#cret=\nAWS_ACCESS_KEY_ID=KEYID",
        ] {
            assert_eq!(given(S3, content).as_deref(), Ok(s3), "{content}");
        }
        let azure = "azure://account/container/p";
        for content in [
            "AZURE_STORAGE_ACCOUNT=account\nAZURE_STORAGE_CONTAINER=container\nAZURE_STORAGE_KEY=a2V5",
            "PGBACKREST_REPO1_AZURE_KEY=a2V5",
        ] {
            assert_eq!(given(azure, content).as_deref(), Ok("repo1-azure-key=a2V5\n"));
        }
        assert_eq!(
            given("gcs://bucket/p?key-type=token", "GOOGLE_OAUTH_ACCESS_TOKEN=ya29").as_deref(),
            Ok("repo1-gcs-key=ya29\n")
        );
        let sas = given("azure://account/container/p?key-type=sas", "AZURE_STORAGE_SAS_TOKEN=a2V5");
        assert_eq!(sas.as_deref(), Ok("repo1-azure-key=a2V5\n"));
        assert_eq!(given("gcs://bucket/p?key-type=auto", "").as_deref(), Ok(""));
        let none = given("s3://backups/p?key-type=auto&region=r", "AWS_ACCESS_KEY_ID=K").unwrap_err();
        assert!(none.contains("but none at all with key-type=auto"), "{none}");
    }

    #[test]
    fn refusal_names_the_credential_and_never_its_value() {
        for (content, why) in [
            ("AWS_ACCESS_KEY_ID=hunter2", "lack AWS_SECRET_ACCESS_KEY or"),
            ("", "lack AWS_ACCESS_KEY_ID or"),
            ("hunter2", "line 1"),
            ("hunter2=x", "takes no credential of that name"),
            (
                "AZURE_STORAGE_KEY=hunter2",
                "kind s3 takes no credential AZURE_STORAGE_KEY, but AWS_ACCESS_KEY_ID,",
            ),
            ("AWS_SSE_CUSTOMER_KEY=hunter2", "takes no credential AWS_SSE_CUSTOMER_KEY"),
            (
                "AWS_ACCESS_KEY_ID=hunter2\nPGBACKREST_R2_KEY=hunter3",
                "AWS_ACCESS_KEY_ID and PGBACKREST_R2_KEY are both given",
            ),
            ("AWS_ACCESS_KEY_ID=hunter2\u{1}x", "AWS_ACCESS_KEY_ID is refused: it holds a line break"),
            ("AWS_ACCESS_KEY_ID=", "it is empty"),
            ("PGBACKREST_R2_BUCKET=hunter2", "PGBACKREST_R2_BUCKET is not what"),
        ] {
            let error = given(S3, content).unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter"), "{content}: {error}");
        }
    }

    #[test]
    fn those_of_others_in_the_environment_are_left_alone() {
        let names = [
            ("AZURE_STORAGE_KEY", "x"),
            ("AWS_ACCESS_KEY_ID", "K"),
            ("PATH", "/bin"),
            ("AWS_SECRET_ACCESS_KEY", "S"),
        ];
        let names = names.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = Credentials::of_names(&store(S3), names, false).unwrap();
        assert_eq!(found.lines(), "repo1-s3-key=K\nrepo1-s3-key-secret=S\n");
        assert!(is_credential_variable("AWS_SESSION_TOKEN") && !is_credential_variable("AWS_REGION"));
    }

    #[test]
    fn what_is_kept_is_read_again_and_stands_in_a_config_first() {
        let names = [("AWS_ACCESS_KEY_ID", "K"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
        let names = names.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let these = Credentials::of_names(&store(S3), names, true).unwrap();
        assert!(!format!("{these:?}").contains("hunter2"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo-credentials");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, these.kept_text().as_bytes()).unwrap();
        assert_eq!(Credentials::read_kept(&store(S3), &path).unwrap(), these);
        let other = Credentials::read_kept(&store("gcs://bucket/p"), &path).unwrap_err().to_string();
        assert!(other.contains("line 3") && !other.contains("hunter2"), "{other}");
        let config = "# a\n\n[global]\nrepo1-type=s3\n\n[app]\nx=[global]\n";
        let expected = "# a\n\n[global]\nrepo1-s3-key=K\nrepo1-s3-key-secret=hunter2\nrepo1-type=s3\n\n[app]\nx=[global]\n";
        assert_eq!(these.added_to(config), expected);
        assert_eq!(Credentials::default().added_to(config), config);
    }

    #[test]
    fn key_file_of_a_service_account_becomes_a_file_again() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.json");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&key).unwrap();
        std::io::Write::write_all(
            &mut file,
            b"{\n  \"type\": \"service_account\",\n  \"private_key\": \"a\\nb\"\n}\n",
        )
        .unwrap();
        let names = [("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), key.display().to_string())];
        let these = Credentials::of_names(&store("gcs://bucket/p"), names, true).unwrap();
        let (content, others) = these.split_key_file(Path::new("/c/key.json")).unwrap();
        assert_eq!(content.expose(), r#"{"type": "service_account","private_key": "a\nb"}"#);
        assert_eq!(others.lines(), "repo1-gcs-key=/c/key.json\n");
        assert_eq!(others.split_key_file(Path::new("/c/key.json")), None);
    }
}
