//! Streams become plain files: standard input and packed files are copied once, because rows are read again by their
//! places and a stream has none.
//!
//! Owns the compressions, which columns a table has to have, and the copy. Does not know what the rows say, nor where the
//! copy should lie.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use super::{
    InputError, Packing, Rules,
    discover::packing_of,
    row::{suggest::nearest, template::Template},
};
use crate::parquet;

const CHUNK: usize = 1 << 20;

/// A file's rows as text, unpacked by what its ending says.
///
/// # Errors
/// A file that cannot be opened, or a table without what these rules need. What is wrong inside comes up while reading, and
/// names the file.
pub fn open_unpacked(path: &Path, rules: &Rules) -> Result<Box<dyn Read>, InputError> {
    let io = |source| InputError::Io { doing: "cannot open it", path: path.to_path_buf(), source };
    let open = || File::open(path).map_err(io);
    let bytes: Box<dyn Read> = match packing_of(path) {
        Packing::Plain => Box::new(open()?),
        // Many tools append member to member; a decoder of one member would end in silence after the first.
        Packing::Gzip => {
            Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(CHUNK, open()?)))
        }
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(open()?).map_err(io)?),
        Packing::Parquet => Box::new(table(path, rules)?),
    };
    Ok(Box::new(Named { path: path.to_path_buf(), bytes }))
}

/// The rows of a Parquet file. A column that is missing is named before anything is read.
fn table(path: &Path, rules: &Rules) -> Result<parquet::Rows, InputError> {
    let io = |source| InputError::Io { doing: "cannot read it", path: path.to_path_buf(), source };
    let header = |what| InputError::Header { path: path.to_path_buf(), what };
    let template = rules.template.as_deref().map(Template::parse).transpose();
    let template = template.map_err(InputError::Template)?;
    let names = template.as_ref().map(Template::names).unwrap_or_default();
    let counts =
        |name: &str| matches!(name, "id" | "prompt" | "messages" | "params" | "item" | "text");
    let needed = |name: &str| counts(name) || names.iter().any(|it| it == name);
    let rows = parquet::Rows::open(path, needed).map_err(io)?;
    let twice = rows.columns().iter().enumerate();
    let mut twice = twice.filter(|(at, name)| rows.columns()[..*at].contains(name));
    if let Some((_, name)) = twice.next() {
        return Err(header(format!("the table has the column {name:?} twice")));
    }
    if template.is_none() && !rows.columns().iter().any(|it| it == "prompt" || it == "messages") {
        let hint = nearest("prompt", rows.columns());
        return Err(header(format!(
            "the table has no column \"prompt\" and no \"messages\"{hint}; rename one, or give a template"
        )));
    }
    if !rows.left_out().is_empty() {
        let columns = rows.left_out().join(", ");
        tracing::info!(file = %path.display(), columns, "left out: these columns are bytes and not text, or have no form in JSON");
    }
    Ok(rows)
}

/// Copies a stream to the plain file `to`, in flat memory, and gives the number of bytes once they are on disk.
///
/// # Errors
/// A stream that breaks off, or a file that cannot be written: `to` is then not to be used.
pub fn spool(from: &mut dyn Read, to: &Path) -> Result<u64, InputError> {
    let failed = |doing| move |source| InputError::Io { doing, path: to.to_path_buf(), source };
    let mut file = File::create(to).map_err(failed("cannot create it"))?;
    let mut chunk = vec![0; CHUNK];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("cannot read what is to be copied here")(error)),
        };
        file.write_all(&chunk[..read]).map_err(failed("cannot write the copy of the input"))?;
        copied += read as u64;
    }
    file.sync_all().map_err(failed("cannot bring the copy of the input to disk"))?;
    Ok(copied)
}

/// A stream whose errors name its file.
struct Named {
    path: PathBuf,
    bytes: Box<dyn Read>,
}

impl Read for Named {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let named = |error: io::Error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(
                kind,
                format!("{}: damaged or cut off: {error}", self.path.display()),
            ),
        };
        self.bytes.read(to).map_err(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn packed_files_are_copied_whole_through_all_their_members() {
        let folder = tempfile::tempdir().unwrap();
        let text: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let (one, two) = text.split_at(text.len() / 3);
        let gz = [gzip(one), gzip(two)].concat();
        let zst = [zstd::encode_all(one, 1).unwrap(), zstd::encode_all(two, 1).unwrap()].concat();
        for (name, packed) in [("x.txt.gz", gz), ("x.txt.zst", zst), ("x.txt", text.clone())] {
            let (from, to) = (folder.path().join(name), folder.path().join("plain"));
            std::fs::write(&from, packed).unwrap();
            assert_eq!(
                spool(&mut open_unpacked(&from, &Rules::default()).unwrap(), &to).unwrap(),
                text.len() as u64
            );
            assert!(std::fs::read(&to).unwrap() == text, "{name}");
        }
    }

    #[test]
    fn a_torn_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let torn = folder.path().join("x.txt.gz");
        std::fs::write(&torn, &gzip(b"abcdefghijklmnopqrstuvwxyz")[..20]).unwrap();
        let error =
            spool(&mut open_unpacked(&torn, &Rules::default()).unwrap(), &folder.path().join("to"))
                .unwrap_err();
        assert!(error.to_string().contains("x.txt.gz: damaged or cut off"), "{error}");
    }
}
