//! What the URL of a store may say behind its `?`, and which of pgBackRest's options each becomes.

use crate::records::repository::store_kind::StoreKind;
use crate::types::host::HostName;
use crate::types::path_rule::path_fault;

/// Most bytes of a value. The longest are names of keys and roles at Amazon, of 2048.
const MAX_VALUE: usize = 2048;

/// What a value has to be.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// One of these words.
    Word(&'static [&'static str]),
    /// A name of a host, without port.
    Host,
    /// A port.
    Port,
    /// An absolute path on every host.
    Path,
    /// A name, of letters, digits and `-._:/+=@,`.
    Name,
}

/// One option.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Its name in a URL.
    pub(crate) name: &'static str,
    /// The kinds of store that have it.
    kinds: &'static [StoreKind],
    /// Whether these must have it.
    pub(crate) is_needed: bool,
    /// pgBackRest's option, behind `repoN-`.
    pub(crate) option: &'static str,
    form: Form,
}

const S3: &[StoreKind] = &[StoreKind::S3];
const AZURE: &[StoreKind] = &[StoreKind::Azure];
const GCS: &[StoreKind] = &[StoreKind::Gcs];
const SFTP: &[StoreKind] = &[StoreKind::Sftp];
const OBJECTS: &[StoreKind] = &[StoreKind::S3, StoreKind::Azure, StoreKind::Gcs];

const fn rule(name: &'static str, kinds: &'static [StoreKind], option: &'static str, form: Form) -> Rule {
    Rule { name, kinds, is_needed: false, option, form }
}

const fn needed(name: &'static str, kinds: &'static [StoreKind], option: &'static str, form: Form) -> Rule {
    Rule { name, kinds, is_needed: true, option, form }
}

const URI_STYLES: Form = Form::Word(&["host", "path"]);

/// Every option, in the order in which a URL is shown.
const RULES: &[Rule] = &[
    rule("ca-file", OBJECTS, "storage-ca-file", Form::Path),
    rule("connect-host", OBJECTS, "storage-host", Form::Host),
    rule("endpoint", S3, "s3-endpoint", Form::Host),
    rule("endpoint", AZURE, "azure-endpoint", Form::Host),
    rule("endpoint", GCS, "gcs-endpoint", Form::Host),
    rule("host-fingerprint", SFTP, "sftp-host-fingerprint", Form::Name),
    rule(
        "host-key-check-type",
        SFTP,
        "sftp-host-key-check-type",
        Form::Word(&["accept-new", "fingerprint", "none", "strict"]),
    ),
    needed("host-key-hash-type", SFTP, "sftp-host-key-hash-type", Form::Word(&["md5", "sha1", "sha256"])),
    rule("key-type", S3, "s3-key-type", Form::Word(&["auto", "shared", "web-id"])),
    rule("key-type", AZURE, "azure-key-type", Form::Word(&["auto", "sas", "shared"])),
    rule("key-type", GCS, "gcs-key-type", Form::Word(&["auto", "service", "token"])),
    rule("kms-key-id", S3, "s3-kms-key-id", Form::Name),
    rule("port", OBJECTS, "storage-port", Form::Port),
    needed("private-key-file", SFTP, "sftp-private-key-file", Form::Path),
    rule("public-key-file", SFTP, "sftp-public-key-file", Form::Path),
    needed("region", S3, "s3-region", Form::Name),
    rule("role", S3, "s3-role", Form::Name),
    rule("uri-style", S3, "s3-uri-style", URI_STYLES),
    rule("uri-style", AZURE, "azure-uri-style", URI_STYLES),
    rule("verify-tls", OBJECTS, "storage-verify-tls", Form::Word(&["n", "y"])),
];

/// The options that a store of this kind may have, in the order of their names.
pub(crate) fn rules(kind: StoreKind) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| rule.kinds.contains(&kind))
}

impl Rule {
    /// Why this cannot be the value, if it cannot.
    pub(crate) fn fault(&self, value: &str) -> Option<String> {
        let fault = |text: &str| Some(text.to_owned());
        if value.is_empty() {
            return fault("it is empty");
        }
        if value.len() > MAX_VALUE {
            return fault("it is longer than 2048 bytes");
        }
        match self.form {
            Form::Word(words) if words.contains(&value) => None,
            Form::Word(words) => Some(format!("it is one of {}", words.join(", "))),
            Form::Host if value.contains("://") => {
                fault("it is the name of a host: leave out what says how it is reached")
            }
            Form::Host if value.contains(':') => fault("it is the name of a host: give its port with port="),
            Form::Host => {
                value.parse::<HostName>().is_err().then(|| "it is not the name of a host".to_owned())
            }
            Form::Port if value.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == value) => {
                None
            }
            Form::Port => fault("it is not a port"),
            Form::Path => path_fault(value).map(str::to_owned),
            Form::Name if value.chars().all(|c| c.is_ascii_alphanumeric() || "-._:/+=@,".contains(c)) => None,
            Form::Name => fault("it has other characters than letters, digits and -._:/+=@,"),
        }
    }
}

/// Whether an option of this name, which is none that is known, seems to hold a secret.
pub(crate) fn looks_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "secret", "token", "sig", "pass", "credential", "sas", "pwd"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_an_option_once_and_in_order() {
        for kind in [StoreKind::S3, StoreKind::Azure, StoreKind::Gcs, StoreKind::Sftp] {
            let names: Vec<&str> = rules(kind).map(|rule| rule.name).collect();
            assert!(names.is_sorted() && names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
        }
    }
}
