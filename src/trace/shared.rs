//! What several threads share, as descriptors and memory are shared, and fork(2) copies.

use std::collections::HashMap;

/// One of the shared values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u32);

/// All shared values of a kind, each as long as a thread uses it.
#[derive(Debug, Default)]
pub struct Shared<T> {
    values: HashMap<Id, (u32, T)>,
    next: u32,
}

impl<T: Clone + Default> Shared<T> {
    /// A new value with one user.
    pub fn add(&mut self, value: T) -> Id {
        self.next += 1;
        self.values.insert(Id(self.next), (1, value));
        Id(self.next)
    }

    /// One user more.
    pub fn add_user(&mut self, id: Id) -> Id {
        if let Some((users, _)) = self.values.get_mut(&id) {
            *users += 1;
        }
        id
    }

    /// A copy with one user.
    pub fn copy(&mut self, id: Id) -> Id {
        let value = self.values.get(&id).map(|(_, value)| value.clone());
        self.add(value.unwrap_or_default())
    }

    /// One user less.
    pub fn leave(&mut self, id: Id) {
        if let Some((users, _)) = self.values.get_mut(&id) {
            *users -= 1;
            if *users == 0 {
                self.values.remove(&id);
            }
        }
    }

    /// The value.
    pub fn get(&mut self, id: Id) -> Option<&mut T> {
        self.values.get_mut(&id).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_goes_with_its_last_user() {
        let mut shared = Shared::default();
        let first = shared.add(vec![1]);
        shared.add_user(first);
        let copy = shared.copy(first);
        shared.get(copy).unwrap().push(2);
        shared.leave(first);
        assert_eq!(shared.get(first), Some(&mut vec![1]));
        shared.leave(first);
        assert_eq!(shared.get(first), None);
        assert_eq!(shared.get(copy), Some(&mut vec![1, 2]));
    }
}
