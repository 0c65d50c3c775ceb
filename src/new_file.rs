//! Creation of files whose names others can foresee, in folders that others may be allowed to write.
//!
//! Owns the rule that a file which the program writes is always a file of its own: a symbolic link, a hard link or a pipe
//! that stands at its path is never written through.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Creates an empty file at this path. Whatever stands there, the rest of a killed session or a link to another file, is
/// removed first and never followed.
///
/// # Errors
/// A folder at this path, another process that creates the file at the same moment, or an error of the file system.
pub(crate) fn create_new_file(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Exclusive creation fails if anything stands at the path, and follows no link.
    open_exclusively(path)
}

/// Creates a file that must not exist yet: of several processes on any hosts, exactly one succeeds.
///
/// # Errors
/// `AlreadyExists` if anything stands at the path, or an error of the file system.
pub(crate) fn open_exclusively(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Replaces a small file by one with this content, as [`create_new_file`] does.
///
/// # Errors
/// As those of [`create_new_file`], or the content cannot be written.
pub(crate) fn write_new_file(path: &Path, content: &[u8]) -> io::Result<()> {
    create_new_file(path)?.write_all(content)
}

/// Opens a file for appending, or creates it with this mode. A symbolic link at this path is an error.
///
/// # Errors
/// An error of the file system.
pub(crate) fn open_for_append(path: &Path, mode: u32) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().append(true).create(true).mode(mode).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_at_the_path_are_replaced_and_their_targets_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("victim"), "kept").expect("written");
        symlink("victim", path("symbolic")).expect("a link");
        symlink("absent", path("dangling")).expect("a link");
        std::fs::hard_link(path("victim"), path("hard")).expect("a link");
        std::fs::write(path("earlier"), "longer than the new content").expect("written");
        for name in ["symbolic", "dangling", "hard", "earlier", "none"] {
            write_new_file(&path(name), b"new").expect(name);
            assert!(!path(name).is_symlink(), "{name}");
            assert_eq!(std::fs::read(path(name)).expect(name), b"new");
        }
        assert_eq!(std::fs::read(path("victim")).expect("there"), b"kept");
        assert!(!path("absent").exists());
    }

    #[test]
    fn nothing_is_appended_through_a_symbolic_link() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        symlink("absent", path("dangling")).expect("a link");
        assert!(open_for_append(&path("dangling"), 0o600).is_err());
        for _ in 0..2 {
            open_for_append(&path("log"), 0o600)
                .and_then(|mut log| log.write_all(b"x"))
                .expect("appended");
        }
        assert_eq!(std::fs::read(path("log")).expect("there"), b"xx");
    }
}
