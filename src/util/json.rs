//! JSON from bytes.

use serde::Deserialize;
use serde::de::Error as _;

/// Reads a value. UTF-8 is checked once for the whole text and not for each string, and the reader
/// of texts is the only one that a release has: with a second one the plugin is larger by a fiftieth.
///
/// # Errors
/// Not UTF-8, not JSON, or not a `T`.
pub fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> serde_json::Result<T> {
    let text = std::str::from_utf8(bytes).map_err(serde_json::Error::custom)?;
    serde_json::from_str(text)
}
