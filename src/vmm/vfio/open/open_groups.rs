//! The files of all open groups of a guest, whichever container they have joined.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The files, by the numbers of the groups.
#[derive(Default)]
pub(super) struct OpenGroups(Mutex<HashMap<u32, Weak<File>>>);

impl OpenGroups {
    /// Adds the file of a group.
    pub fn add(&self, number: u32, file: &Arc<File>) {
        self.files().insert(number, Arc::downgrade(file));
    }

    /// The file of a group, unless it is closed.
    pub fn file(&self, number: u32) -> Option<Arc<File>> {
        self.files().get(&number)?.upgrade()
    }

    fn files(&self) -> MutexGuard<'_, HashMap<u32, Weak<File>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
