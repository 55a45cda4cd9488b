//! The type 0 header (PCI Express Base 6.0, 7.5.1), register by register.

use pci::regs::{self, command};

use crate::vfio::function::policy::rule::Treatment::Emulate;
use crate::vfio::function::policy::rule::{PASS, READ_ONLY, Register, bits, register};

/// The bits of COMMAND that are the guest's. The enables of SERR# and of parity errors are the
/// host's, as those of Device Control are: either of the two lets a function report errors
/// (6.2.5). Palette snooping and fast back-to-back transactions are agreed with others on the bus.
pub const COMMAND_BITS: u16 = command::IO
    | command::MEMORY
    | command::BUS_MASTER
    | command::WRITE_INVALIDATE
    | command::INTX_DISABLE;

/// The registers of the header, without a gap.
pub const HEADER: &[Register] = &[
    register(
        regs::VENDOR,
        4,
        "vendor and device ID",
        READ_ONLY,
        "vendor and device as VFIO shows them: a virtual function's own are all ones",
    ),
    register(
        regs::COMMAND,
        2,
        "command",
        bits(COMMAND_BITS as u32),
        "COMMAND reaches the device, so that a guest can stop DMA; decoding is followed here; \
         the enables of error reports are the host's",
    )
    .behind_port(
        bits(COMMAND_BITS as u32),
        "as on bus 0; a BAR is there only while the port decodes it, in one of its windows; the \
         device masters the bus only while the port's COMMAND lets it, because the host's port \
         does not follow the guest's",
    ),
    register(
        regs::STATUS,
        2,
        "status",
        READ_ONLY,
        "STATUS: the error bits are for the host to clear",
    ),
    register(
        regs::REVISION,
        4,
        "revision and class",
        READ_ONLY,
        "revision, class",
    ),
    register(
        regs::CACHE_LINE,
        2,
        "cache line size, latency timer",
        PASS,
        "cache line size and latency timer change only the function's own requests",
    ),
    register(
        regs::HEADER_TYPE,
        1,
        "header type",
        Emulate,
        "header type: the multi-function bit follows the guest's slot",
    ),
    register(
        regs::BIST,
        1,
        "self test",
        Emulate,
        "BIST could hang the device, and answers for the host's firmware",
    ),
    register(
        regs::BAR,
        24,
        "BARs",
        Emulate,
        "BARs: the hardware's never move",
    ),
    register(
        regs::CARDBUS,
        4,
        "CardBus pointer",
        Emulate,
        "CardBus pointer: nothing there",
    ),
    register(
        regs::SUBSYSTEM,
        4,
        "subsystem IDs",
        READ_ONLY,
        "subsystem ids",
    ),
    register(
        regs::ROM,
        4,
        "expansion ROM",
        Emulate,
        "expansion ROM: as the BARs; its content is read once, through VFIO, or is a file's",
    ),
    register(
        regs::CAPABILITIES,
        4,
        "capabilities pointer",
        Emulate,
        "head of the capability chain, relinked",
    ),
    register(regs::RESERVED, 4, "reserved", Emulate, "reserved"),
    register(
        regs::INTERRUPT_LINE,
        1,
        "interrupt line",
        Emulate,
        "interrupt line: the guest's own note",
    ),
    register(
        regs::INTERRUPT_PIN,
        1,
        "interrupt pin",
        Emulate,
        "interrupt pin: the guest's, by function number, where the device has one",
    ),
    register(
        regs::MIN_GRANT,
        2,
        "minimum grant, maximum latency",
        READ_ONLY,
        "minimum grant, maximum latency",
    ),
];
