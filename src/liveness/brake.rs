//! The brake: when much of a node seems to die at once, it is the source that is ill.

use super::Source;

/// So many may always die at once: a drained node is no emergency.
const ALWAYS: usize = 10;

/// The source on whose word more than ten attachments, and more than half of the node's,
/// would die at once; `None`: go ahead. When it is pulled, nothing is deleted until another
/// source agrees or an operator says so (`sweep --yes`).
///
/// `total` counts the node's records that are not tombstones, the dying included; `dying`
/// those which a single source calls dead ([`Judged::dead_by`](super::Judged::dead_by) has
/// one element). Entries of one source are added up.
#[must_use]
pub fn brake(total: usize, dying: &[(Source, usize)]) -> Option<Source> {
    dying.iter().map(|(source, _)| *source).find(|source| {
        let mine = dying.iter().filter(|(s, _)| s == source);
        let count = mine.fold(0usize, |sum, (_, n)| sum.saturating_add(*n));
        count > ALWAYS && count > total / 2
    })
}

#[cfg(test)]
mod tests {
    use super::Source::{Cri, Netns};
    use super::*;

    #[test]
    fn more_than_ten_and_more_than_half() {
        type Case = (usize, &'static [(Source, usize)], Option<Source>);
        let cases: &[Case] = &[
            (0, &[], None),
            (10, &[(Netns, 10)], None),
            (11, &[(Netns, 11)], Some(Netns)),
            (20, &[(Netns, 11)], Some(Netns)),
            (21, &[(Netns, 11)], Some(Netns)),
            (22, &[(Netns, 11)], None),
            (250, &[(Netns, 125)], None),
            (250, &[(Netns, 126)], Some(Netns)),
            (20, &[(Netns, 6), (Cri, 6)], None),
            (20, &[(Netns, 6), (Cri, 12)], Some(Cri)),
            (20, &[(Netns, 6), (Netns, 6)], Some(Netns)),
            (0, &[(Netns, usize::MAX), (Netns, 1)], Some(Netns)),
        ];
        for (total, dying, pulled) in cases {
            assert_eq!(brake(*total, dying), *pulled, "{total} {dying:?}");
        }
    }
}
