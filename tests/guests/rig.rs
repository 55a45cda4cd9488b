//! A function on a bus, with KVM but without a guest: the test accesses the bus as a vCPU would.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use pci::RootBus;
use vmm::bus::Bus;
use vmm::gsi::memory_messages::MemoryMessages;
use vmm::gsi::routing::GsiRouting;
use vmm::layout;
use vmm::layout::Layout;
use vmm::memory::AddressSpace;
use vmm::memory::dma_ready::DmaReady;
use vmm::memory::guest_memory::GuestMemory;
use vmm::memory::kvm_slots::KvmSlots;
use vmm::vfio::device::Irq;
use vmm::vfio::function::rom::RomSource;
use vmm::vfio::function::{VfioFunction, VmResources, reset};

use crate::device::{BAR0, BAR1, BAR2, FakeDevice, MSI, MSIX, PM, ROM, TABLE, VECTORS};
use crate::irq_code::ENABLE;
use crate::pci::{COMMAND, IO, MEMORY, ROM_REGISTER, SLOT, bar_register};

/// Memory slots of the device's mapped areas.
pub const AREAS: usize = 2;

/// A function on a bus, with KVM and without a guest.
pub struct Rig {
    pub device: Arc<FakeDevice>,
    function: Arc<VfioFunction>,
    pub bus: Arc<Bus>,
    root: RootBus,
    pub routing: Arc<GsiRouting>,
    pub slots: Arc<KvmSlots>,
    pub space: Arc<AddressSpace>,
    layout: Layout,
    /// Configuration space before any access.
    power_on: Vec<u8>,
}

impl Rig {
    /// With so many memory slots.
    pub fn new(device: FakeDevice, max_slots: usize) -> Self {
        Self::at(Arc::new(DmaReady::ready()), device, max_slots)
    }

    /// The same, where devices cannot reach RAM before they are ready.
    pub fn at(dma_ready: Arc<DmaReady>, device: FakeDevice, max_slots: usize) -> Self {
        let device = device.into_arc();
        let vm = Arc::new(kvm_ioctls::Kvm::new().unwrap().create_vm().unwrap());
        vm.create_irq_chip().unwrap();
        let slots = Arc::new(KvmSlots::new(vm.clone(), max_slots));
        let space = Arc::new(AddressSpace::new());
        space.subscribe(slots.clone()).unwrap();
        let resources = VmResources {
            space: space.clone(),
            bus: Arc::new(Bus::new()),
            routing: GsiRouting::new(vm, MemoryMessages::new(GuestMemory::new())).unwrap(),
            interrupt_thread: Arc::default(),
            zones: Arc::default(),
            layout: Layout::new(64 << 20, 0, 40).unwrap(),
            dma_ready,
        };
        let layout = resources.layout;
        let (bus, routing) = (resources.bus.clone(), resources.routing.clone());
        let function =
            VfioFunction::new(device.clone(), resources, RomSource::Device.into()).unwrap();
        // The pin of the IOAPIC that INTA of slot 1 leads to. No thread handles its resample
        // eventfd.
        function.connect_pin(0, 17, Weak::new());
        let mut bars = function.bars();
        let addresses = [
            (0, BAR0),
            (1, BAR1),
            (2, BAR2.into()),
            (4, 0xc001_0000),
            (6, ROM),
        ];
        for (bar, address) in addresses {
            bars.set_address(bar, address.into());
        }
        function.set_reset_bars(bars);
        let root = RootBus::new();
        root.add(SLOT, 0, function.clone()).unwrap();
        let mut rig = Self {
            device,
            function,
            bus,
            root,
            routing,
            slots,
            space,
            layout,
            power_on: Vec::new(),
        };
        rig.power_on = rig.read(0, 4096);
        rig
    }

    pub fn write(&self, offset: u16, data: &[u8]) {
        self.root.config_write(0, SLOT, 0, offset, data);
    }

    pub fn read(&self, offset: u16, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.root.config_read(0, SLOT, 0, offset, &mut data);
        data
    }

    pub fn command(&self, value: u32) {
        self.write(COMMAND, &(value as u16).to_le_bytes());
    }

    pub fn load32(&self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.bus.mmio_read(address, &mut data);
        u32::from_le_bytes(data)
    }

    /// The host wants the device back.
    pub fn release(&self) {
        self.function.release();
    }

    /// As at a guest's reboot.
    pub fn reset(&self) {
        reset::devices(std::slice::from_ref(&self.function));
        self.root.reset();
    }

    /// Checks that the device's interrupts are as the registers say.
    pub fn check_interrupts(&self) {
        let msix = self.read(MSIX + 3, 1)[0];
        let msi = self.read(MSI + 2, 1)[0];
        let (with_eventfd, msi_with_eventfd) =
            (self.device.with_eventfd(), self.device.msi_with_eventfd());
        if msix & 0x80 != 0 {
            assert_eq!(self.device.kind(), Some(Irq::Msix));
        } else if msi & 1 != 0 {
            assert_eq!(self.device.kind(), Some(Irq::Msi));
            assert_eq!(msi_with_eventfd.len(), 1 << (msi >> 4 & 7));
            assert_eq!(self.routing.in_use(), msi_with_eventfd.len());
        } else {
            // The pin, unless the host refused it.
            assert!(matches!(self.device.kind(), Some(Irq::Intx) | None));
            assert_eq!(self.routing.in_use(), 0);
        }
        let on = msix & 0xc0 == 0x80;
        let bar0 = self.read(bar_register(0), 4);
        let bar0 = u32::from_le_bytes(bar0.try_into().unwrap());
        // The table can be read while BAR 0 has its first address.
        if on && bar0 == BAR0 && self.slots.in_use() > 0 {
            for entry in 0..VECTORS {
                let control = self.load32(u64::from(TABLE + 16 * entry + 12));
                let live = control & 1 == 0;
                assert!(!live || with_eventfd.contains(&entry), "vector {entry}");
            }
        }
    }

    /// Checks that the device answers at the addresses in the registers.
    pub fn check_decoding(&self) {
        let dword = |offset| u32::from_le_bytes(self.read(offset, 4).try_into().unwrap());
        let in_d0 = dword(PM + 4) & 3 == 0;
        let enabled = |bit| in_d0 && dword(COMMAND) & bit != 0;
        let rom = dword(ROM_REGISTER);
        // Index, size, and the address with the kind's bits cut off; the ROM is the last.
        let memory = [
            (0u16, 0x4000u64, u64::from(dword(0x10) & !15)),
            (1, 0x100, u64::from(dword(0x14) & !15)),
            (
                4,
                0x1_0000,
                u64::from(dword(0x24)) << 32 | u64::from(dword(0x20) & !15),
            ),
            (6, 0x2000, u64::from(rom & !0x7ff)),
        ];
        for (bar, size, address) in memory {
            let apart = |(other, other_size, at): &(u16, u64, u64)| {
                *other == bar
                    || address.saturating_add(size) <= *at
                    || at.saturating_add(*other_size) <= address
            };
            // Of two BARs that overlap, either may be the one that is not decoded.
            if !self.layout.allows_bar(address, size) || !memory.iter().all(apart) {
                continue;
            }
            let magic = 0x600d_0000 | u32::from(bar);
            self.device.poke(bar.into(), 0x40, magic);
            let on = enabled(MEMORY) && (bar != 6 || rom & 1 == 1);
            let expected = if on { magic } else { u32::MAX };
            assert_eq!(
                self.load32(address + 0x40),
                expected,
                "BAR {bar} at {address:#x}"
            );
        }
        let port = dword(0x18) & !3;
        if let Ok(port) = u16::try_from(port)
            && port >= layout::PCI_IO_START
        {
            self.device.poke(2, 0x10, 0x600d);
            let expected = if enabled(IO) { 0x600d } else { u32::MAX };
            let mut data = [0; 4];
            self.bus.pio_read(port + 0x10, &mut data);
            assert_eq!(u32::from_le_bytes(data), expected, "ports at {port:#x}");
        }
    }

    /// Checks that a reset undoes everything, and that the device works afterwards.
    pub fn check_reset(&self) {
        self.device.set_available_msi(32);
        self.device.failing_events.store(0, Ordering::Relaxed);
        self.reset();
        self.check_interrupts();
        assert_eq!(self.slots.in_use(), 0, "memory slots");
        assert_eq!(self.routing.in_use(), 0, "GSIs");
        assert_eq!(self.device.with_eventfd(), [] as [u32; 0]);
        assert_eq!(self.load32(BAR1.into()), u32::MAX);
        assert_eq!(self.read(0, 4096), self.power_on);

        self.command(MEMORY);
        assert_eq!(self.slots.in_use(), AREAS);
        self.device.poke(1, 0x20, 0x600d);
        assert_eq!(self.load32(u64::from(BAR1) + 0x20), 0x600d);
        self.write(MSIX + 2, &(ENABLE as u16).to_le_bytes());
        let table = u64::from(BAR0) + 0x2000;
        for entry in 0..u64::from(VECTORS) {
            assert_eq!(
                self.load32(table + entry * 16 + 12),
                1,
                "vector {entry} is masked"
            );
            self.bus.mmio_write(table + entry * 16 + 12, &[0; 4]);
        }
        let vectors = self.device.host_vectors() as usize;
        assert_eq!(self.device.with_eventfd().len(), vectors);
        assert_eq!(self.routing.in_use(), vectors);
        self.check_interrupts();
        self.reset();
        assert_eq!((self.slots.in_use(), self.routing.in_use()), (0, 0));
    }
}
