//! Names of class codes (PCI Code and ID Assignment Specification 1.11, 1.1 to 1.20).

/// A few words for a class code; a device of no known class is a "device".
pub fn class_name(class: u32) -> &'static str {
    let [_, base, sub, interface] = class.to_be_bytes();
    match (base, sub, interface) {
        (0x01, 0x00, _) => "SCSI controller",
        (0x01, 0x01, _) => "IDE controller",
        (0x01, 0x04, _) => "RAID controller",
        (0x01, 0x06, _) => "SATA controller",
        (0x01, 0x07, _) => "SAS controller",
        (0x01, 0x08, 0x02) => "NVMe controller",
        (0x01, _, _) => "storage controller",
        (0x02, 0x00, _) => "Ethernet controller",
        (0x02, 0x07, _) => "InfiniBand controller",
        (0x02, _, _) => "network controller",
        (0x03, 0x00, _) => "VGA display",
        (0x03, 0x02, _) => "3D controller",
        (0x03, _, _) => "display",
        (0x04, 0x00, _) => "video device",
        (0x04, 0x01 | 0x03, _) => "audio device",
        (0x04, _, _) => "multimedia device",
        (0x05, _, _) => "memory controller",
        (0x06, 0x00, _) => "host bridge",
        (0x06, 0x01, _) => "ISA bridge",
        (0x06, 0x04, _) => "PCI bridge",
        (0x06, _, _) => "bridge",
        (0x07, 0x00, _) => "serial port",
        (0x07, _, _) => "communication controller",
        (0x08, 0x05, _) => "SD host controller",
        (0x08, 0x06, _) => "IOMMU",
        (0x08, _, _) => "system peripheral",
        (0x09, _, _) => "input device",
        (0x0b, _, _) => "processor",
        (0x0c, 0x03, 0x30) => "USB controller (xHCI)",
        (0x0c, 0x03, 0x40) => "USB4 controller",
        (0x0c, 0x03, _) => "USB controller",
        (0x0c, 0x05, _) => "SMBus",
        (0x0c, _, _) => "serial bus controller",
        (0x0d, _, _) => "wireless controller",
        (0x10, _, _) => "encryption controller",
        (0x11, _, _) => "signal processor",
        (0x12, _, _) => "accelerator",
        _ => "device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_most_exact_to_none() {
        assert_eq!(class_name(0x010802), "NVMe controller");
        assert_eq!(class_name(0x010801), "storage controller");
        assert_eq!(class_name(0x0c0330), "USB controller (xHCI)");
        assert_eq!(class_name(0xff0000), "device");
    }
}
