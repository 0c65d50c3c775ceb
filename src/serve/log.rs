//! The log of a server: appended to by all its starts, and read for its last lines when it exits.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    time::SystemTime,
};

use crate::new_file::open_for_append;

const TAIL_LINES: usize = 12;
/// Size of the end of the file in which the last lines are looked for.
const TAIL_BYTES: u64 = 16 * 1024;
const MAX_LINE_CHARS: usize = 300;
/// Size at which a log is emptied: it shares its disk and quota with the answers, and a server may write without end.
const MAX_LOG_BYTES: u64 = 256 << 20;
/// Marks the beginning of each start in the log.
const START_MARK: &str = "--- aurora-swarm: started ";

/// Opens the log for appending and writes a line with the time and command of this start.
pub(super) fn open_log(path: &Path, command: &str) -> io::Result<File> {
    // A server may print its key, and the folder may be readable by others.
    let mut file = open_for_append(path, 0o600)?;
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    writeln!(file, "{START_MARK}{now}: {command}")?;
    Ok(file)
}

/// Appends lines about the server to its log. Nothing else is done if that fails.
pub(super) fn append_note(path: &Path, note: &str) {
    if let Ok(mut file) = open_for_append(path, 0o600) {
        let _ = writeln!(file, "--- aurora-swarm: {note}");
    }
}

/// Empties a log that has become too large. Its server goes on at the new end, since it appends. Nothing else is done if
/// that fails: the log matters less than the server.
pub(super) fn limit_log(path: &Path) {
    let Ok(file) = open_for_append(path, 0o600) else { return };
    if file.metadata().is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES)
        && file.set_len(0).is_ok()
    {
        let mebibytes = MAX_LOG_BYTES >> 20;
        let _ =
            writeln!(&file, "--- aurora-swarm: the log reached {mebibytes} MiB and was emptied");
    }
}

/// Returns the last lines of the last start, with the secrets hidden.
pub(super) fn log_tail(path: &Path, secrets: &[String]) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        // A crash loop can make the log large, so only its end is read.
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        file.take(TAIL_BYTES).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => last_lines(&String::from_utf8_lossy(&bytes), secrets),
        Err(error) => format!("(cannot read the log: {error})"),
    }
}

fn last_lines(text: &str, secrets: &[String]) -> String {
    let last_start = text.rfind(START_MARK).map_or(text, |at| &text[at..]);
    let lines =
        last_start.lines().filter(|line| !line.starts_with(START_MARK) && !line.trim().is_empty());
    let lines: Vec<String> = lines.map(|line| redact_line(line, secrets)).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn redact_line(line: &str, secrets: &[String]) -> String {
    let hidden = secrets
        .iter()
        .fold(line.trim_end().to_owned(), |line, secret| line.replace(secret.as_str(), "(hidden)"));
    // Escape sequences would colour, or overwrite, the terminal that shows the message.
    hidden
        .chars()
        .filter(|character| !character.is_control() || *character == '\t')
        .take(MAX_LINE_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_covers_the_last_start_only_and_hides_secrets() {
        let text = format!("old\n{START_MARK}now: vllm\n\nkey is hf_0123!\n\u{1b}[31mlast\n");
        assert_eq!(last_lines(&text, &["hf_0123".into()]), "key is (hidden)!\n[31mlast");
        let many: String = (0..40).map(|it| format!("{it}\n")).collect();
        assert_eq!(last_lines(&many, &[]).lines().next(), Some("28"));
    }

    #[test]
    fn a_log_that_is_too_large_is_emptied_and_appended_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x-1.log");
        let mut server = open_log(&path, "vllm").expect("a log");
        limit_log(&path);
        assert!(std::fs::read_to_string(&path).expect("a log").starts_with(START_MARK));
        server.set_len(MAX_LOG_BYTES + 1).expect("a sparse file");
        limit_log(&path);
        writeln!(server, "more").expect("written");
        let text = std::fs::read_to_string(&path).expect("a log");
        assert!(text.contains("was emptied\nmore\n"), "{text:?}");
        limit_log(Path::new("/nonexistent/x.log"));
    }

    #[test]
    fn a_log_grows_over_starts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x-1.log");
        for _ in 0..2 {
            writeln!(open_log(&path, "vllm").expect("a log"), "output").expect("written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("a log").matches(START_MARK).count(), 2);
        assert_eq!(log_tail(&path, &[]), "output");
    }
}
