//! Images in conversations, for a model that sees them.
//!
//! It owns the check of a data URL and the text that stands for an image: a model of letters sees
//! its type, its length and a hash of its bytes, so that answers depend on the image.

use base64::{Engine as _, prelude::BASE64_STANDARD};

/// The text that an image's URL is to the model, or why it cannot be loaded.
///
/// # Errors
/// A data URL that does not decode, or whose bytes are no image; a URL of another kind than data,
/// http, https and file.
pub fn image_text(url: &str) -> Result<String, String> {
    if let Some(rest) = url.strip_prefix("data:") {
        let (kind, data) =
            rest.split_once(";base64,").ok_or("Only base64 data URLs are supported for now.")?;
        let bytes = BASE64_STANDARD
            .decode(data)
            .map_err(|error| format!("Failed to load image: {error}"))?;
        if !is_image(&bytes) {
            return Err("Failed to load image: cannot identify image file".into());
        }
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        return Ok(format!("<{kind} of {} bytes, {hash:016x}>", bytes.len()));
    }
    match url.split_once("://") {
        Some(("http" | "https" | "file", _)) => Ok(format!("<image at {url}>")),
        _ => Err("The URL must be either a HTTP, data or file URL.".into()),
    }
}

fn is_image(bytes: &[u8]) -> bool {
    let beginnings: [&[u8]; 7] =
        [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*"];
    beginnings.iter().any(|beginning| bytes.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_that_decode_are_seen() {
        assert!(image_text("data:image/gif;base64,R0lGODlh").is_ok());
        assert_ne!(
            image_text("data:image/gif;base64,R0lGODlh"),
            image_text("data:image/gif;base64,R0lGODdh")
        );
        for bad in ["data:image/png;base64,AAAA", "data:image/gif;base64,R0l", "data:,x", "cat.png"]
        {
            assert!(image_text(bad).is_err(), "{bad}");
        }
    }
}
