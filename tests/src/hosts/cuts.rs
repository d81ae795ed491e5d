//! What the network does to the hosts: packets are lost on the way, and nobody is told.

use std::net::Ipv4Addr;

use crate::hosts::network;
use crate::hosts::set::Hosts;

impl Hosts {
    /// Nothing goes between two hosts any more, on connections that are open neither.
    #[track_caller]
    pub fn cut(&self, one: &str, other: &str) {
        self.lose("packets", &[(one, other), (other, one)]);
    }

    /// No packet from a host arrives at another, but those the other way do: what is sent on an open connection arrives,
    /// and is sent again and again, because nothing says that it did. A new connection takes packets both ways, so neither
    /// host can open one.
    #[track_caller]
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.lose("packets", &[(from, to)]);
    }

    /// A host cannot open connections to another, as when a firewall of the other's is wrong; the other can, and what is open
    /// goes on both ways.
    #[track_caller]
    pub fn cut_new_connections(&self, from: &str, to: &str) {
        self.lose("connections", &[(from, to)]);
    }

    /// Nothing goes between a host and any other any more, the operator's too.
    #[track_caller]
    pub fn isolate(&self, host: &str) {
        let others: Vec<&str> = self.names().filter(|name| *name != host).collect();
        let pairs = others.iter().flat_map(|other| [(host, *other), (*other, host)]);
        self.lose("packets", &pairs.collect::<Vec<_>>());
    }

    /// The network is whole.
    #[track_caller]
    pub fn heal_all(&self) {
        network::rules(
            &self.bridge(),
            "flush set bridge cellar packets\nflush set bridge cellar connections\n",
        );
    }

    /// All pairs at the same moment.
    #[track_caller]
    fn lose(&self, what: &str, pairs: &[(&str, &str)]) {
        let address = |host: &str| -> Ipv4Addr { self.address(host) };
        let elements = pairs.iter().map(|(from, to)| format!("{} . {}", address(from), address(to)));
        let elements = elements.collect::<Vec<_>>().join(", ");
        network::rules(&self.bridge(), &format!("add element bridge cellar {what} {{ {elements} }}\n"));
    }
}
