//! Compressed streams: gzip and zstd, for input files that are decompressed and output files that are compressed.
//!
//! Owns the endings and the streams. Which files are compressed is decided in `input` and `output`.

use std::{
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
};

/// Level of gzip output: about three times as fast as gzip's own default, and a tenth larger.
const GZIP_LEVEL: u32 = 3;
/// Level of zstd output, which is zstd's own default.
const ZSTD_LEVEL: i32 = 3;
const BUFFER_BYTES: usize = 1 << 20;

/// Compression of a file, as its ending names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// Returns the compression of a file and its path without that ending.
    pub(crate) fn split_path(path: &Path) -> (Self, PathBuf) {
        let ending = path.extension().and_then(|it| it.to_str()).map(str::to_ascii_lowercase);
        match ending.as_deref() {
            Some("gz") => (Self::Gzip, path.with_extension("")),
            Some("zst") => (Self::Zstd, path.with_extension("")),
            _ => (Self::Plain, path.to_owned()),
        }
    }

    /// Opens a stream of compressed bytes. Many tools append member to member: all of them are read.
    ///
    /// # Errors
    /// An error of the decoder's memory. Damage inside the stream is reported while reading.
    pub(crate) fn open_reader(self, from: impl Read + 'static) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Plain => Box::new(from),
            // A single-member decoder would silently stop after the first.
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(
                BUFFER_BYTES,
                from,
            ))),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(from)?),
        })
    }

    /// Begins a compressed stream. It is complete only after [`CompressedWriter::finish`].
    ///
    /// # Errors
    /// An error of the encoder's memory.
    pub(crate) fn open_writer<W: Write>(self, to: W) -> io::Result<CompressedWriter<W>> {
        Ok(CompressedWriter(match self {
            Self::Plain => Encoder::Plain(to),
            Self::Gzip => Encoder::Gzip(Box::new(flate2::write::GzEncoder::new(
                to,
                flate2::Compression::new(GZIP_LEVEL),
            ))),
            Self::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(to, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(Box::new(encoder))
            }
        }))
    }
}

/// Writer of a stream that may be compressed.
pub(crate) struct CompressedWriter<W: Write>(Encoder<W>);

enum Encoder<W: Write> {
    Plain(W),
    Gzip(Box<flate2::write::GzEncoder<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> CompressedWriter<W> {
    /// Writes the end of the stream and returns the stream below.
    ///
    /// # Errors
    /// An error of the stream below.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self.0 {
            Encoder::Plain(to) => Ok(to),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for CompressedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Encoder::Plain(to) => to.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Encoder::Plain(to) => to.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> std::fmt::Debug for CompressedWriter<W> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("CompressedWriter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(kind: Compression, text: &[u8]) -> Vec<u8> {
        let mut writer = kind.open_writer(Vec::new()).expect("begun");
        // In pieces, as lines arrive.
        text.chunks(1000).for_each(|piece| writer.write_all(piece).expect("written"));
        writer.finish().expect("finished")
    }

    #[test]
    fn streams_of_one_or_several_members_are_read_whole() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        for kind in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            let (one, two) = text.split_at(text.len() / 3);
            for bytes in
                [compressed(kind, &text), [one, two].map(|it| compressed(kind, it)).concat()]
            {
                let mut back = Vec::new();
                let mut reader = kind.open_reader(io::Cursor::new(bytes)).expect("opened");
                reader.read_to_end(&mut back).expect("read");
                assert!(back == text, "{kind:?}");
            }
        }
    }

    #[test]
    fn the_ending_names_the_compression_in_any_case() {
        for (path, kind, inner) in [
            ("a/x.jsonl.gz", Compression::Gzip, "a/x.jsonl"),
            ("x.csv.ZST", Compression::Zstd, "x.csv"),
            ("x.gz", Compression::Gzip, "x"),
            ("x.jsonl", Compression::Plain, "x.jsonl"),
            (".gz", Compression::Plain, ".gz"),
        ] {
            assert_eq!(Compression::split_path(Path::new(path)), (kind, inner.into()), "{path}");
        }
    }
}
