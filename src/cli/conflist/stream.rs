//! The edit of a text that is in no file of the node: the `spec.config` of a
//! NetworkAttachmentDefinition, from standard input to standard output.

use std::io::Read;
use std::path::Path;

use super::Options;
use super::document::{Document, MAX_BYTES};
use super::edit::{add_text, remove_text};
use super::error::{Error, FileError};
use super::file::{bounded_text, text_error};

/// The name that stands for standard input and output on the command line.
pub const STREAM: &str = "-";

/// The configuration with our entry. A single plugin becomes a list. It may lack a `name`:
/// multus puts in the object's.
///
/// # Errors
/// As for a file.
pub fn add_stream(input: impl Read, options: &Options) -> Result<String, FileError> {
    edit(input, |text| add_text(text, options).map(|edit| edit.text))
}

/// The configuration without our entry. A list stays one.
///
/// # Errors
/// As for a file.
pub fn remove_stream(input: impl Read) -> Result<String, FileError> {
    edit(input, |text| remove_text(text).map(|edit| edit.text))
}

fn edit(
    input: impl Read,
    edit: impl FnOnce(&str) -> Result<String, Error>,
) -> Result<String, FileError> {
    let path = Path::new("standard input");
    let text = bounded_text(input, path, || MAX_BYTES + 1)?;
    let document =
        Document::parse(&text).map_err(|source| text_error(path, named(&text, source)))?;
    if document.plugins().next().is_none() {
        return Err(text_error(path, Error::NoPlugins));
    }
    edit(&text).map_err(|source| text_error(path, source))
}

/// Of a whole object it is said what of it is wanted.
fn named(text: &str, error: Error) -> Error {
    let whole = || {
        let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        value.get("kind").is_some() && value.get("spec").is_some()
    };
    if error == Error::NotANetwork && whole() { Error::WholeObject } else { error }
}
