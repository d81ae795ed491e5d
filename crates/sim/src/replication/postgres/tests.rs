//! The model does what PostgreSQL does, as far as it is relied on.

use cellar_model::CopyNumber;
use cellar_pooler::failover::{Awaits, Replication, standby_name};
use cellar_postgres::NOBODY;

use super::*;

fn cell(n: usize) -> CellName {
    crate::world::parsed(&format!("zone{}", n + 1))
}

fn config(n: usize, upstream: Option<usize>, acknowledge: &str) -> Config {
    Config(Replication {
        upstream: upstream.map(cell),
        from_archive: FromArchive::Nothing,
        archives: Archives::Nothing,
        standby_name: standby_name(&cell(n), CopyNumber::new(7)),
        acknowledge: Some(acknowledge.to_owned()),
        awaits: Awaits::Nobody,
    })
}

/// Three servers, of which the first is the primary, with that rule.
fn servers(acknowledge: &str) -> (Servers, Network) {
    let network = Network::new(1);
    let mut servers = Servers::new((0..3).map(cell).collect(), Chance::new(1), network.clone());
    for n in 0..3 {
        servers.configure(n, &config(n, (n > 0).then_some(0), acknowledge));
        servers.start(n);
    }
    (servers, network)
}

fn pass(servers: &mut Servers, network: &Network, seconds: u64) {
    let end = servers.now + Duration::from_secs(seconds);
    while servers.now < end {
        let now = servers.now + Duration::from_millis(20);
        network.advance(now);
        servers.advance(now);
    }
}

#[test]
fn a_commit_is_acknowledged_when_as_many_standbys_of_the_rule_have_it() {
    let (mut servers, network) = servers("ANY 1 (\"zone2:7\", \"zone3:7\")");
    pass(&mut servers, &network, 5);
    assert!(!std::mem::take(&mut servers.acknowledged).is_empty());
    servers.cells[1].kill();
    pass(&mut servers, &network, 5);
    assert!(!std::mem::take(&mut servers.acknowledged).is_empty(), "the other one has them");
    servers.cells[2].kill();
    pass(&mut servers, &network, 1);
    servers.acknowledged.clear();
    pass(&mut servers, &network, 5);
    assert!(servers.acknowledged.is_empty(), "nobody has them");
    for rule in [NOBODY, "ANY 1 (\"zone2:8\")"] {
        let (mut servers, network) = self::servers(rule);
        pass(&mut servers, &network, 5);
        assert!(servers.acknowledged.is_empty(), "{rule}");
    }
}

#[test]
fn a_promoted_standby_begins_a_timeline_and_one_that_has_more_cannot_follow_it() {
    let (mut servers, network) = servers("ANY 1 (\"zone2:7\", \"zone3:7\")");
    pass(&mut servers, &network, 5);
    // What the old primary writes from now on is on no other member.
    network.cut(0, 1, Duration::from_secs(3600));
    network.cut(0, 2, Duration::from_secs(3600));
    pass(&mut servers, &network, 5);
    servers.configure(1, &config(1, None, "ANY 1 (\"zone3:7\")"));
    servers.configure(2, &config(2, Some(1), NOBODY));
    servers.promote(1);
    servers.acknowledged.clear();
    pass(&mut servers, &network, 5);
    assert!(servers.acknowledged.iter().any(|news| news.by == 1));
    let data = |servers: &Servers, n: usize| servers.cells[n].data.clone().unwrap_or_else(|| unreachable!());
    assert_eq!((data(&servers, 1).timeline, data(&servers, 2).timeline), (2, 2));
    servers.cells[0].kill();
    if let Some(data) = &mut servers.cells[0].data {
        data.recovers = true;
    }
    network.calm();
    servers.configure(0, &config(0, Some(1), NOBODY));
    servers.start(0);
    let before = data(&servers, 0).len();
    pass(&mut servers, &network, 5);
    assert_eq!((data(&servers, 0).len(), data(&servers, 0).timeline), (before, 1));
    // What a backup has of the time before the fork can.
    let kept = data(&servers, 1).left[0].1;
    servers.cells[0].data = Some(data(&servers, 0).until(kept));
    pass(&mut servers, &network, 5);
    assert_eq!(data(&servers, 0).timeline, 2);
}
