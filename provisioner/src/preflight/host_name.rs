//! Whether the name by which everything of a local cluster reaches everything else leads to this machine.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use cellar_system::{addresses_of, has_address, listeners};

use crate::cluster::loopback::HOST;
use crate::error::finding::Finding;
use crate::preflight::port::{PortNeed, works_for};

/// How long a connection to this machine may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What is wrong with the name.
pub(crate) fn check() -> Option<Finding> {
    find_problem(addresses_of(HOST), has_address)
}

/// What is wrong, given where the name leads and which addresses this machine has.
///
/// The first address must be usable: pgBackRest's client (2.45) tries no other.
fn find_problem(named: io::Result<Vec<IpAddr>>, is_here: impl Fn(IpAddr) -> bool) -> Option<Finding> {
    let first = named.map(|addresses| addresses.first().copied());
    let what = match first {
        Ok(Some(address)) if !address.is_loopback() => {
            format!("leads to {address} first, which is not a loopback address")
        }
        Ok(Some(address)) if !is_here(address) => {
            format!("leads to {address} first, and this machine does not have that address")
        }
        Ok(Some(_)) => return None,
        Ok(None) => "leads nowhere".to_owned(),
        Err(error) => format!("leads nowhere ({error})"),
    };
    Some(Finding {
        message: format!("the name {HOST} {what}, so the parts of the cluster cannot reach each other"),
        hint: Some(format!(
            "let /etc/hosts have the line `127.0.0.1 {HOST}`, before any other line with {HOST}"
        )),
    })
}

/// What is wrong with a server of the cluster in `dir` that runs: the name leads to an address on which it does not
/// listen, because the hosts file has changed since it was started.
pub(crate) fn check_reach(need: &PortNeed, dir: &Path) -> Option<Finding> {
    let address = addresses_of(HOST).ok()?.first().copied()?;
    if TcpStream::connect_timeout(&SocketAddr::new(address, need.port), CONNECT_TIMEOUT).is_ok() {
        return None;
    }
    listeners(need.port).iter().any(|process| works_for(process, dir)).then(|| Finding {
        message: format!(
            "{} does not listen on {address}, where the name {HOST} leads since it was started",
            need.purpose
        ),
        hint: Some("restart the cluster: `cellar down`, then `cellar up`; the data is kept".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(named: &[&str], here: &[&str]) -> Option<String> {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let here = parse(here);
        find_problem(Ok(parse(named)), |address| here.contains(&address)).map(|finding| finding.message)
    }

    #[test]
    fn name_that_leads_to_this_machine_is_fine() {
        let both = ["127.0.0.1", "::1"];
        for named in [vec!["127.0.0.1"], vec!["::1", "127.0.0.1"], vec!["127.0.0.1", "::1"], vec!["::1"]] {
            assert_eq!(finding(&named, &both), None, "{named:?}");
        }
        // As glibc orders them on a machine without IPv6.
        assert_eq!(finding(&["127.0.0.1", "::1"], &["127.0.0.1"]), None);
    }

    #[test]
    fn name_that_leads_elsewhere_is_reported() {
        let message = finding(&["::1"], &["127.0.0.1"]).unwrap();
        assert!(message.contains("leads to ::1 first, and this machine does not have"), "{message}");
        let message = finding(&["192.0.2.7", "127.0.0.1"], &["127.0.0.1"]).unwrap();
        assert!(message.contains("not a loopback address"), "{message}");
        assert!(finding(&[], &[]).unwrap().contains("leads nowhere"));
        let failed = find_problem(Err(io::ErrorKind::NotFound.into()), |_| true).unwrap();
        assert!(failed.hint.unwrap().contains("127.0.0.1 localhost"));
    }
}
