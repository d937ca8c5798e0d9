//! Records of attachments, to be handed on: a copy of the list copies no record.

use std::sync::Arc;

use super::attachment::Attachment;

/// A list of records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records(Vec<Arc<Attachment>>);

type Deref = fn(&Arc<Attachment>) -> &Attachment;

/// The records of a list.
pub type Iter<'r> = std::iter::Map<std::slice::Iter<'r, Arc<Attachment>>, Deref>;

impl Records {
    /// The records.
    pub fn iter(&self) -> Iter<'_> {
        self.0.iter().map(Arc::as_ref as Deref)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The record at a place.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Attachment> {
        self.0.get(index).map(Arc::as_ref)
    }

    /// The record at a place, to be kept.
    #[must_use]
    pub fn shared(&self, index: usize) -> Option<&Arc<Attachment>> {
        self.0.get(index)
    }

    /// Puts another record in the place of one.
    pub fn replace(&mut self, index: usize, record: Attachment) {
        if let Some(place) = self.0.get_mut(index) {
            *place = Arc::new(record);
        }
    }

    /// Adds a record.
    pub fn push(&mut self, record: impl Into<Arc<Attachment>>) {
        self.0.push(record.into());
    }

    /// Adds those of another list.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// Keeps those that are wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&Attachment) -> bool) {
        self.0.retain(|record| wanted(record));
    }

    /// Sorts by key and generation.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| (&a.key, a.generation).cmp(&(&b.key, b.generation)));
    }

    /// Where a record is in a sorted list, by how each compares to it.
    pub fn place_of(
        &self,
        mut compare: impl FnMut(&Attachment) -> std::cmp::Ordering,
    ) -> Option<usize> {
        self.0.binary_search_by(|record| compare(record)).ok()
    }
}

impl<'r> IntoIterator for &'r Records {
    type Item = &'r Attachment;
    type IntoIter = Iter<'r>;

    fn into_iter(self) -> Iter<'r> {
        self.iter()
    }
}

impl IntoIterator for Records {
    type Item = Arc<Attachment>;
    type IntoIter = std::vec::IntoIter<Arc<Attachment>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<Vec<Attachment>> for Records {
    fn from(records: Vec<Attachment>) -> Self {
        records.into_iter().collect()
    }
}

impl FromIterator<Attachment> for Records {
    fn from_iter<I: IntoIterator<Item = Attachment>>(records: I) -> Self {
        Self(records.into_iter().map(Arc::new).collect())
    }
}

impl Extend<Attachment> for Records {
    fn extend<I: IntoIterator<Item = Attachment>>(&mut self, records: I) {
        self.0.extend(records.into_iter().map(Arc::new));
    }
}

impl std::ops::Index<usize> for Records {
    type Output = Attachment;

    fn index(&self, index: usize) -> &Attachment {
        self.0.index(index)
    }
}

/// Tests compare and change lists by hand.
#[cfg(test)]
impl PartialEq<Vec<Attachment>> for Records {
    fn eq(&self, other: &Vec<Attachment>) -> bool {
        self.iter().eq(other)
    }
}

#[cfg(test)]
impl<const N: usize> PartialEq<[Attachment; N]> for Records {
    fn eq(&self, other: &[Attachment; N]) -> bool {
        self.iter().eq(other)
    }
}

#[cfg(test)]
impl<'r> IntoIterator for &'r mut Records {
    type Item = &'r mut Attachment;
    type IntoIter = std::vec::IntoIter<&'r mut Attachment>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut().map(Arc::make_mut).collect::<Vec<_>>().into_iter()
    }
}
