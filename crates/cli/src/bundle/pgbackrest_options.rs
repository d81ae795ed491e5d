//! Removing what is secret from pgBackRest's configuration: the values of options that are not known to be harmless.

use super::REMOVED;
use super::secrets::Secrets;

/// Options that hold no secret. `N` stands for a number; a name that ends with `*` for all that begin so.
const HARMLESS: [&str; 48] = [
    "archive-async",
    "archive-check",
    "archive-copy",
    "archive-get-queue-max",
    "archive-push-queue-max",
    "archive-timeout",
    "backup-standby",
    "buffer-size",
    "checksum-page",
    "compress-*",
    "db-timeout",
    "delta",
    "expire-auto",
    "io-timeout",
    "lock-path",
    "log-level-*",
    "log-path",
    "log-timestamp",
    "pgN-database",
    "pgN-host",
    "pgN-host-ca-file",
    "pgN-host-cert-file",
    "pgN-host-config",
    "pgN-host-key-file",
    "pgN-host-port",
    "pgN-host-type",
    "pgN-path",
    "pgN-port",
    "pgN-socket-path",
    "pgN-user",
    "process-max",
    "protocol-timeout",
    "repoN-cipher-type",
    "repoN-host",
    "repoN-host-ca-file",
    "repoN-host-cert-file",
    "repoN-host-config",
    "repoN-host-key-file",
    "repoN-host-port",
    "repoN-host-type",
    "repoN-path",
    "repoN-retention-*",
    "repoN-type",
    "resume",
    "spool-path",
    "start-fast",
    "tcp-keep-alive-*",
    "tls-server-*",
];

fn is_harmless(option: &str) -> bool {
    let digits = option.chars().map(|c| if c.is_ascii_digit() { 'N' } else { c });
    let mut name: String = digits.collect();
    while name.contains("NN") {
        name = name.replace("NN", "N");
    }
    HARMLESS.iter().any(|known| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *known,
    })
}

/// A configuration of pgBackRest. What is removed from it is remembered, and remarks are left out.
pub(super) fn redact_options(text: &str, secrets: &mut Secrets) -> String {
    let mut redacted = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once('=') {
            _ if line.starts_with('[') && line.ends_with(']') => redacted.push_str(line),
            Some((option, value)) if is_harmless(option.trim()) => {
                redacted.push_str(&format!("{}={}", option.trim(), value.trim()));
            }
            Some((option, value)) => {
                secrets.add(value);
                redacted.push_str(&format!("{}={REMOVED}", option.trim()));
            }
            None => redacted.push_str(REMOVED),
        }
        redacted.push('\n');
    }
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_unknown_options_are_removed_everywhere() {
        let mut secrets = Secrets::default();
        let text = "# hunter2\n[global]\nrepo1-path=/r\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=hunter2 x\n\
                    repo12-s3-key-secret=hunter3\nhunter2\n\n[app]\npg12-path=/d\npg1-host-key-file=/k\n";
        assert_eq!(
            redact_options(text, &mut secrets),
            "[global]\nrepo1-path=/r\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=[removed]\n\
             repo12-s3-key-secret=[removed]\n[removed]\n[app]\npg12-path=/d\npg1-host-key-file=/k\n"
        );
        assert_eq!(secrets.scrubber().scrub(b"a hunter2 x hunter3"), b"a [removed] [removed]");
    }

    #[test]
    fn what_cellar_writes_is_kept() {
        let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../pgbackrest/tests/snapshots");
        for name in [
            "full_3_zone2",
            "at_zone3_full_zone1",
            "at_zone3_full_zone3",
            "at_zone3_job_for_zone2_from_zone1",
        ] {
            let golden = std::fs::read_to_string(format!("{goldens}/config__{name}.snap")).unwrap();
            let text = golden.splitn(3, "---\n").nth(2).unwrap();
            let kept = redact_options(text, &mut Secrets::default());
            assert!(kept.contains("pg1-path=") && !kept.contains(REMOVED), "{name}: {kept}");
        }
    }
}
