//! What the headers say.

use std::collections::HashMap;

use crate::declared::{Kind, Types};
use crate::expression::Names;
use crate::layout::{self, Layout};
use crate::preprocess::Macros;

/// What the headers say.
#[derive(Debug, Default)]
pub struct Headers {
    /// Macros without parameters, in the headers' order.
    pub macros: Macros,
    /// Structures, unions and enumerations.
    pub types: Types,
}

impl Headers {
    /// The layouts of all structures and unions.
    ///
    /// # Errors
    /// A structure has a type that is not known.
    pub fn layouts(&self) -> Result<HashMap<&str, Layout>, String> {
        layout::of(&self.types)
    }

    /// The value of a constant.
    pub fn constant(&self, name: &str) -> Option<u64> {
        let names = Names {
            macros: &self.macros,
            types: &self.types,
        };
        names.named(name)
    }

    /// Whether a name is that of a structure or a union with a name of its own in C, and which.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        let mut records = self.types.records.iter();
        let found = records.find(|record| record.name == name && !name.contains('.'));
        found.map(|record| record.kind)
    }
}
