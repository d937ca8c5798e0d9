//! Lists that are indexed by a type of their own: the place of somebody in one list is nobody's
//! in another.

use std::marker::PhantomData;
use std::slice::{Iter, IterMut};
use std::vec::IntoIter;

/// A place in a [`Table`].
pub trait Id: Copy {
    /// The place of this number, from 0.
    fn of(index: usize) -> Self;
    /// Its number.
    fn index(self) -> usize;
}

/// A list that is indexed by `I`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<I, T> {
    items: Vec<T>,
    id: PhantomData<I>,
}

impl<I: Id, T> Table<I, T> {
    /// Adds an item and says its place.
    pub fn add(&mut self, item: T) -> I {
        self.items.push(item);
        I::of(self.items.len() - 1)
    }

    /// Room for so many more items.
    pub fn reserve(&mut self, more: usize) {
        self.items.reserve(more);
    }

    /// The item at a place.
    #[must_use]
    pub fn get(&self, id: I) -> Option<&T> {
        self.items.get(id.index())
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: I) -> Option<&mut T> {
        self.items.get_mut(id.index())
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The items with their places.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> + Clone {
        self.items.iter().enumerate().map(|(index, item)| (I::of(index), item))
    }

    /// The places.
    pub fn ids(&self) -> impl Iterator<Item = I> + use<I, T> {
        (0..self.items.len()).map(I::of)
    }

    /// The items.
    pub fn values(&self) -> Iter<'_, T> {
        self.items.iter()
    }

    /// The same, to be changed.
    pub fn values_mut(&mut self) -> IterMut<'_, T> {
        self.items.iter_mut()
    }

    /// The items, taken out.
    pub fn into_values(self) -> IntoIter<T> {
        self.items.into_iter()
    }

    /// A list of the same places, with something of each item.
    #[must_use]
    pub fn map<U>(&self, mut of: impl FnMut(I, &T) -> U) -> Table<I, U> {
        self.iter().map(|(id, item)| of(id, item)).collect()
    }
}

impl<I, T> Default for Table<I, T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<I, T> From<Vec<T>> for Table<I, T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, id: PhantomData }
    }
}

impl<I, T> FromIterator<T> for Table<I, T> {
    fn from_iter<O: IntoIterator<Item = T>>(items: O) -> Self {
        Vec::from_iter(items).into()
    }
}

/// Tests make and change lists by hand.
#[cfg(test)]
impl<I, T> std::ops::Deref for Table<I, T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.items
    }
}

#[cfg(test)]
impl<I, T> std::ops::DerefMut for Table<I, T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.items
    }
}
