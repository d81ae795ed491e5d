//! The URL of a store: parsed and checked without asking anybody.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::records::repository::error::RepositoryError;
use crate::records::repository::repo_path::RepoPath;
use crate::records::repository::store::Store;
use crate::records::repository::store_kind::StoreKind;
use crate::records::repository::store_option::{looks_secret, rules};
use crate::types::host::HostName;
use crate::types::path_rule::path_fault;

/// Most bytes of a URL.
const MAX_URL: usize = 4096;

/// Most characters of a name that an error repeats.
const MAX_NAME: usize = 40;

type Result<T> = std::result::Result<T, RepositoryError>;

fn refuse<T>(field: &str, reason: impl Into<String>) -> Result<T> {
    Err(RepositoryError::field(field, reason))
}

/// What stands before `://`, if it may be the name of a kind.
pub(crate) fn scheme(text: &str) -> Option<&str> {
    let (kind, _) = text.split_once("://")?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    (!kind.is_empty() && kind.len() <= MAX_NAME && kind.chars().all(is_name)).then_some(kind)
}

/// Reads the URL of a store.
fn parse(text: &str) -> Result<Store> {
    // First: what follows repeats names.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return refuse("url", "it holds a control character or white space");
    }
    if text.len() > MAX_URL {
        return refuse("url", "it is longer than 4096 bytes");
    }
    let Some(kind) = scheme(text) else {
        return refuse("url", "it does not begin with the kind of a store, as s3://");
    };
    let Some(known) = StoreKind::of(kind) else {
        return Err(RepositoryError::UnknownKind(kind.to_owned()));
    };
    let (kind, rest) = (known, &text[kind.len() + 3..]);
    let (address, query) = rest.split_once('?').map_or((rest, ""), |(address, query)| (address, query));
    let (authority, path) = match address.find('/') {
        Some(at) => address.split_at(at),
        None => (address, ""),
    };
    // A secret may have a slash, so the @ behind it may be in what looks like the path.
    let (account, authority) = match authority.rsplit_once('@') {
        _ if path.contains('@') => return Err(RepositoryError::Secret("what stands before the @")),
        Some((user, host)) if kind == StoreKind::Sftp && !user.contains(':') => (Some(user), host),
        Some(_) => return Err(RepositoryError::Secret("what stands before the @")),
        None => (None, authority),
    };
    if text.contains('#') {
        return refuse("url", "it has a fragment (#), which no store has");
    }
    if text.contains('%') {
        return refuse("url", "it holds a %: every character stands for itself");
    }
    let store = Store {
        kind,
        account: None,
        place: String::new(),
        port: None,
        path: path_of("/x")?,
        options: options(kind, query)?,
    };
    match kind {
        StoreKind::S3 => {
            Ok(Store { place: bucket(authority)?, path: path_of(path)?, ..with_endpoint(store)? })
        }
        StoreKind::Gcs => {
            Ok(Store { place: name("bucket", authority, "-_.", 3, 222)?, path: path_of(path)?, ..store })
        }
        StoreKind::Azure => {
            let account = Some(name("account", authority, "", 3, 24)?);
            let inside = path.strip_prefix('/').unwrap_or_default();
            let (container, path) = inside.find('/').map_or((inside, ""), |at| inside.split_at(at));
            Ok(Store {
                account,
                place: name("container", container, "-", 3, 63)?,
                path: path_of(path)?,
                ..store
            })
        }
        StoreKind::Sftp => {
            let Some(user) = account else {
                return refuse("user", "it is missing: sftp://USER@HOST/PATH");
            };
            let (host, port) = match authority.split_once(':') {
                None => (authority, None),
                Some((host, port)) => match port.parse::<u16>() {
                    Ok(number) if number > 0 && number.to_string() == port => (host, Some(number)),
                    _ => return refuse("port", "it is not a port"),
                },
            };
            let Ok(host) = host.parse::<HostName>() else {
                return refuse("host", "it is not the name of a host");
            };
            let account = Some(name("user", user, "-_.", 1, 64)?);
            Ok(Store { account, place: host.to_string(), port, path: path_of(path)?, ..store })
        }
    }
}

/// The names and values behind the `?`.
fn options(kind: StoreKind, query: &str) -> Result<BTreeMap<&'static str, String>> {
    let mut found = BTreeMap::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let Some(rule) = rules(kind).find(|rule| rule.name == name) else {
            if looks_secret(name) {
                return Err(RepositoryError::Secret("an option of it"));
            }
            let is_name = name.len() <= MAX_NAME && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let known: Vec<&str> = rules(kind).map(|rule| rule.name).collect();
            let reason = format!("{} has no such option, but {}", kind.as_str(), known.join(", "));
            return refuse(if is_name && !name.is_empty() { name } else { "an option" }, reason);
        };
        if let Some(reason) = rule.fault(value) {
            return refuse(rule.name, reason);
        }
        if found.insert(rule.name, value.to_owned()).is_some() {
            return refuse(rule.name, "it is given twice");
        }
    }
    match rules(kind).find(|rule| rule.is_needed && !found.contains_key(rule.name)) {
        Some(rule) => refuse(rule.name, format!("it is missing: append ?{}=…", rule.name)),
        None => Ok(found),
    }
}

/// Amazon has no region `auto`; others have nothing else.
fn with_endpoint(store: Store) -> Result<Store> {
    if store.option("region") == Some("auto") && store.option("endpoint").is_none() {
        return refuse("endpoint", "it is missing: with region=auto the store is none of Amazon's");
    }
    Ok(store)
}

fn path_of(path: &str) -> Result<RepoPath> {
    if path.is_empty() || path == "/" {
        return refuse(
            "path",
            "it is missing: a repository has a path of its own in its store, such as /cellar/demo",
        );
    }
    match path_fault(path) {
        None => path.parse(),
        Some(reason) => refuse("path", reason),
    }
}

/// A name of lower-case letters, digits and `others`.
fn name(field: &str, text: &str, others: &str, min: usize, max: usize) -> Result<String> {
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || others.contains(c);
    if text.is_empty() {
        return refuse(field, "it is missing");
    }
    if !(min..=max).contains(&text.len()) {
        return refuse(field, format!("it has {min} to {max} characters"));
    }
    match text.chars().all(is_good) {
        true => Ok(text.to_owned()),
        false if others.is_empty() => {
            refuse(field, "it has other characters than lower-case letters and digits")
        }
        false => {
            refuse(field, format!("it has other characters than lower-case letters, digits and {others}"))
        }
    }
}

/// Why not one with dots: pgBackRest before 2.58 refuses it (32), also in path style.
fn bucket(text: &str) -> Result<String> {
    if text.contains('.') {
        return refuse("bucket", "it has a dot, which pgBackRest before 2.58 refuses");
    }
    name("bucket", text, "-_", 3, 63)
}

impl FromStr for Store {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self> {
        parse(text)
    }
}

impl TryFrom<String> for Store {
    type Error = RepositoryError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S3: &str = "s3://backups/cellar/demo?ca-file=/etc/cellar/s3.crt&endpoint=minio.example&port=9000&region=us-east-1&uri-style=path";

    #[test]
    fn url_is_shown_in_one_form() {
        for (given, shown) in [
            (S3, S3),
            (
                "s3://b-1/p?uri-style=path&region=auto&endpoint=x.r2.example",
                "s3://b-1/p?endpoint=x.r2.example&region=auto&uri-style=path",
            ),
            (
                "s3://bucket/p?region=eu-west-1&kms-key-id=arn:aws:kms:eu-west-1:1:key/2",
                "s3://bucket/p?kms-key-id=arn:aws:kms:eu-west-1:1:key/2&region=eu-west-1",
            ),
            ("azure://acc0unt/container/a/b", "azure://acc0unt/container/a/b"),
            (
                "azure://acc0unt/container/a?key-type=sas&endpoint=blob.example",
                "azure://acc0unt/container/a?endpoint=blob.example&key-type=sas",
            ),
            ("gcs://my.bucket/a?key-type=auto", "gcs://my.bucket/a?key-type=auto"),
            (
                "sftp://backup@Host.example:2222/srv/repo?private-key-file=/k/id&host-key-hash-type=sha256",
                "sftp://backup@host.example:2222/srv/repo?host-key-hash-type=sha256&private-key-file=/k/id",
            ),
        ] {
            let store = parse(given).unwrap();
            assert_eq!(store.to_string(), shown);
            assert_eq!(parse(shown).unwrap(), store);
        }
    }

    #[test]
    fn refusal_names_the_field() {
        for (url, field) in [
            ("s3://backups/p", "region"),
            ("s3:///p?region=r", "bucket"),
            ("s3://my.bucket/p?region=r", "bucket"),
            ("s3://Bucket/p?region=r", "bucket"),
            ("s3://backups?region=r", "path"),
            ("s3://backups/?region=r", "path"),
            ("s3://backups/a/../b?region=r", "path"),
            ("s3://backups/a;b?region=r", "path"),
            ("s3://backups/a?region=", "region"),
            ("s3://backups/a?region=a;b", "region"),
            ("s3://backups/a?region=r&region=r", "region"),
            ("s3://backups/a?region=auto", "endpoint"),
            ("s3://backups/a?region=r&endpoint=https://x.example", "endpoint"),
            ("s3://backups/a?region=r&endpoint=x.example:9000", "endpoint"),
            ("s3://backups/a?region=r&endpoint=10.0.0.1", "endpoint"),
            ("s3://backups/a?region=r&port=0", "port"),
            ("s3://backups/a?region=r&port=0443", "port"),
            ("s3://backups/a?region=r&uri-style=paths", "uri-style"),
            ("s3://backups/a?region=r&ca-file=ca.crt", "ca-file"),
            ("s3://backups/a?region=r&color=red", "color"),
            ("s3://backups/a?region=r&private-file=/x", "private-file"),
            ("s3://backups/a?region=r#x", "url"),
            ("s3://backups/a%20b?region=r", "url"),
            ("s3://backups/a b?region=r", "url"),
            ("s3://backups/a?region=r\n[global]", "url"),
            ("azure://account", "container"),
            ("azure://account/container", "path"),
            ("azure://Account/container/p", "account"),
            ("gcs://b/p", "bucket"),
            ("sftp://host.example/p?host-key-hash-type=sha1&private-key-file=/k", "user"),
            ("sftp://u@host.example/p?private-key-file=/k", "host-key-hash-type"),
            ("sftp://u@host.example/p?host-key-hash-type=sha1", "private-key-file"),
            ("sftp://u@host.example:x/p?host-key-hash-type=sha1&private-key-file=/k", "port"),
            ("sftp://u@10.0.0.1/p?host-key-hash-type=sha1&private-key-file=/k", "host"),
            ("backups/p", "url"),
        ] {
            match parse(url) {
                Err(RepositoryError::Field { field: found, .. }) => assert_eq!(found, field, "{url}"),
                other => panic!("{url}: {other:?}"),
            }
        }
        assert_eq!(parse("tls://h/p"), Err(RepositoryError::UnknownKind("tls".to_owned())));
    }

    #[test]
    fn secret_is_refused_and_not_repeated() {
        for url in [
            "s3://AKIA:hunter2@backups/p?region=r",
            "s3://hunter2@backups/p?region=r",
            "s3://AKIA:hunter2/hunter2@backups/p?region=r",
            "sftp://u:hunter2@host.example/p",
            "s3://backups/p?region=r&key=hunter2",
            "s3://backups/p?region=r&s3-key-secret=hunter2",
            "s3://backups/p?region=r&hunter2secret=hunter2",
            "azure://account/container/p?sig=hunter2",
            "azure://account/container/p?sas-token=hunter2",
            "gcs://bucket/p?token=hunter2",
        ] {
            let error = parse(url).unwrap_err();
            assert!(matches!(error, RepositoryError::Secret(_)), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        // Whatever it is: no error repeats a value.
        for url in [
            "s3://hunter2.x/p?region=r",
            "s3://backups/hunter2;?region=r",
            "s3://backups/p?region=r&Hunter2=1",
            "s3://backups/p?region=r&port=hunter2",
        ] {
            let error = parse(url).unwrap_err();
            assert!(!format!("{error} {error:?}").to_lowercase().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn amazons_endpoint_follows_from_the_region() {
        let endpoint = |url: &str| parse(url).unwrap().s3_endpoint();
        assert_eq!(
            endpoint("s3://backups/p?region=eu-west-1").as_deref(),
            Some("s3.eu-west-1.amazonaws.com")
        );
        assert_eq!(
            endpoint("s3://backups/p?region=cn-north-1").as_deref(),
            Some("s3.cn-north-1.amazonaws.com.cn")
        );
        assert_eq!(endpoint(S3).as_deref(), Some("minio.example"));
        assert_eq!(endpoint("gcs://bucket/p"), None);
    }

    #[test]
    fn address_is_where_pgbackrest_connects() {
        for (url, address) in [
            ("s3://backups/p?region=eu-west-1", "s3.eu-west-1.amazonaws.com:443"),
            (S3, "minio.example:9000"),
            ("s3://backups/p?region=r&endpoint=a.example&connect-host=b.example", "b.example:443"),
            ("azure://account/container/p", "account.blob.core.windows.net:443"),
            ("azure://account/container/p?endpoint=a.example&port=10000&uri-style=path", "a.example:10000"),
            ("gcs://bucket/p", "storage.googleapis.com:443"),
            ("sftp://u@h.example/p?host-key-hash-type=sha256&private-key-file=/k", "h.example:22"),
        ] {
            let (host, port) = parse(url).unwrap().address();
            assert_eq!(format!("{host}:{port}"), address);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_shown_as_it_is_read(text in "(s3|azure|gcs|sftp)://[a-z@:./?&=;#%A-Z0-9 \n-]{0,60}") {
            if let Ok(store) = parse(&text) {
                let shown = store.to_string();
                prop_assert_eq!(parse(&shown).unwrap(), store.clone());
                for (option, value) in store.pgbackrest_options() {
                    prop_assert!(!value.is_empty() && !value.contains(['\n', ' ', ';', '#']), "{}={}", option, value);
                }
            }
        }
    }
}
