//! Types that the headers declare.

use std::collections::HashMap;

/// The types that have been read.
#[derive(Debug, Default)]
pub struct Types {
    /// Structures and unions, in the headers' order.
    pub records: Vec<Record>,
    /// Enumerations in the headers' order, each with the names of its constants. One without a
    /// name of its own has the name of its first constant.
    pub enums: Vec<(String, Vec<String>)>,
    /// The constants of enumerations.
    pub constants: HashMap<String, u64>,
}

/// A structure or a union.
#[derive(Debug)]
pub struct Record {
    /// Its name. That of one without a name is the outer record's, a dot, and the member's.
    pub name: String,
    /// Structure or union.
    pub kind: Kind,
    /// The members.
    pub members: Vec<Member>,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its members follow each other.
    Struct,
    /// Its members have the same offset.
    Union,
}

/// A member of a record.
#[derive(Debug)]
pub struct Member {
    /// The name; none if the members of the member's type are reached without one.
    pub name: Option<String>,
    /// The type of an element.
    pub base: Base,
    /// The lengths of the array's dimensions; `None` for a length that the structure does not say.
    pub lengths: Vec<Option<u64>>,
    /// The width of a bit field.
    pub bits: Option<u64>,
}

/// A type without arrays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// A number: the table's name for it, and its size.
    Number(&'static str, u64),
    /// A structure or a union.
    Record(String),
}
