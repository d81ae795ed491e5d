//! Names of hosts.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest DNS name and longest label in it, in bytes (RFC 1035).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Why a text is not the name of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the host {text:?} is not usable: {reason}")]
pub struct HostNameError {
    /// What was given, cut to 80 characters.
    pub text: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

/// The DNS name under which the members of a database reach a host, in lower case.
///
/// Labels of letters, digits and `-` (RFC 1123), without a dot at the end. No IP address: pgBackRest before 2.53 does not
/// find one in a certificate. Nothing that a resolver takes for an IPv4 address either, such as `127.1` or `0x7f000001`.
/// No `_`: a certificate authority other than Cellar's does not issue certificates for such a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// Whether `inet_aton(3)` takes the last part of an address for a number: decimal, octal or hexadecimal.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn fault(text: &str) -> Option<&'static str> {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.parse::<IpAddr>().is_ok() {
        Some(
            "it is an IP address, which pgBackRest before 2.53 does not find in certificates: use a DNS name",
        )
    } else if text.len() > MAX_NAME || !text.split('.').all(is_label) {
        Some("it is not a DNS name, which is made of letters, digits, '-' and '.'")
    } else if text.rsplit('.').next().is_some_and(is_number) {
        Some("it ends with a number, so resolvers take it for an IPv4 address: use a DNS name")
    } else {
        None
    }
}

impl HostName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        match fault(text) {
            None => Ok(Self(text.to_ascii_lowercase())),
            Some(reason) => Err(HostNameError { text: text.chars().take(80).collect(), reason }),
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = HostNameError;

    fn try_from(text: String) -> Result<Self, HostNameError> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(host: HostName) -> String {
        host.0
    }
}

impl Deref for HostName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reason(text: &str) -> &'static str {
        text.parse::<HostName>().unwrap_err().reason
    }

    #[test]
    fn dns_name_is_accepted_in_lower_case() {
        for text in
            ["localhost", "db1", "1db", "1.db", "db-1", "0xdb.x", "zone1.eu.example.org", "xn--bcher-kva.ch"]
        {
            assert_eq!(text.parse::<HostName>().unwrap().as_str(), text);
        }
        assert_eq!("Zone4.Example.ORG".parse::<HostName>().unwrap().as_str(), "zone4.example.org");
        let longest =
            [["a"; 63].concat(), ["b"; 63].concat(), ["c"; 63].concat(), ["d"; 61].concat()].join(".");
        assert!(longest.parse::<HostName>().is_ok());
        assert!(format!("{longest}d").parse::<HostName>().is_err());
    }

    #[test]
    fn address_is_refused() {
        for text in ["10.0.0.1", "::1", "fe80::1"] {
            assert!(reason(text).contains("IP address"), "{text}");
        }
        for text in ["1234", "127.1", "db.1", "0x7f000001", "db.0x1F", "0X"] {
            assert!(reason(text).contains("ends with a number"), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_host_name_is_refused() {
        for text in
            ["", ".", "a.", ".a", "a..b", "-a", "a-", "a b", "a;b", "a\n", "[::1]", "*.a", "a_b", "bücher.ch"]
        {
            assert!(reason(text).contains("not a DNS name"), "{text:?}");
        }
        assert!("a".repeat(64).parse::<HostName>().is_err());
    }

    #[test]
    fn json_is_the_text() {
        let host: HostName = "db1".parse().unwrap();
        assert_eq!(serde_json::to_string(&host).unwrap(), "\"db1\"");
        assert!(
            serde_json::from_str::<HostName>("\"10.0.0.1\"").unwrap_err().to_string().contains("IP address")
        );
    }

    proptest! {
        #[test]
        fn no_accepted_name_needs_quoting(text in ".{0,80}") {
            if let Ok(host) = text.parse::<HostName>() {
                prop_assert!(host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'));
                prop_assert_eq!(host.as_str().parse::<HostName>(), Ok(host.clone()));
            }
        }
    }
}
