//! Membership of processes in servers, from the kernel's process table.
//!
//! The process group is not enough: engines and workers may move to groups of their own, and processes whose parent has
//! died are reparented to the supervisor, their subreaper. So descent is recorded while the parents live. A process
//! that left its parent before it was seen, as daemons do, is recognized by the server's mark in its environment. The
//! mark alone is not enough either: programs that set their title in the process table (vLLM's engines do) overwrite
//! their environment with it. Two functions read `/proc`; the rest is pure.

use std::collections::{BTreeMap, BTreeSet};

/// Entry of the kernel's process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessEntry {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    /// Start time in clock ticks since boot; a reused pid has another one.
    pub(super) start_time: u64,
    /// Dead, or killed and still releasing its memory, which takes a busy machine a minute for many gigabytes.
    pub(super) is_ending: bool,
}

/// Environment variable that marks a server and all its descendants with the server's port.
pub(super) const PORT_VARIABLE: &str = "SWARM_GUARD_SERVES_ON";
/// Bit of the kernel's process flags: the process is exiting.
const PF_EXITING: u64 = 0x4;

/// Recorded membership: (pid, start time) of each process to the pid of its server's first process, the leader.
#[derive(Debug, Default)]
pub(super) struct ProcessTree(BTreeMap<(i32, u64), i32>);

/// Lists all processes of the node, including dying ones: while a process exits its first thread may already be dead
/// and its children still be its own.
pub(super) fn list_processes() -> Vec<ProcessEntry> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(|pid: i32| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            parse_stat(pid, &String::from_utf8_lossy(&stat))
        })
        .collect()
}

/// Reads the port mark that a process inherited from its server; `None` if its environment has none.
pub(super) fn read_port_mark(pid: i32) -> Option<u16> {
    parse_port_mark(&std::fs::read(format!("/proc/{pid}/environ")).ok()?)
}

fn parse_port_mark(environment: &[u8]) -> Option<u16> {
    let variables = environment.split(|&byte| byte == 0);
    let mut values = variables
        .filter_map(|variable| variable.strip_prefix(PORT_VARIABLE.as_bytes())?.strip_prefix(b"="));
    std::str::from_utf8(values.next()?).ok()?.parse().ok()
}

/// Parses `/proc/PID/stat`: "PID (NAME) STATE PARENT GROUP …", where NAME may contain anything. Of all fields the 9th
/// are the flags and the 22nd is the start time.
fn parse_stat(pid: i32, stat: &str) -> Option<ProcessEntry> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let parse_number = |at: usize| fields.get(at)?.trim().parse().ok();
    let parse_long = |at: usize| fields.get(at)?.trim().parse::<u64>().ok();
    let is_ending = matches!(*fields.first()?, "Z" | "X") || parse_long(6)? & PF_EXITING != 0;
    Some(ProcessEntry {
        pid,
        parent: parse_number(1)?,
        group: parse_number(2)?,
        start_time: parse_long(19)?,
        is_ending,
    })
}

/// Returns all direct and indirect children of `root`.
pub(super) fn descendants_of(root: i32, all: &[ProcessEntry]) -> Vec<ProcessEntry> {
    let mut children: BTreeMap<i32, Vec<ProcessEntry>> = BTreeMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(*process);
    }
    let (mut found, mut seen, mut next) = (Vec::new(), BTreeSet::from([root]), vec![root]);
    while let Some(parent) = next.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            if seen.insert(child.pid) {
                found.push(*child);
                next.push(child.pid);
            }
        }
    }
    found
}

impl ProcessTree {
    /// Records the members of these servers. `ours` are the descendants of the supervisor; `marked` finds the server of
    /// a process by its mark, and is used only if nothing else is known of the process.
    pub(super) fn record_members(
        &mut self,
        leaders: &[i32],
        supervisor: i32,
        ours: &[ProcessEntry],
        server_by_mark: impl Fn(i32) -> Option<i32>,
    ) {
        let alive: BTreeSet<(i32, u64)> =
            ours.iter().map(|process| (process.pid, process.start_time)).collect();
        // Processes that are gone are forgotten, so that a reused pid does not inherit their server.
        self.0.retain(|process_key, _| alive.contains(process_key));
        for process in ours {
            // The group decides first: it is the server's own unless a process has left it.
            if let Some(leader) = leaders.iter().find(|leader| **leader == process.group) {
                self.0.insert((process.pid, process.start_time), *leader);
            }
        }
        for &leader in leaders {
            for process in descendants_of(leader, ours) {
                self.0.entry((process.pid, process.start_time)).or_insert(leader);
            }
        }
        let known = |process: &ProcessEntry| {
            leaders.contains(&process.pid)
                || self.0.contains_key(&(process.pid, process.start_time))
        };
        // Only orphans: a process with a living parent below a server is found by descent.
        let unknown = ours.iter().filter(|process| process.parent == supervisor && !known(process));
        let found: Vec<_> = unknown
            .filter_map(|process| {
                Some(((process.pid, process.start_time), server_by_mark(process.pid)?))
            })
            .collect();
        self.0.extend(found);
        // Descendants of orphans that were recorded before their parent died.
        for (&(pid, _), &leader) in &self.0.clone() {
            for process in descendants_of(pid, ours) {
                self.0.entry((process.pid, process.start_time)).or_insert(leader);
            }
        }
    }

    /// Returns the pids among `ours` that belong to this server, dead or alive.
    pub(super) fn members_of(&self, leader: i32, ours: &[ProcessEntry]) -> Vec<i32> {
        let is_member = |process: &&ProcessEntry| {
            process.group == leader
                || self.0.get(&(process.pid, process.start_time)) == Some(&leader)
        };
        ours.iter().filter(is_member).map(|process| process.pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUPERVISOR: i32 = 10;

    fn process_entry(pid: i32, parent: i32, group: i32) -> ProcessEntry {
        ProcessEntry { pid, parent, group, start_time: 7, is_ending: false }
    }

    /// Builds a table with two servers; the first has an engine in a group of its own, with a worker.
    fn process_table() -> Vec<ProcessEntry> {
        vec![
            process_entry(SUPERVISOR, 1, SUPERVISOR),
            process_entry(100, SUPERVISOR, 100),
            process_entry(101, 100, 101),
            process_entry(102, 101, 101),
            process_entry(200, SUPERVISOR, 200),
            process_entry(201, 200, 200),
            process_entry(999, 1, 999),
        ]
    }

    fn own_descendants(all: &[ProcessEntry]) -> Vec<ProcessEntry> {
        descendants_of(SUPERVISOR, all)
    }

    fn record_members(family: &mut ProcessTree, leaders: &[i32], ours: &[ProcessEntry]) {
        family.record_members(leaders, SUPERVISOR, ours, |_| None);
    }

    #[test]
    fn daemons_are_recognized_by_their_mark_and_their_children_by_descent() {
        let mut all = process_table();
        // A daemon that left its parent, group and session before it was seen, its child, and one whose title hides its
        // mark.
        all.extend([
            process_entry(300, SUPERVISOR, 300),
            process_entry(301, 300, 300),
            process_entry(302, SUPERVISOR, 302),
        ]);
        let mut family = ProcessTree::default();
        let server_by_mark =
            |pid| [(300, 200), (101, 200)].iter().find(|it| it.0 == pid).map(|it| it.1);
        family.record_members(&[100, 200], SUPERVISOR, &own_descendants(&all), server_by_mark);
        let mut of = family.members_of(200, &own_descendants(&all));
        of.sort_unstable();
        assert_eq!(of, [200, 201, 300, 301]);
        assert_eq!(
            family.members_of(100, &own_descendants(&all)).len(),
            3,
            "descent counts more than a mark"
        );
        let environment = format!("A=1\0{PORT_VARIABLE}=8001\0B=2\0");
        assert_eq!(port_in(&environment), Some(8001));
        assert_eq!(port_in("VLLM::Worker\0"), None);
    }

    fn port_in(environment: &str) -> Option<u16> {
        parse_port_mark(environment.as_bytes())
    }

    #[test]
    fn names_with_blanks_and_parentheses_are_parsed() {
        let stat = "7 (a) b) S 3 4 5 6 7 4194560 9 10 11 12 13 14 15 16 17 18 19 20 55 1\n";
        let process =
            ProcessEntry { pid: 7, parent: 3, group: 4, start_time: 55, is_ending: false };
        assert_eq!(parse_stat(7, stat), Some(process));
        let ending = Some(ProcessEntry { is_ending: true, ..process });
        assert_eq!(parse_stat(7, &stat.replace(") S", ") Z")), ending, "it may have children yet");
        assert_eq!(parse_stat(7, &stat.replace(") S", ") R").replace("560", "564")), ending);
        assert_eq!(parse_stat(7, "7 (a"), None);
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(list_processes().iter().any(|it| it.pid == me));
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_other_processes_are_not() {
        let pids: BTreeSet<i32> =
            own_descendants(&process_table()).iter().map(|it| it.pid).collect();
        assert_eq!(pids, BTreeSet::from([100, 101, 102, 200, 201]));
        // A table that changed while it was read may contain a cycle.
        assert!(descendants_of(1, &[process_entry(1, 2, 1), process_entry(2, 1, 1)]).len() < 3);
    }

    #[test]
    fn orphans_in_other_groups_belong_to_their_former_parents_server() {
        let mut family = ProcessTree::default();
        record_members(&mut family, &[100, 200], &own_descendants(&process_table()));
        // The first server dies; its engine is reparented to the supervisor and forks once more.
        let mut after = process_table();
        after.retain(|it| it.pid != 100);
        after.iter_mut().filter(|it| it.pid == 101).for_each(|it| it.parent = SUPERVISOR);
        after.push(process_entry(103, 101, 103));
        let after = own_descendants(&after);
        record_members(&mut family, &[200], &after);
        let orphans: BTreeSet<i32> = family.members_of(100, &after).into_iter().collect();
        assert_eq!(orphans, BTreeSet::from([101, 102, 103]));
        assert_eq!(family.members_of(200, &after).len(), 2);
    }

    #[test]
    fn a_reused_pid_belongs_to_no_server() {
        let mut family = ProcessTree::default();
        record_members(&mut family, &[100], &own_descendants(&process_table()));
        let again = [ProcessEntry { start_time: 8, ..process_entry(101, SUPERVISOR, 300) }];
        assert!(family.members_of(100, &again).is_empty());
    }
}
