//! What ACPI tables and AML objects have in common.

use acpi_tables::Aml;

/// The OEM's name, the same in the header of every table (ACPI 6.5, 5.2.6).
pub(super) const OEM_ID: [u8; 6] = *b"MINVMM";
/// The OEM's name for the machine.
pub(super) const OEM_TABLE_ID: [u8; 8] = *b"MINIVMM ";
/// The revision of the machine.
pub(super) const OEM_REVISION: u32 = 1;

/// The bytes of a table or an AML object.
pub(super) fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}
