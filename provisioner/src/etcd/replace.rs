//! Replacing a member of etcd whose host or data is lost.

use std::time::Duration;

use cellar_topology::{EtcdKv, EtcdMember, StoreError, retry};

use crate::error::provision_error::{ProvisionError, Result};
use crate::processes::etcd_arguments::EtcdPeer;

/// How long etcd may refuse a change: it takes none before all members that stay have been connected to each other for
/// five seconds ("unhealthy cluster").
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// What to do next about a member that is to be replaced.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// Take the old one out.
    Remove(u64),
    /// Take the new one in.
    Add,
    /// It has been taken in and was not started yet.
    Done,
}

/// A member that was never started has no name yet, so it is known by its address.
fn next_change(members: &[EtcdMember], wanted: &EtcdPeer) -> Change {
    let is_new =
        |member: &&EtcdMember| member.name.is_empty() && member.peer_urls == [wanted.peer_url.as_str()];
    if members.iter().any(|member| is_new(&member)) {
        return Change::Done;
    }
    // By its name, or by the address if it has another name: two members cannot have the same.
    let is_old =
        |member: &&EtcdMember| member.name == wanted.name || member.peer_urls.contains(&wanted.peer_url);
    match members.iter().find(is_old) {
        Some(old) => Change::Remove(old.id),
        None => Change::Add,
    }
}

/// Why a member must stay, if it must. `answering` are the ids of the members that answer and follow a leader.
fn obstacle(members: &[EtcdMember], wanted: &EtcdPeer, answering: &[u64]) -> Option<String> {
    let Change::Remove(old) = next_change(members, wanted) else { return None };
    if members.len() == 1 {
        return Some("it is the only one, and has all the data".to_owned());
    }
    if answering.contains(&old) {
        return Some("it answers, and its data is of use".to_owned());
    }
    // Of those that stay a majority must answer, now and with the new one, which does not count until it has the data.
    let stay = members.iter().filter(|member| member.id != old && answering.contains(&member.id)).count();
    let needed = members.len() / 2 + 1;
    (stay < needed).then(|| {
        format!("{stay} of the others answer, and {needed} must: put a snapshot back (`cellar etcd restore`)")
    })
}

/// Makes all changes that are left, each looked at afterwards; the members after them.
async fn changed(etcd: &EtcdKv, wanted: &EtcdPeer) -> std::result::Result<Vec<EtcdMember>, StoreError> {
    loop {
        let members = etcd.members().await?;
        match next_change(&members, wanted) {
            Change::Remove(old) => etcd.remove_member(old).await?,
            Change::Add => drop(etcd.add_member(vec![wanted.peer_url.clone()]).await?),
            Change::Done => return Ok(members),
        }
    }
}

/// Takes a lost member out of etcd and a new one in under the same name, and gives all members as the new one must be
/// started with: with an empty data directory and the state [`Existing`](crate::EtcdInitialState::Existing). Repeating it
/// goes on where it stopped; a member that has not been started since it was added is left as it is.
///
/// `etcd` should know the endpoints of all members.
///
/// # Errors
/// When the member answers, too few others do, or etcd refuses. Nothing was changed then, or the command can be repeated.
pub async fn replace_etcd_member(etcd: &EtcdKv, wanted: &EtcdPeer) -> Result<Vec<EtcdPeer>> {
    let answering: Vec<u64> = etcd
        .endpoints()
        .await
        .into_iter()
        .filter_map(|endpoint| endpoint.status.ok())
        .filter(|status| status.leader != 0)
        .map(|status| status.id)
        .collect();
    let members = etcd.members().await?;
    if let Some(reason) = obstacle(&members, wanted, &answering) {
        return Err(ProvisionError::MemberStays { name: wanted.name.clone(), reason });
    }
    let members = retry(CHANGE_TIMEOUT, || changed(etcd, wanted)).await?;
    let peer = |member: EtcdMember| {
        let name = if member.name.is_empty() { wanted.name.clone() } else { member.name };
        member.peer_urls.into_iter().next().map(|peer_url| EtcdPeer { name, peer_url })
    };
    let mut peers: Vec<EtcdPeer> = members.into_iter().filter_map(peer).collect();
    peers.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, url: &str) -> EtcdMember {
        EtcdMember {
            id,
            name: name.to_owned(),
            peer_urls: vec![url.to_owned()],
            client_urls: vec![],
            learner: false,
        }
    }

    fn three() -> Vec<EtcdMember> {
        vec![
            member(1, "zone1", "https://db1:2"),
            member(2, "zone2", "https://db2:2"),
            member(3, "zone3", "https://db3:2"),
        ]
    }

    fn wanted(url: &str) -> EtcdPeer {
        EtcdPeer { name: "zone3".to_owned(), peer_url: url.to_owned() }
    }

    #[test]
    fn old_member_goes_before_the_new_one_comes_and_repeating_changes_nothing() {
        let mut members = three();
        for url in ["https://db3:2", "https://new:2"] {
            assert_eq!(next_change(&members, &wanted(url)), Change::Remove(3));
        }
        members.pop();
        assert_eq!(next_change(&members, &wanted("https://new:2")), Change::Add);
        members.push(member(4, "", "https://new:2"));
        assert_eq!(next_change(&members, &wanted("https://new:2")), Change::Done);
        // Under another name at the same address: it is in the way.
        members[2] = member(5, "other", "https://new:2");
        assert_eq!(next_change(&members, &wanted("https://new:2")), Change::Remove(5));
    }

    #[test]
    fn member_stays_while_it_answers_or_too_few_others_do() {
        let wanted = wanted("https://db3:2");
        assert_eq!(obstacle(&three(), &wanted, &[1, 2]), None);
        for answering in [&[1, 2, 3][..], &[1], &[]] {
            assert!(obstacle(&three(), &wanted, answering).is_some(), "{answering:?}");
        }
        assert!(obstacle(&three()[2..], &wanted, &[]).is_some(), "the only one");
        // Two of two: the one that is left is no majority of two.
        assert!(obstacle(&three()[1..], &wanted, &[2]).is_some());
        let mut added = three();
        added[2] = member(4, "", "https://db3:2");
        assert_eq!(obstacle(&added, &wanted, &[1, 2]), None, "it was added and is not started");
    }
}
