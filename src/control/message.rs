//! What a message of MSI or MSI-X means to the local APICs (Intel SDM, volume 3, 12.11 "Message
//! Signalled Interrupts"; AMD APM, volume 2, 16.6).

use serde::Serialize;
use vmm::gsi::memory_messages::is_interrupt;

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
    /// Decodes a message; `None` if it is no interrupt, but a write to memory, as the message of an
    /// entry that the guest has not written.
    pub fn decode(message: pci::Message) -> Option<Self> {
        if !is_interrupt(message) {
            return None;
        }
        let (address, data) = (message.address, message.data);
        Some(Self {
            destination: (address >> 12 & 0xff) as u32,
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
        assert_eq!(message(0x0100_fee0_0000, 0x41), None);
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
            destination: 2,
            logical: true,
            redirection_hint: true,
            delivery: "lowest-priority",
            interrupt: 0xef,
            level: true,
        };
        assert_eq!(message(0xfee0_200c, 0x81ef), Some(other));
    }
}
