//! A disk of a size: a tmpfs in a mount namespace, which nobody else sees and which ends with the test.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A folder that is a disk of its own for those who are started [`SmallDisk::within`] it.
pub struct SmallDisk {
    /// Holds the namespace until its standard input is closed.
    keeper: Child,
    place: PathBuf,
    within: Vec<String>,
}

impl SmallDisk {
    /// Of so many KiB, at a folder that is made. `None`, and a sentence, where the machine allows no namespaces.
    pub fn at(place: &Path, kib: usize) -> Option<Self> {
        std::fs::create_dir(place).expect("a folder");
        let root = rustix::process::getuid().is_root();
        let user: &[&str] = if root { &[] } else { &["--user", "--map-root-user"] };
        let script = "mount -t tmpfs -o size=$2k tmpfs \"$1\" && echo mounted && read -r _";
        let keeper = Command::new("unshare")
            .args(user)
            .args(["--mount", "sh", "-c", script, "sh"])
            .args([place.as_os_str(), kib.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let skip = |why: &str| println!("skipped: no small disk can be had here: {}", why.trim());
        let mut keeper = match keeper {
            Ok(keeper) => keeper,
            Err(error) => {
                skip(&format!("unshare does not start: {error}"));
                return None;
            }
        };
        let mut said = String::new();
        let out = keeper.stdout.as_mut().expect("piped");
        BufReader::new(out).read_line(&mut said).expect("read");
        if said != "mounted\n" {
            let ended = keeper.wait_with_output().expect("it was started");
            skip(&String::from_utf8_lossy(&ended.stderr));
            return None;
        }
        let user: &[&str] = if root { &[] } else { &["--user", "--preserve-credentials"] };
        let pid = keeper.id().to_string();
        let words =
            ["nsenter", "--target", &pid, "--mount"].into_iter().chain(user.iter().copied());
        let within = words.map(str::to_owned).collect();
        Some(Self { keeper, place: place.to_owned(), within })
    }

    /// The words that start a command where the disk is seen.
    pub fn within(&self) -> &[String] {
        &self.within
    }

    /// A file of it, by the name under which this process sees it.
    pub fn seen(&self, name: &str) -> PathBuf {
        let place = self.place.strip_prefix("/").expect("absolute").join(name);
        Path::new("/proc").join(self.keeper.id().to_string()).join("root").join(place)
    }

    /// Makes it larger, or smaller.
    pub fn resize(&self, kib: usize) {
        let size = format!("remount,size={kib}k");
        let mount = ["mount", "-o", &size].map(str::to_owned);
        let words: Vec<String> = self.within.iter().cloned().chain(mount).collect();
        let status = Command::new(&words[0]).args(&words[1..]).arg(&self.place).status();
        assert!(status.expect("nsenter").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
