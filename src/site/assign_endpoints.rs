//! Static load balancing of endpoints over ranks: every endpoint gets exactly one owner rank. Pure.
//!
//! * A URL with `{rank}` or `{local_rank}` belongs to the rank whose numbers fill it in; one with only `{host}` to its
//!   node.
//! * A loopback URL (or hostfile line) means a server on every node.
//! * A URL whose host is a node of the job belongs to that node; all others are distributed over all ranks.
//!
//! Endpoints of a node are assigned to its ranks in blocks, so that neighbouring tiles share a rank and its CPU socket.
//! How prompts are distributed over endpoints is the scheduler's, and over ranks the ledger's.

use super::{RankPlacement, hostfile::HostfileEntry, node::is_loopback};
use crate::{domain::Url, settings::RemoteEndpointPolicy};

/// Servers as the user specified them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndpointSpec {
    /// URLs, which may contain placeholders.
    Urls(Vec<Url>),
    /// Consecutive ports on every node.
    Ports {
        /// First port of every node.
        base: u16,
        /// Number of ports per node.
        count: u16,
    },
    /// Selected entries of a hostfile.
    Hosts {
        /// Entries that have all requested tags.
        entries: Vec<HostfileEntry>,
        /// Policy for hosts on which no rank runs.
        remote: RemoteEndpointPolicy,
    },
}

/// Reason why endpoints cannot be assigned to ranks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// The hostfile names hosts on which no rank runs.
    #[error(
    "no rank runs on {} of the hostfile ({})\nhint: start a rank on every node (mpiexec --ppn 1), fix the names, or \
    pass --remote-endpoints deal to reach these servers over the network",
    host_count_text(.0.len()), join_names(.0)
    )]
    NoRankOnHost(Vec<String>),
    /// An endpoint would have two owners.
    #[error("endpoint {0} is listed twice: with two owners its concurrency limit would be doubled")]
    DuplicateEndpoint(Url),
    /// No hostfile entry has the requested tags.
    #[error("no hostfile entry matches --tag")]
    NoMatchingTags,
    /// A placeholder is unknown, or its value does not make a valid URL.
    #[error("{0} is not a valid URL after its placeholders are filled in")]
    InvalidPlaceholder(String),
}

/// Returns the endpoints of each rank, in the order in which they were specified.
///
/// # Errors
/// Fails if an endpoint would have no owner, or two.
pub(crate) fn assign_endpoints(
    spec: &EndpointSpec,
    placements: &[RankPlacement],
) -> Result<Vec<Vec<Url>>, AssignError> {
    let mut table = AssignmentTable {
        placements,
        urls_by_rank: vec![Vec::new(); placements.len()],
        remote_urls: Vec::new(),
    };
    match spec {
        EndpointSpec::Ports { base, count } => {
            let ports = (*base..=u16::MAX).take(usize::from(*count));
            table.assign_to_every_node(&ports.map(Url::loopback).collect::<Vec<_>>());
        }
        EndpointSpec::Urls(urls) => {
            // All at once, so that the servers of a node go to its ranks in blocks.
            let loopback: Vec<Url> = urls
                .iter()
                .filter(|url| has_no_placeholders(url) && is_loopback(url.host()))
                .cloned()
                .collect();
            table.assign_to_every_node(&loopback);
            for url in urls.iter().filter(|url| !loopback.contains(url)) {
                table.assign_url(url)?;
            }
        }
        EndpointSpec::Hosts { entries, remote } => {
            if entries.is_empty() {
                return Err(AssignError::NoMatchingTags);
            }
            table.assign_host_entries(entries, *remote)?;
        }
    }
    table.assign_remote();
    table.into_checked()
}

struct AssignmentTable<'a> {
    placements: &'a [RankPlacement],
    urls_by_rank: Vec<Vec<Url>>,
    remote_urls: Vec<Url>,
}

impl AssignmentTable<'_> {
    /// Assigns the servers at these URLs on every node.
    fn assign_to_every_node(&mut self, urls: &[Url]) {
        for placement in self.placements.iter().filter(|placement| placement.local_rank == 0) {
            self.assign_to_node(&placement.node.host, urls);
        }
    }

    /// Assigns these servers to the ranks of one node, in blocks.
    fn assign_to_node(&mut self, host: &str, urls: &[Url]) {
        let ranks: Vec<usize> = self
            .placements
            .iter()
            .filter(|placement| placement.node.host == host)
            .map(|placement| placement.rank)
            .collect();
        // Consecutive URLs share a rank, and the block sizes differ by at most one.
        for (position, url) in urls.iter().enumerate() {
            self.urls_by_rank[ranks[position * ranks.len() / urls.len()]].push(url.clone());
        }
    }

    fn assign_url(&mut self, url: &Url) -> Result<(), AssignError> {
        if has_no_placeholders(url) {
            let node = self.placements.iter().find(|placement| placement.node.has_name(url.host()));
            match node.map(|placement| placement.node.host.clone()) {
                Some(host) => self.assign_to_node(&host, std::slice::from_ref(url)),
                None => self.remote_urls.push(url.clone()),
            }
            return Ok(());
        }
        let per_rank = url.as_str().contains("{rank}") || url.as_str().contains("{local_rank}");
        for placement in
            self.placements.iter().filter(|placement| per_rank || placement.local_rank == 0)
        {
            self.urls_by_rank[placement.rank].push(fill_url(url, placement)?);
        }
        Ok(())
    }

    fn assign_host_entries(
        &mut self,
        entries: &[HostfileEntry],
        remote: RemoteEndpointPolicy,
    ) -> Result<(), AssignError> {
        let url = |entry: &HostfileEntry| {
            entry.server_url().ok_or_else(|| AssignError::InvalidPlaceholder(entry.host.clone()))
        };
        let (loopback, others): (Vec<_>, Vec<_>) =
            entries.iter().partition(|entry| is_loopback(&entry.host));
        self.assign_to_every_node(
            &loopback.iter().map(|entry| url(entry)).collect::<Result<Vec<_>, _>>()?,
        );
        let mut hosts: Vec<(String, Vec<Url>)> = Vec::new();
        let mut unknown_hosts = Vec::new();
        for entry in others {
            let placement =
                self.placements.iter().find(|placement| placement.node.has_name(&entry.host));
            match (placement.map(|placement| &placement.node.host), remote) {
                (Some(host), _) => match hosts.iter_mut().find(|(its, _)| its == host) {
                    Some((_, urls)) => urls.push(url(entry)?),
                    None => hosts.push((host.clone(), vec![url(entry)?])),
                },
                (None, RemoteEndpointPolicy::Deal) => self.remote_urls.push(url(entry)?),
                (None, RemoteEndpointPolicy::Refuse) => unknown_hosts.push(entry.host.clone()),
            }
        }
        for (host, urls) in &hosts {
            self.assign_to_node(host, urls);
        }
        if unknown_hosts.is_empty() {
            Ok(())
        } else {
            Err(AssignError::NoRankOnHost(unknown_hosts))
        }
    }

    /// Distributes the servers that are on no node of the job evenly over all ranks.
    fn assign_remote(&mut self) {
        let (ranks, count) = (self.urls_by_rank.len(), self.remote_urls.len());
        for (position, url) in std::mem::take(&mut self.remote_urls).into_iter().enumerate() {
            self.urls_by_rank[position * ranks / count].push(url);
        }
    }

    fn into_checked(self) -> Result<Vec<Vec<Url>>, AssignError> {
        let mut seen = std::collections::BTreeSet::new();
        for (placement, urls) in self.placements.iter().zip(&self.urls_by_rank) {
            for url in urls {
                // The same loopback URL is a different server on each node.
                let node = if is_loopback(url.host()) { placement.node.host.as_str() } else { "" };
                if !seen.insert((node, url)) {
                    return Err(AssignError::DuplicateEndpoint(url.clone()));
                }
            }
        }
        Ok(self.urls_by_rank)
    }
}

fn has_no_placeholders(url: &Url) -> bool {
    !url.as_str().contains('{')
}

fn fill_url(url: &Url, placement: &RankPlacement) -> Result<Url, AssignError> {
    let text = placement.fill_placeholders(url.as_str());
    text.parse()
        .ok()
        .filter(has_no_placeholders)
        .ok_or_else(|| AssignError::InvalidPlaceholder(url.to_string()))
}

fn host_count_text(count: usize) -> String {
    if count == 1 { "a host".into() } else { format!("{count} hosts") }
}

fn join_names(names: &[String]) -> String {
    let first = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{first}, …") } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::{node::placements_of, parse_hostfile};
    use proptest::prelude::*;

    fn url_spec(texts: &[&str]) -> EndpointSpec {
        EndpointSpec::Urls(texts.iter().map(|text| text.parse().expect("a URL")).collect())
    }

    fn hostfile_spec(text: &str, remote: RemoteEndpointPolicy) -> EndpointSpec {
        EndpointSpec::Hosts { entries: parse_hostfile(text).expect("good lines"), remote }
    }

    fn assigned_urls(spec: &EndpointSpec, hosts: &[&str]) -> Vec<String> {
        let owned = assign_endpoints(spec, &placements_of(hosts)).expect("assignable");
        let short = |url: &Url| url.to_string().replace("http://", "").replace("127.0.0.1", "");
        owned.iter().map(|urls| urls.iter().map(short).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn a_nodes_ports_go_to_its_ranks_in_blocks() {
        let ports = EndpointSpec::Ports { base: 8000, count: 4 };
        assert_eq!(assigned_urls(&ports, &["a", "b"]), [":8000 :8001 :8002 :8003"; 2]);
        assert_eq!(
            assigned_urls(&ports, &["a", "a", "b"]),
            [":8000 :8001", ":8002 :8003", ":8000 :8001 :8002 :8003"]
        );
        let two = EndpointSpec::Ports { base: 8000, count: 2 };
        assert_eq!(assigned_urls(&two, &["a", "a", "a", "a"]), [":8000", "", ":8001", ""]);
    }

    #[test]
    fn placeholders_give_each_rank_or_node_its_own_server() {
        let per_rank = url_spec(&["http://127.0.0.1:800{local_rank}"]);
        assert_eq!(assigned_urls(&per_rank, &["a", "a", "b"]), [":8000", ":8001", ":8000"]);
        assert_eq!(
            assigned_urls(&url_spec(&["http://{host}:80"]), &["a", "a", "b"]),
            ["a:80", "", "b:80"]
        );
        assert_eq!(assigned_urls(&url_spec(&["http://x/{rank}"]), &["a", "a"]), ["x/0", "x/1"]);
    }

    #[test]
    fn known_hosts_go_to_their_nodes_and_others_to_all_ranks() {
        let mixed = url_spec(&["http://b:1", "http://x:1", "http://y:1", "http://127.0.0.1:7"]);
        assert_eq!(assigned_urls(&mixed, &["a", "b"]), [":7 x:1", ":7 b:1 y:1"]);
    }

    #[test]
    fn hostfile_entries_go_to_their_host_and_loopback_entries_to_every_node() {
        let file = hostfile_spec("a 1\nb.site 1\na 2\nlocalhost 9\n", RemoteEndpointPolicy::Refuse);
        assert_eq!(assigned_urls(&file, &["a", "a", "b"]), [":9 a:1", "a:2", ":9 b.site:1"]);
    }

    #[test]
    fn hosts_without_a_rank_are_an_error_unless_remote_endpoints_are_allowed() {
        let text = "a 1\nc 1\nd 1\n";
        let refused = assign_endpoints(
            &hostfile_spec(text, RemoteEndpointPolicy::Refuse),
            &placements_of(&["a"]),
        );
        assert_eq!(refused, Err(AssignError::NoRankOnHost(vec!["c".into(), "d".into()])));
        assert_eq!(
            assigned_urls(&hostfile_spec(text, RemoteEndpointPolicy::Deal), &["a", "b"]),
            ["a:1 c:1", "d:1"]
        );
    }

    #[test]
    fn an_endpoint_listed_twice_is_an_error() {
        for twice in [&["http://x:1", "http://x:1"][..], &["http://{host}:1", "http://a:1"]] {
            assert!(
                matches!(
                    assign_endpoints(&url_spec(twice), &placements_of(&["a", "b"])),
                    Err(AssignError::DuplicateEndpoint(_))
                ),
                "{twice:?}"
            );
        }
        assert!(matches!(
            assign_endpoints(&url_spec(&["http://h{x}"]), &placements_of(&["a"])),
            Err(AssignError::InvalidPlaceholder(_))
        ));
    }

    proptest! {
        #[test]
        fn every_port_of_every_node_has_exactly_one_owner(
            hosts in prop::collection::vec("[a-c]", 1..20), count in 1u16..30,
        ) {
            let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let placements = placements_of(&names);
            let owned = assign_endpoints(&EndpointSpec::Ports { base: 8000, count }, &placements).expect("loopback");
            for placement in placements.iter().filter(|placement| placement.local_rank == 0) {
                let mut ports: Vec<String> = placements
                    .iter()
                    .filter(|other| other.node == placement.node)
                    .flat_map(|other| owned[other.rank].iter().map(ToString::to_string))
                    .collect();
                ports.sort();
                let all: Vec<String> =
                    (8000..8000 + count).map(|port| Url::loopback(port).to_string()).collect();
                prop_assert_eq!(ports, all);
            }
        }
    }
}
