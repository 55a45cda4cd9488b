//! What a field means.

/// Which way a field goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// When the program hands the field to the kernel.
    pub enters: When,
    /// When the kernel writes the field.
    pub leaves: When,
    /// Whether the kernel writes the field also when the call fails.
    pub fails: Fails,
}

/// With which errors a field is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fails {
    /// With none.
    #[default]
    Never,
    /// With this one.
    With(i64),
    /// With each.
    Any,
}

/// When something is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Never.
    #[default]
    Never,
    /// Always.
    Always,
    /// If a field of the same structure has one of these bits.
    Bits(&'static str, u64),
}

/// Numbers with their names.
pub type Names = Vec<(u64, &'static str)>;

/// The form of a field.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Form {
    /// By its type: hexadecimal, signed, bytes or a structure.
    #[default]
    Plain,
    /// Hexadecimal, also for a signed type.
    Hex,
    /// Decimal.
    Decimal,
    /// Decimal with a sign, also for an unsigned type.
    Signed,
    /// Characters up to a zero.
    Text,
    /// Bytes.
    Bytes,
    /// An address of the program.
    Pointer,
    /// A descriptor of the program.
    Descriptor,
    /// An id of an object of the iommufd.
    Object,
    /// Another field says more.
    Skip,
    /// Single bits with names, and the names of the number in the bits of a mask.
    Flags(Names, u64, Names),
    /// One of several names.
    Enum(Names),
    /// The first element of an array has the form.
    First(Box<Form>),
    /// An array with a length.
    Count(Length, Box<Form>),
    /// A pointer to elements.
    To(Target),
    /// Bytes that are elements of another type.
    As(Target),
    /// The member of a union.
    Member(&'static str),
    /// By the bits of another field.
    By(&'static str, u64),
    /// The offset of a chain of capabilities, with the names of their ids.
    Chain(Names),
}

/// Elements of a type.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The name of the type.
    pub base: &'static str,
    /// How many there are; one if not given.
    pub length: Option<Length>,
    /// The form of each.
    pub form: Box<Form>,
}

/// How many elements there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many.
    Number(u64),
    /// As another field says, without the first number, divided by the second.
    Field(&'static str, u64, u64),
}

/// A line of fields.txt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Which way the field goes; as the structure around it if not given.
    pub way: Option<Way>,
    /// What the field means.
    pub form: Form,
}
