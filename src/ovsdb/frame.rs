//! Cuts the stream into JSON objects. OVSDB puts no delimiter between messages, and a
//! read may end anywhere in one. Each byte is scanned once here and parsed once afterwards:
//! parsing again after every read is quadratic (1.4 s for 2.6 MB).

use std::io::{self, Read};

use super::error::Error;

/// Bytes of one message at most; a switch with 5000 ports answers with 3 MB.
const MOST: usize = 256 << 20;
/// Nesting at most; OVSDB's replies need ten levels.
const DEEPEST: u32 = 64;
const CHUNK: usize = 64 << 10;

/// The bytes received and how far they have been scanned.
#[derive(Debug)]
pub(super) struct Frames {
    buffer: Vec<u8>,
    /// Where the current message starts.
    start: usize,
    /// How far it has been scanned.
    scanned: usize,
    nesting: Nesting,
    /// Bytes of one message at most.
    most: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0, nesting: Nesting::default(), most: MOST }
    }
}

/// What the next byte is inside of.
#[derive(Debug, Default)]
struct Nesting {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Takes in a byte of a string. Returns how many bytes of `rest` surely belong to the
    /// string as well: most of a message is inside of strings.
    fn string_byte(&mut self, byte: u8, rest: &[u8]) -> usize {
        if self.escaped {
            self.escaped = false;
        } else if byte == b'"' {
            self.in_string = false;
        } else if byte == b'\\' {
            self.escaped = true;
        } else {
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            return plain.unwrap_or(rest.len());
        }
        0
    }

    /// Takes in a byte that is in no string.
    fn byte(&mut self, byte: u8) -> Result<(), Error> {
        match byte {
            b'{' | b'[' if self.depth > 0 || byte == b'{' => {
                self.depth = self.depth.saturating_add(1);
                if self.depth > DEEPEST {
                    return Err(Error::malformed(format!("nested over {DEEPEST} deep")));
                }
            }
            b'}' | b']' if self.depth > 0 => self.depth = self.depth.saturating_sub(1),
            b'"' if self.depth > 0 => self.in_string = true,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if self.depth > 0 => {}
            other => {
                return Err(Error::malformed(format!(
                    "byte {other:#04x} where a JSON object should start"
                )));
            }
        }
        Ok(())
    }
}

impl Frames {
    /// Reads once. `Ok(0)` is the end of the stream.
    pub(super) fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned = self.scanned.saturating_sub(self.start);
            self.start = 0;
        }
        let had = self.buffer.len();
        if self.buffer.capacity() == 0 {
            // Zeroed by the kernel, page by page as answers come: most are small.
            self.buffer = vec![0; CHUNK];
        }
        self.buffer.resize(had.saturating_add(CHUNK), 0);
        let read = match self.buffer.get_mut(had..) {
            Some(room) => from.read(room),
            None => Ok(0),
        };
        self.buffer.truncate(had.saturating_add(*read.as_ref().unwrap_or(&0)));
        read
    }

    /// The next whole message, if it has arrived. The next call of `fill` drops it from the
    /// buffer.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        let unseen = self.buffer.get(self.scanned..).unwrap_or_default();
        let mut bytes = unseen.iter();
        while let Some(byte) = bytes.next() {
            let rest = bytes.as_slice();
            if self.nesting.in_string {
                let plain = self.nesting.string_byte(*byte, rest);
                bytes = rest.get(plain..).unwrap_or_default().iter();
                continue;
            }
            let outside = self.nesting.depth == 0;
            self.nesting.byte(*byte)?;
            if outside == (self.nesting.depth == 0) {
                continue;
            }
            let seen = unseen.len().saturating_sub(rest.len());
            let end = self.scanned.saturating_add(seen);
            if outside {
                self.start = end.saturating_sub(1);
            } else {
                let message = self.buffer.get(self.start..end);
                self.start = end;
                self.scanned = end;
                return Ok(message);
            }
        }
        self.scanned = self.buffer.len();
        if self.nesting.depth == 0 {
            // Only white space: a peer that sends nothing else must not fill our memory.
            self.start = self.scanned;
        }
        if self.buffer.len().saturating_sub(self.start) > self.most {
            return Err(Error::malformed(format!("a message of over {} bytes", self.most)));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds pieces the way a socket would and collects the messages.
    fn split(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, Error> {
        let mut frames = Frames::default();
        let mut messages = Vec::new();
        for mut piece in pieces.iter().copied() {
            while !piece.is_empty() {
                frames.fill(&mut piece).unwrap();
                while let Some(message) = frames.next()? {
                    messages.push(message.to_vec());
                }
            }
        }
        Ok(messages)
    }

    const THREE: &[u8] = br#"{"a":"}{\"]\\","b":[{}]} {"id":null}
{"c":"\\"}"#;

    #[test]
    fn glued_messages_are_taken_apart_wherever_they_were_split() {
        let whole = split(&[THREE]).unwrap();
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[2], br#"{"c":"\\"}"#);
        for at in 0..THREE.len() {
            let (a, b) = THREE.split_at(at);
            assert_eq!(split(&[a, b]).unwrap(), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = THREE.chunks(1).collect();
        assert_eq!(split(&bytes).unwrap(), whole);
    }

    #[test]
    fn a_message_without_its_end_is_none() {
        for at in 0..THREE.len() {
            let whole = split(&[&THREE[..at]]).unwrap();
            assert!(whole.len() < 3, "cut at {at}");
        }
    }

    #[test]
    fn depth_and_garbage_are_errors() {
        let deep = [b'{'; 100];
        let error = split(&[&deep]).unwrap_err().to_string();
        assert!(error.contains("nested over 64 deep"), "{error}");
        for garbage in [&b"null"[..], b"[]", b"HTTP/1.1 400", b"}", b"\0\0\0\0", b"\"{}\""] {
            let error = split(&[garbage]).unwrap_err().to_string();
            assert!(error.contains("should start"), "{error}");
        }
    }

    #[test]
    fn white_space_does_not_accumulate() {
        let mut frames = Frames::default();
        let blank = [b' '; CHUNK];
        for _ in 0..100 {
            frames.fill(&mut &blank[..]).unwrap();
            assert!(frames.next().unwrap().is_none());
        }
        assert!(frames.buffer.len() <= 2 * CHUNK);
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let mut frames = Frames { most: 3 * CHUNK, ..Frames::default() };
        let mut endless = io::repeat(b'{').take(1).chain(io::repeat(b' '));
        let error = loop {
            frames.fill(&mut endless).unwrap();
            match frames.next() {
                Ok(message) => assert_eq!(message, None),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("a message of over 196608 bytes"), "{error}");
        assert!(frames.buffer.len() <= 4 * CHUNK + 1);
    }

    #[test]
    fn a_large_message_in_small_pieces_is_linear() {
        let mut large = br#"{"rows":["#.to_vec();
        large.resize(8 << 20, b' ');
        large.extend_from_slice(b"]}");
        let pieces: Vec<&[u8]> = large.chunks(4096).collect();
        // This thread's processor time, in nanoseconds: others may have the processor meanwhile.
        let busy = || -> u64 {
            let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            stat.split(' ').next().unwrap().parse().unwrap()
        };
        let began = busy();
        assert_eq!(split(&pieces).unwrap().len(), 1);
        // Scanning the whole buffer after each piece would be 8 GB.
        assert!(busy() - began < 5_000_000_000, "{} ns", busy() - began);
    }

    proptest! {
        #[test]
        fn never_panics(pieces in prop::collection::vec(
            prop::collection::vec(prop_oneof![
                prop::sample::select(br#"{}[]"\ ,:1a"#.to_vec()), any::<u8>(),
            ], 0..40), 0..20))
        {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = split(&pieces);
        }
    }
}
