//! Groups, as the switch describes them: what their buckets do.

use crate::openflow::codec::hello::Version;
#[cfg(test)]
use crate::openflow::codec::wire::short;
use crate::openflow::codec::wire::{Layout as _, Reader, layout};
use crate::openflow::error::Malformed;

layout! {
    /// `struct ofp11_group_desc_stats`, `struct ofp15_group_desc_stats`. In 1.5 the group's
    /// properties are behind its buckets.
    struct Group { length: u16, buckets_length: u16 }
    V13 | V14 => length [6];
    V15 => length [6], buckets_length [6];
}

layout! {
    /// `struct ofp11_bucket`, `struct ofp15_bucket`. In 1.5 the bucket's properties are behind its
    /// actions.
    struct Bucket { length: u16, actions_length: u16 }
    V13 | V14 => length [14];
    V15 => length, actions_length [4];
}

/// Reads one group; `each` gets the actions of each of its buckets.
pub(crate) fn read(
    version: Version,
    r: &mut Reader<'_>,
    each: &mut dyn FnMut(&[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut buckets = r.counted("group")?;
    let group = Group::read(version, &mut buckets)?;
    if version == Version::V15 {
        buckets = buckets.sub(group.buckets_length.into(), "group's buckets")?;
    }
    while !buckets.is_empty() {
        let mut actions = buckets.counted("bucket")?;
        let bucket = Bucket::read(version, &mut actions)?;
        if version == Version::V15 {
            actions = actions.sub(bucket.actions_length.into(), "bucket's actions")?;
        }
        each(actions.rest())?;
    }
    Ok(())
}

/// Appends a group with these actions in its buckets.
#[cfg(test)]
pub(crate) fn write(
    version: Version,
    buckets: &[Vec<u8>],
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let head = if version == Version::V15 { 16 } else { 8 };
    let each = if version == Version::V15 { 8 } else { 16 };
    let lengths = buckets.iter().map(|actions| short(actions.len() + each));
    let lengths = lengths.collect::<Result<Vec<u16>, _>>()?;
    let buckets_length = lengths.iter().sum::<u16>();
    Group { length: buckets_length + head, buckets_length }.write(version, out);
    for (actions, length) in buckets.iter().zip(lengths) {
        Bucket { length, actions_length: short(actions.len())? }.write(version, out);
        out.extend(actions);
    }
    Ok(())
}
