//! What a message of MSI or MSI-X means to the local APICs (Intel SDM, volume 3, 12.11 "Message
//! Signalled Interrupts"; AMD APM, volume 2, 16.6).

use serde::Serialize;

/// A decoded message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The APIC ID of the processor, or a set of logical processors.
    destination: u32,
    logical: bool,
    /// The message may go to any one of the processors.
    redirection_hint: bool,
    delivery: &'static str,
    /// The number of the interrupt in the processor's table.
    interrupt: u8,
    level: bool,
}

impl Message {
    /// Decodes a message; `None` if its address is not that of the local APICs, as that of an entry
    /// that the guest has not written.
    pub fn decode(message: pci::Message) -> Option<Self> {
        let (address, data) = (message.address, message.data);
        if address & 0xfff0_0000 != 0xfee0_0000 {
            return None;
        }
        // With X2APIC_API of KVM, bits 63:40 of the address have the upper bits of the ID
        // (api.rst, 7.9 KVM_CAP_X2APIC_API).
        let low = (address >> 12 & 0xff) as u32;
        let high = (address >> 40) as u32;
        Some(Self {
            destination: high << 8 | low,
            redirection_hint: address & 1 << 3 != 0,
            logical: address & 1 << 2 != 0,
            delivery: match data >> 8 & 7 {
                0 => "fixed",
                1 => "lowest-priority",
                2 => "smi",
                4 => "nmi",
                5 => "init",
                7 => "extint",
                _ => "reserved",
            },
            interrupt: data as u8,
            level: data & 1 << 15 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_decoded() {
        let message = |address, data| Message::decode(pci::Message { address, data });
        assert_eq!(message(0, 0), None);
        assert_eq!(message(0xfed0_0000, 0x41), None);
        let plain = Message {
            destination: 3,
            logical: false,
            redirection_hint: false,
            delivery: "fixed",
            interrupt: 0x41,
            level: false,
        };
        assert_eq!(message(0xfee0_3000, 0x4041), Some(plain.clone()));
        let other = Message {
            destination: 0x102,
            logical: true,
            redirection_hint: true,
            delivery: "lowest-priority",
            interrupt: 0xef,
            level: true,
        };
        assert_eq!(message(0x0100_fee0_200c, 0x81ef), Some(other));
    }
}
