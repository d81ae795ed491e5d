//! Replacing a member of etcd whose host or data is lost, taking one out for good, and adding one.

use std::time::{Duration, Instant};

use cellar_topology::{EtcdEndpoint, EtcdKv, EtcdMember, StoreError, retry};

use crate::error::provision_error::{ProvisionError, Result};
use crate::processes::etcd_arguments::EtcdPeer;

/// How long etcd may refuse a change: it takes none before all members that stay have been connected to each other for
/// five seconds ("unhealthy cluster").
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long those that answer may follow no leader before they count as members without one: several times etcd's
/// election timeout.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How often they are asked meanwhile.
const ELECTION_INTERVAL: Duration = Duration::from_millis(200);

/// What to do next about a member that is to be replaced.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// Take the old one out.
    Remove(u64),
    /// Take the new one in.
    Add,
    /// It has been taken in, under this id, and was not started yet.
    Done(u64),
}

/// A member that was taken in and waits to be started for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoiningMember {
    /// The id that etcd gave it.
    pub id: u64,
    /// All members as it must be started with.
    pub members: Vec<EtcdPeer>,
}

/// A member that was never started has no name yet, so it is known by its address.
fn next_change(members: &[EtcdMember], wanted: &EtcdPeer) -> Change {
    let is_new =
        |member: &&EtcdMember| member.name.is_empty() && member.peer_urls == [wanted.peer_url.as_str()];
    if let Some(new) = members.iter().find(is_new) {
        return Change::Done(new.id);
    }
    match present(members, wanted) {
        Some(old) => Change::Remove(old.id),
        None => Change::Add,
    }
}

/// The member by its name, or by the address if it has another name: two members cannot have the same.
fn present<'a>(members: &'a [EtcdMember], wanted: &EtcdPeer) -> Option<&'a EtcdMember> {
    let is_it =
        |member: &&EtcdMember| member.name == wanted.name || member.peer_urls.contains(&wanted.peer_url);
    members.iter().find(is_it)
}

/// How many of the members other than this one answer and follow a leader.
fn others_answering(members: &[EtcdMember], id: u64, answering: &[u64]) -> usize {
    members.iter().filter(|member| member.id != id && answering.contains(&member.id)).count()
}

const ONLY: &str = "it is the only one, and has all the data";

fn too_few(stay: usize, needed: usize) -> String {
    format!(
        "of the others {stay} answer, and {needed} must: start those that do not run (`cellar host start` there); if their \
         data is lost too, docs/runbooks/lost-etcd.md"
    )
}

/// Why a member must not be replaced, if it must not. `answering` are the ids of the members that answer and follow a
/// leader; `although_it_answers` says that this one's answer is known.
fn obstacle(
    members: &[EtcdMember],
    wanted: &EtcdPeer,
    answering: &[u64],
    although_it_answers: bool,
) -> Option<String> {
    let Change::Remove(old) = next_change(members, wanted) else { return None };
    if members.len() == 1 {
        return Some(ONLY.to_owned());
    }
    if answering.contains(&old) && !although_it_answers {
        return Some(
            "it answers, and its data is of use; if it is to be replaced all the same, say --although-it-answers: it ends \
             by itself then"
                .to_owned(),
        );
    }
    // Of those that stay a majority must answer, now and with the new one, which does not count until it has the data.
    let (stay, needed) = (others_answering(members, old, answering), members.len() / 2 + 1);
    (stay < needed).then(|| too_few(stay, needed))
}

/// Why a member must not be taken out for good, if it must not.
fn obstacle_to_removal(members: &[EtcdMember], wanted: &EtcdPeer, answering: &[u64]) -> Option<String> {
    let old = present(members, wanted)?;
    if members.len() == 1 {
        return Some(ONLY.to_owned());
    }
    let (stay, needed) =
        (others_answering(members, old.id, answering), members.len().saturating_sub(1) / 2 + 1);
    (stay < needed).then(|| too_few(stay, needed))
}

/// Why no member must be added, if none must.
fn obstacle_to_addition(members: &[EtcdMember], new: &EtcdPeer, answering: &[u64]) -> Option<String> {
    match next_change(members, new) {
        Change::Done(_) => None,
        Change::Remove(_) => Some("etcd has that member; `cellar etcd replace` replaces it".to_owned()),
        // The new one counts at once, and answers only when it has been started. One that is alone has to wait for it.
        Change::Add => {
            let answer = members.iter().filter(|member| answering.contains(&member.id)).count();
            let needed = usize::midpoint(members.len(), 1) + 1;
            (answer < needed.min(members.len())).then(|| too_few(answer, needed))
        }
    }
}

/// Makes all changes that are left, each looked at afterwards; the new member's id, and all members.
async fn changed(
    etcd: &EtcdKv,
    wanted: &EtcdPeer,
) -> std::result::Result<(u64, Vec<EtcdMember>), StoreError> {
    loop {
        let members = etcd.members().await?;
        match next_change(&members, wanted) {
            Change::Remove(old) => etcd.remove_member(old).await?,
            Change::Add => drop(etcd.add_member(vec![wanted.peer_url.clone()]).await?),
            Change::Done(id) => return Ok((id, members)),
        }
    }
}

/// The members, and the ids of those that answer and follow a leader.
async fn look(etcd: &EtcdKv, wanted: &EtcdPeer) -> Result<(Vec<EtcdMember>, Vec<u64>)> {
    let mut endpoints = etcd.endpoints().await;
    // While they elect a leader those that are well follow none.
    let begun = Instant::now();
    let elects = |endpoint: &EtcdEndpoint| endpoint.status.as_ref().is_ok_and(|status| status.leader == 0);
    while endpoints.iter().any(elects) && begun.elapsed() < ELECTION_TIMEOUT {
        tokio::time::sleep(ELECTION_INTERVAL).await;
        endpoints = etcd.endpoints().await;
    }
    let answers = endpoints.iter().filter_map(|endpoint| endpoint.status.as_ref().ok());
    let answering: Vec<u64> = answers.filter(|status| status.leader != 0).map(|status| status.id).collect();
    match etcd.members().await {
        Ok(members) => Ok((members, answering)),
        Err(error) if error.is_retryable() && answering.len() <= endpoints.len() / 2 => {
            let reason = format!(
                "etcd has no majority without it: {} of {} members answer and have a leader. Start those that do not run \
                 (`cellar host start` there); if their data is lost too, docs/runbooks/lost-etcd.md",
                answering.len(),
                endpoints.len()
            );
            Err(ProvisionError::MemberStays { name: wanted.name.clone(), reason })
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes a lost member out of etcd and a new one in under the same name. The new one must be started with an empty data
/// directory and the state [`Existing`](crate::EtcdInitialState::Existing). Repeating it goes on where it stopped; a member
/// that has not been started since it was added is left as it is.
///
/// `etcd` should know the endpoints of all members.
///
/// # Errors
/// When the member answers and `although_it_answers` is not set, too few others do, or etcd refuses. Nothing was changed
/// then, or the command can be repeated.
pub async fn replace_etcd_member(
    etcd: &EtcdKv,
    wanted: &EtcdPeer,
    although_it_answers: bool,
) -> Result<JoiningMember> {
    let (members, answering) = look(etcd, wanted).await?;
    if let Some(reason) = obstacle(&members, wanted, &answering, although_it_answers) {
        return Err(ProvisionError::MemberStays { name: wanted.name.clone(), reason });
    }
    joining(etcd, wanted).await
}

/// Takes another member in, which must be started as [`replace_etcd_member`] says. Repeating it changes nothing until that
/// has been done.
///
/// # Errors
/// When etcd has a member of that name, or too few of the others answer.
pub(crate) async fn add_etcd_member(etcd: &EtcdKv, new: &EtcdPeer) -> Result<JoiningMember> {
    let (members, answering) = look(etcd, new).await?;
    match obstacle_to_addition(&members, new, &answering) {
        None => joining(etcd, new).await,
        Some(reason) => Err(ProvisionError::MemberStays { name: new.name.clone(), reason }),
    }
}

/// Makes all changes that are left.
async fn joining(etcd: &EtcdKv, wanted: &EtcdPeer) -> Result<JoiningMember> {
    let (id, members) = retry(CHANGE_TIMEOUT, || changed(etcd, wanted)).await?;
    let peer = |member: EtcdMember| {
        let name = if member.name.is_empty() { wanted.name.clone() } else { member.name };
        member.peer_urls.into_iter().next().map(|peer_url| EtcdPeer { name, peer_url })
    };
    let mut members: Vec<EtcdPeer> = members.into_iter().filter_map(peer).collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(JoiningMember { id, members })
}

/// Whether a member can be taken out for good; it may be out already.
///
/// # Errors
/// [`ProvisionError::MemberStays`] when etcd would have too few healthy members without it.
pub(crate) async fn check_removable(etcd: &EtcdKv, member: &EtcdPeer) -> Result<()> {
    let (members, answering) = look(etcd, member).await?;
    match obstacle_to_removal(&members, member, &answering) {
        None => Ok(()),
        Some(reason) => Err(ProvisionError::MemberStays { name: member.name.clone(), reason }),
    }
}

/// Takes a member out for good, which ends it if it runs; gives how many are left. Repeating it changes nothing.
///
/// # Errors
/// As [`check_removable`], or when etcd refuses.
pub(crate) async fn remove_etcd_member(etcd: &EtcdKv, member: &EtcdPeer) -> Result<usize> {
    check_removable(etcd, member).await?;
    Ok(retry(CHANGE_TIMEOUT, || removed(etcd, member)).await?)
}

async fn removed(etcd: &EtcdKv, member: &EtcdPeer) -> std::result::Result<usize, StoreError> {
    let members = etcd.members().await?;
    let Some(old) = present(&members, member) else { return Ok(members.len()) };
    etcd.remove_member(old.id).await?;
    Ok(members.len() - 1)
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
        assert_eq!(next_change(&members, &wanted("https://new:2")), Change::Done(4));
        // Under another name at the same address: it is in the way.
        members[2] = member(5, "other", "https://new:2");
        assert_eq!(next_change(&members, &wanted("https://new:2")), Change::Remove(5));
    }

    #[test]
    fn member_stays_while_it_answers_or_too_few_others_do() {
        let wanted = wanted("https://db3:2");
        assert_eq!(obstacle(&three(), &wanted, &[1, 2], false), None);
        for answering in [&[1, 2, 3][..], &[1], &[]] {
            assert!(obstacle(&three(), &wanted, answering, false).is_some(), "{answering:?}");
        }
        // What is said of its answer does not replace that of the others.
        assert_eq!(obstacle(&three(), &wanted, &[1, 2, 3], true), None);
        assert!(obstacle(&three(), &wanted, &[1, 3], true).is_some());
        assert!(obstacle(&three()[2..], &wanted, &[], false).is_some(), "the only one");
        // Two of two: the one that is left is no majority of two.
        assert!(obstacle(&three()[1..], &wanted, &[2], false).is_some());
        let mut added = three();
        added[2] = member(4, "", "https://db3:2");
        assert_eq!(obstacle(&added, &wanted, &[1, 2], false), None, "it was added and is not started");
    }

    #[test]
    fn member_is_added_only_while_the_others_are_a_majority_with_it() {
        let new = EtcdPeer { name: "zone4".to_owned(), peer_url: "https://db4:2".to_owned() };
        let addition = |members: &[EtcdMember], answering: &[u64]| {
            obstacle_to_addition(members, &new, answering).is_none()
        };
        assert!(addition(&three()[1..], &[2, 3]) && !addition(&three()[1..], &[2]));
        assert!(addition(&three(), &[1, 2, 3]) && !addition(&three(), &[1, 2]), "four need three");
        assert!(addition(&three()[2..], &[3]), "the only one waits for it");
        let mut begun = three();
        begun.push(member(4, "", "https://db4:2"));
        assert!(addition(&begun, &[1, 2]), "it was added before");
        begun[3] = member(4, "zone4", "https://db4:2");
        assert!(!addition(&begun, &[1, 2, 3, 4]));
    }

    #[test]
    fn member_is_taken_out_only_while_the_others_are_a_majority_of_themselves() {
        let wanted = wanted("https://db3:2");
        let removal = |members: &[EtcdMember], answering: &[u64]| {
            obstacle_to_removal(members, &wanted, answering).is_none()
        };
        assert!(removal(&three(), &[1, 2, 3]) && removal(&three(), &[1, 2]));
        assert!(!removal(&three(), &[1, 3]), "one of two would be left");
        assert!(removal(&three()[1..], &[2, 3]), "the other one is all");
        assert!(!removal(&three()[2..], &[3]), "the only one");
        assert!(removal(&three()[..2], &[1]), "it is out already");
        let mut five = three();
        five.extend([member(4, "zone4", "https://db4:2"), member(5, "zone5", "https://db5:2")]);
        assert!(removal(&five, &[1, 2, 4]) && !removal(&five, &[1, 2, 3]));
    }
}
