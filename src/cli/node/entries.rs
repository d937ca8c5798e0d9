//! Who will call us: configurations that name us, and pods whose runtime remembers one that did.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Error, PLUGIN_TYPE, io_error};

/// The largest file we look into, in bytes.
const MOST: u64 = 4 << 20;

/// Files of these directories that have an entry of ours at any depth (multus has lists within
/// its own), and also if they cannot be parsed. By the text, not by what an editor understands.
/// With them, those of a list's plugins that have files of their own (`NETWORK/*.conf`).
///
/// # Errors
/// A directory or file cannot be read, so nobody knows.
pub(super) fn naming_us(directories: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for directory in directories {
        let (mut lists, mut inner) = (Vec::new(), Vec::new());
        for path in paths(directory)? {
            let is = |ends: &[&str]| path.extension().is_some_and(|e| ends.iter().any(|k| e == *k));
            if path.is_dir() {
                inner.push(path);
            } else if is(&["conf", "conflist", "json"]) && path.is_file() {
                let text = dense(&read(&path).map_err(|e| io_error(&path, "read it", e))?);
                if has_entry(&text) {
                    found.push(path.clone());
                }
                if is(&["conflist"]) {
                    lists.push(text);
                }
            }
        }
        inner.retain(|network| lists.iter().any(|list| takes_in(list, network)));
        for network in inner {
            let plugins = paths(&network)?.into_iter();
            let is_plugin = |p: &PathBuf| p.as_os_str().as_bytes().ends_with(b".conf");
            for path in plugins.filter(|p| is_plugin(p) && p.is_file()) {
                if has_entry(&read(&path).map_err(|e| io_error(&path, "read it", e))?) {
                    found.push(path);
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a list has plugins in this directory, because it is named as the list's network.
fn takes_in(list: &[u8], directory: &Path) -> bool {
    let Some(network) = directory.file_name() else { return false };
    let has = |wanted: &[u8]| list.windows(wanted.len()).any(|w| w.eq_ignore_ascii_case(wanted));
    let name = [b"\"name\":\"", network.as_bytes(), b"\""].concat();
    let only_inlined = ["true", "\"true\""]
        .iter()
        .any(|yes| has(format!("\"loadOnlyInlinedPlugins\":{yes}").as_bytes()));
    has(&name) && !only_inlined
}

/// What is in a directory; nothing if it is not there.
fn paths(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| io_error(directory, "read it", e))?,
    };
    let path = |entry: io::Result<fs::DirEntry>| {
        Ok(entry.map_err(|e| io_error(directory, "read it", e))?.path())
    };
    entries.map(path).collect()
}

/// How many pods CRI-O and multus would call us for: they call DEL with the configuration that
/// ADD had, from their caches. (containerd, which fills the same cache, uses the file of now.)
pub(super) fn remembered(cache_dir: &Path, crio_socket: &Path) -> usize {
    let crio = fs::metadata(crio_socket).is_ok_and(|meta| meta.file_type().is_socket());
    let results = if crio { texts(&cache_dir.join("results")) } else { Vec::new() };
    let cached = results.iter().filter_map(|text| cached_config(text));
    cached.filter(|config| has_entry(config)).count()
        + texts(&cache_dir.join("multus")).iter().filter(|text| has_entry(text)).count()
}

/// libcni's cache entry, of which we want the configuration (a `[]byte` of Go: base64).
#[derive(Deserialize)]
struct Cached {
    config: String,
}

fn cached_config(text: &[u8]) -> Option<Vec<u8>> {
    base64(&serde_json::from_slice::<Cached>(text).ok()?.config)
}

/// Every file of a directory that can be read; none if it is not there.
fn texts(directory: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    paths.filter_map(|path| read(&path).ok()).collect()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut text)?;
    Ok(text)
}

fn dense(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect()
}

/// Whether JSON has an entry of ours, however it is laid out.
fn has_entry(text: &[u8]) -> bool {
    let wanted = format!("\"type\":\"{PLUGIN_TYPE}\"");
    dense(text).windows(wanted.len()).any(|window| window == wanted.as_bytes())
}

/// RFC 4648 §4. `None` for a character that is not of the alphabet.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut have) = (0_u32, 0_u32);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
        }
    }
    Some(bytes)
}

/// Fuzz body ([`crate::fuzzing`]): a configuration, or an entry of libcni's cache.
#[cfg(feature = "fuzzing")]
#[expect(clippy::panic, reason = "a broken promise is told by panicking")]
pub(in crate::cli) fn fuzz(data: &[u8]) -> bool {
    let named = has_entry(data);
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(seen) = super::super::conflist::inspect(text)
    {
        // Who may still call us is never overlooked. (Nobody writes the type with escapes.)
        let overlooked = seen.ours.is_some() && !named && !text.contains('\\');
        assert!(!overlooked, "{text}");
    }
    match cached_config(data) {
        Some(config) => {
            if config.len() > data.len() {
                panic!("{} bytes of base64 are {}", data.len(), config.len());
            }
            has_entry(&config);
            true
        }
        None => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_length() {
        // RFC 4648 §10.
        let known =
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob")];
        for (encoded, plain) in known {
            assert_eq!(base64(encoded).unwrap(), plain.as_bytes());
        }
        assert_eq!(base64("+/8=").unwrap(), [0xfb, 0xff]);
        assert_eq!(base64("Zm9\u{e9}"), None);
    }

    #[test]
    fn an_entry_is_found_in_any_layout_and_only_as_a_type() {
        assert!(has_entry(b"{\"plugins\": [{\n \"type\" :\t\"ovs-flow-gc\"}]}"));
        assert!(!has_entry(br#"{"name": "ovs-flow-gc", "type": "ovs-flow-gcd"}"#));
    }
}
