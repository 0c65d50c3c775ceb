//! Nodes and placement: the names of the node a rank runs on, and the rank's index among the ranks of its node.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// Names and addresses of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeInfo {
    /// Host name as reported by the kernel.
    pub host: String,
    /// Addresses of the node's network interfaces, without loopback.
    pub addresses: Vec<IpAddr>,
}

/// Placement of a rank in the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RankPlacement {
    /// Rank number in the job, from 0.
    pub rank: usize,
    /// Node the rank runs on.
    pub node: NodeInfo,
    /// Index among the ranks of the node, from 0.
    pub local_rank: usize,
    /// Number of ranks on the node.
    pub local_size: usize,
}

impl RankPlacement {
    /// Fills in `{rank}`, `{local_rank}` and `{host}` in a text.
    #[must_use]
    pub(crate) fn fill_placeholders(&self, text: &str) -> String {
        text.replace("{rank}", &self.rank.to_string())
            .replace("{local_rank}", &self.local_rank.to_string())
            .replace("{host}", &self.node.host)
    }
}

impl NodeInfo {
    /// Returns the node that this process runs on.
    #[must_use]
    pub(crate) fn this_node() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let mut addresses: Vec<_> =
            interfaces.iter().map(if_addrs::Interface::ip).filter(|ip| !ip.is_loopback()).collect();
        addresses.sort();
        addresses.dedup();
        Self { host, addresses }
    }

    /// Returns whether `name` means this host: by full name, by the part before the first dot, or by address.
    #[must_use]
    pub(crate) fn has_name(&self, name: &str) -> bool {
        if let Ok(address) = name.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        // Without domains: the kernel, PBS and a user may use different ones for a host.
        short_host_name(name).eq_ignore_ascii_case(short_host_name(&self.host))
    }
}

fn short_host_name(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Returns whether the name means the node that uses it.
pub(super) fn is_loopback(name: &str) -> bool {
    name.parse::<IpAddr>().map_or(name.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
}

/// Computes the placement of all ranks from their nodes, both in rank order. Ranks with the same host name share a
/// node.
#[must_use]
pub(crate) fn rank_placements(nodes: Vec<NodeInfo>) -> Vec<RankPlacement> {
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    let mut placements: Vec<RankPlacement> = Vec::with_capacity(nodes.len());
    for (rank, node) in nodes.into_iter().enumerate() {
        let count = sizes.entry(node.host.clone()).or_default();
        placements.push(RankPlacement { rank, local_rank: *count, local_size: 0, node });
        *count += 1;
    }
    for placement in &mut placements {
        placement.local_size = sizes[&placement.node.host];
    }
    placements
}

#[cfg(test)]
pub(super) fn placements_of(hosts: &[&str]) -> Vec<RankPlacement> {
    let node = |host: &&str| NodeInfo { host: (*host).into(), addresses: Vec::new() };
    rank_placements(hosts.iter().map(node).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_numbered_per_host_in_any_order_of_hosts() {
        let placements: Vec<_> = placements_of(&["a", "b", "a", "b", "c"])
            .iter()
            .map(|placement| (placement.local_rank, placement.local_size))
            .collect();
        assert_eq!(placements, [(0, 2), (0, 2), (1, 2), (1, 2), (0, 1)]);
    }

    #[test]
    fn a_host_is_recognized_by_its_names_and_addresses() {
        let address = "10.0.0.7".parse().expect("an address");
        let node = NodeInfo { host: "x4117c0.cm.site".into(), addresses: vec![address] };
        for name in ["x4117c0", "X4117C0.cm.site", "x4117c0.hsn.site", "10.0.0.7"] {
            assert!(node.has_name(name), "{name}");
        }
        for name in ["x4117c1", "10.0.0.8", "10"] {
            assert!(!node.has_name(name), "{name}");
        }
        assert!(is_loopback("localhost") && is_loopback("::1") && is_loopback("127.0.0.2"));
        assert!(!is_loopback("10.0.0.7") && !is_loopback("x4117c0"));
    }
}
