//! Which namespaces' names the kernel has reported gone: a death judges those who had them.
//!
//! Whatever may have happened without a name is "not known", and then everybody is judged.

use std::sync::{Mutex, PoisonError};

/// More at once are not remembered by name.
const MOST: usize = 16;

/// The names since they were last taken; `None`: others may have gone, too.
#[derive(Debug)]
pub(crate) struct GoneNames(Mutex<Option<Vec<String>>>);

impl Default for GoneNames {
    /// What went before is not known.
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl GoneNames {
    /// A name is gone, or another namespace has it.
    pub(super) fn add(&self, name: &str) {
        self.change(|names| {
            if let Some(known) = names {
                if known.len() < MOST {
                    known.push(name.to_owned());
                } else {
                    *names = None;
                }
            }
        });
    }

    /// Anybody's may have gone.
    pub(super) fn lose(&self) {
        self.change(|names| *names = None);
    }

    /// Takes the names out; `None`: anybody's may have gone.
    pub(super) fn take(&self) -> Option<Vec<String>> {
        self.change(|names| names.replace(Vec::new()))
    }

    /// How many have gone since they were taken out; `None`: nobody knows.
    pub(super) fn count(&self) -> Option<usize> {
        self.change(|names| names.as_ref().map(Vec::len))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Option<Vec<String>>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_until_something_is_lost() {
        let names = GoneNames::default();
        assert_eq!(names.take(), None, "what went before the start");
        names.add("a");
        names.add("b");
        assert_eq!(names.count(), Some(2));
        assert_eq!(names.take(), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(names.take(), Some(Vec::new()));
        names.add("c");
        names.lose();
        names.add("d");
        assert_eq!((names.count(), names.take()), (None, None));
        (0..=MOST).for_each(|n| names.add(&n.to_string()));
        assert_eq!(names.take(), None, "too many");
    }
}
