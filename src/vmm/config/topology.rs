//! The topology of the vCPUs, sockets of cores of threads, and their APIC IDs.

use std::fmt;

/// The highest APIC ID. KVM's IOAPIC and a message's address have eight bits for it, of which 255
/// is the broadcast (SDM volume 3A, 11.6.2.1 and 11.11.1). Linux takes no processor with a higher
/// ID online unless messages have more bits (KVM_FEATURE_MSI_EXT_DEST_ID), which KVM's IOAPIC does
/// not have.
pub const MAX_APIC_ID: u32 = 254;

/// The most vCPUs: one for each APIC ID.
pub const MAX_CPUS: u32 = MAX_APIC_ID + 1;

/// Sockets, cores of each socket and threads of each core: 1 to [`MAX_CPUS`] vCPUs in all.
///
/// vCPU numbers count the threads of a core first, then the cores of a socket, then the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    sockets: u32,
    cores: u32,
    threads: u32,
}

/// The default is one vCPU.
impl Default for Topology {
    fn default() -> Self {
        Self {
            sockets: 1,
            cores: 1,
            threads: 1,
        }
    }
}

/// The parts of a topology that the user gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Sockets.
    pub sockets: Option<u32>,
    /// Cores of each socket.
    pub cores: Option<u32>,
    /// Threads of each core.
    pub threads: Option<u32>,
}

/// The reason why a topology is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Not 1 to [`MAX_CPUS`].
    #[error("{0} is not a number of vCPUs from 1 to {MAX_CPUS}")]
    Count(u32),
    /// The product of the parts is not the number of vCPUs.
    #[error("{cpus} vCPU{} cannot have {wish}", plural(*cpus))]
    Product {
        /// Number of vCPUs.
        cpus: u32,
        /// The parts that the user gave.
        wish: Wish,
    },
    /// Sockets and cores have bits of their own in an APIC ID, and these are too many bits.
    #[error(
        "{cpus} vCPUs with {parts} need APIC IDs up to {last}, and the guest's interrupt \
         controllers reach no ID above {MAX_APIC_ID}"
    )]
    ApicId {
        /// Number of vCPUs.
        cpus: u32,
        /// All parts of the topology.
        parts: Wish,
        /// The last vCPU's ID.
        last: u32,
    },
}

impl TopologyError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Count(_) => format!("give the guest fewer, for example --cpus {MAX_CPUS}"),
            Self::Product { .. } => "sockets, cores and threads multiply to the vCPUs, \
                 for example --cpus 4,sockets=1,cores=2,threads=2"
                .into(),
            Self::ApicId { cpus, .. } => format!(
                "IDs have no gaps where cores and threads are powers of two, or with --cpus {cpus} \
                 alone"
            ),
        }
    }
}

impl Topology {
    /// Makes the topology of `cpus` vCPUs. The parts that the user did not give are filled in as
    /// QEMU's `-smp` does: threads and sockets are 1, and the number of cores is computed. If cores
    /// are given, the number of sockets is computed. If cores and sockets are given, the number of
    /// threads is computed.
    ///
    /// # Errors
    /// The product of the parts is not `cpus`, `cpus` is not 1 to [`MAX_CPUS`], or an APIC ID is
    /// above [`MAX_APIC_ID`].
    pub fn new(cpus: u32, wish: Wish) -> Result<Self, TopologyError> {
        if !(1..=MAX_CPUS).contains(&cpus) {
            return Err(TopologyError::Count(cpus));
        }
        let error = || TopologyError::Product { cpus, wish };
        let rest = |of: u32, with: u32| {
            let product = of.checked_mul(with)?;
            cpus.checked_div(product)
        };
        let topology = match (wish.sockets, wish.cores, wish.threads) {
            (sockets, None, threads) => {
                let (sockets, threads) = (sockets.unwrap_or(1), threads.unwrap_or(1));
                let cores = rest(sockets, threads);
                cores.map(|cores| (sockets, cores, threads))
            }
            (None, Some(cores), threads) => {
                let threads = threads.unwrap_or(1);
                rest(cores, threads).map(|sockets| (sockets, cores, threads))
            }
            (Some(sockets), Some(cores), None) => {
                rest(sockets, cores).map(|threads| (sockets, cores, threads))
            }
            (Some(sockets), Some(cores), Some(threads)) => Some((sockets, cores, threads)),
        };
        let (sockets, cores, threads) = topology.ok_or_else(error)?;
        let product = sockets
            .checked_mul(cores)
            .and_then(|n| n.checked_mul(threads));
        if product != Some(cpus) {
            return Err(error());
        }
        let topology = Self {
            sockets,
            cores,
            threads,
        };
        let last = topology.id_bits(cpus - 1);
        if last > MAX_APIC_ID {
            let parts = Wish {
                sockets: Some(sockets),
                cores: Some(cores),
                threads: Some(threads),
            };
            return Err(TopologyError::ApicId { cpus, parts, last });
        }
        Ok(topology)
    }

    /// Number of vCPUs.
    pub fn cpus(&self) -> u32 {
        self.sockets * self.threads_per_socket()
    }

    /// Threads of each core.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Threads of all cores of a socket.
    pub fn threads_per_socket(&self) -> u32 {
        self.cores * self.threads
    }

    /// How many of an APIC ID's bits number the threads of a core: the lowest bits.
    pub fn thread_bits(&self) -> u32 {
        bits(self.threads)
    }

    /// How many bits number the cores of a socket: the bits above those of the threads.
    pub fn core_bits(&self) -> u32 {
        bits(self.cores)
    }

    /// How many bits number threads and cores; all bits above number the sockets.
    pub fn socket_shift(&self) -> u32 {
        self.core_bits() + self.thread_bits()
    }

    /// A vCPU's socket, from 0.
    pub fn socket(&self, vcpu: u32) -> u32 {
        vcpu / self.threads_per_socket()
    }

    /// A vCPU's core within its socket, from 0.
    pub fn core(&self, vcpu: u32) -> u32 {
        vcpu % self.threads_per_socket() / self.threads
    }

    /// A vCPU's thread within its core, from 0.
    pub fn thread(&self, vcpu: u32) -> u32 {
        vcpu % self.threads
    }

    /// The vCPU's APIC ID. Socket, core and thread have bits of their own, so that software
    /// separates them by shifts (SDM volume 3A, 9.9.1 and 9.9.3; AMD APM volume 3, appendix E.5).
    /// Where one of the numbers is not a power of two, some ids stay unused.
    ///
    /// An id fits in 8 bits, because [`Topology::new`] refuses any id above [`MAX_APIC_ID`].
    pub fn apic_id(&self, vcpu: u32) -> u8 {
        self.id_bits(vcpu) as u8
    }

    fn id_bits(&self, vcpu: u32) -> u32 {
        self.socket(vcpu) << self.socket_shift()
            | self.core(vcpu) << self.thread_bits()
            | self.thread(vcpu)
    }

    /// The APIC IDs of all vCPUs, in order.
    pub fn apic_ids(&self) -> impl Iterator<Item = u8> {
        let topology = *self;
        (0..self.cpus()).map(move |vcpu| topology.apic_id(vcpu))
    }
}

/// The width in bits of a field with `count` different values.
fn bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Prints `2 sockets, 3 cores each and 1 thread a core`.
impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.sockets, "socket", ""),
            (self.cores, "core", " a socket"),
            (self.threads, "thread", " a core"),
        ];
        let parts: Vec<_> = parts
            .into_iter()
            .filter_map(|(count, what, of)| {
                let count = count?;
                Some(format!("{count} {what}{}{of}", plural(count)))
            })
            .collect();
        match parts.split_last() {
            Some((last, rest)) if !rest.is_empty() => {
                write!(f, "{} and {last}", rest.join(", "))
            }
            _ => f.write_str(&parts.concat()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(numbers: [u32; 3]) -> Wish {
        let [sockets, cores, threads] = numbers.map(|n| (n > 0).then_some(n));
        Wish {
            sockets,
            cores,
            threads,
        }
    }

    #[test]
    fn what_is_left_open() {
        // vCPUs; given sockets, cores and threads, 0 for not given; resulting sockets, cores and
        // threads.
        for (cpus, asked, there) in [
            (1, [0, 0, 0], [1, 1, 1]),
            (6, [0, 0, 0], [1, 6, 1]),
            (4, [0, 0, 2], [1, 2, 2]),
            (4, [2, 0, 0], [2, 2, 1]),
            (8, [2, 0, 2], [2, 2, 2]),
            (4, [0, 2, 0], [2, 2, 1]),
            (12, [0, 3, 2], [2, 3, 2]),
            (8, [2, 2, 0], [2, 2, 2]),
            (8, [2, 2, 2], [2, 2, 2]),
            (64, [64, 0, 0], [64, 1, 1]),
            (64, [1, 1, 0], [1, 1, 64]),
            (255, [0, 0, 0], [1, 255, 1]),
            (255, [255, 0, 0], [255, 1, 1]),
        ] {
            let made = Topology::new(cpus, wish(asked)).unwrap();
            let Topology {
                sockets,
                cores,
                threads,
            } = made;
            assert_eq!([sockets, cores, threads], there, "{cpus} {asked:?}");
            assert_eq!(made.cpus(), cpus);
        }
    }

    #[test]
    fn what_does_not_divide() {
        for (cpus, asked, message) in [
            (3, [0, 0, 2], "3 vCPUs cannot have 2 threads a core"),
            (
                4,
                [2, 3, 0],
                "4 vCPUs cannot have 2 sockets and 3 cores a socket",
            ),
            (
                4,
                [1, 2, 1],
                "4 vCPUs cannot have 1 socket, 2 cores a socket and 1 thread a core",
            ),
            (1, [2, 0, 0], "1 vCPU cannot have 2 sockets"),
        ] {
            let e = Topology::new(cpus, wish(asked)).unwrap_err();
            assert_eq!(e.to_string(), message);
        }
        let zero = Wish {
            cores: Some(0),
            ..Wish::default()
        };
        for (cpus, asked) in [
            (4, zero),
            (4, wish([u32::MAX, 2, 2])),
            (4, wish([1 << 31, 2, 0])),
            (0, Wish::default()),
            (MAX_CPUS + 1, Wish::default()),
        ] {
            assert!(Topology::new(cpus, asked).is_err(), "{cpus} {asked:?}");
        }
    }

    #[test]
    fn ids_with_gaps() {
        let ids = |cpus, asked| {
            let topology = Topology::new(cpus, wish(asked)).unwrap();
            topology.apic_ids().collect::<Vec<_>>()
        };
        assert_eq!(ids(6, [0, 0, 0]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ids(6, [2, 3, 1]), [0, 1, 2, 4, 5, 6]);
        assert_eq!(ids(6, [1, 2, 3]), [0, 1, 2, 4, 5, 6]);
        assert_eq!(ids(6, [3, 2, 1]), [0, 1, 2, 3, 4, 5]);
        let ids = ids(45, [1, 9, 5]);
        assert_eq!(ids.last(), Some(&(8 << 3 | 4)));
    }

    /// The ID decides, and not the number of vCPUs.
    #[test]
    fn ids_beyond_the_last() {
        for (cpus, asked, last) in [
            (250, [5, 25, 2], 4 << 6 | 24 << 1 | 1),
            (129, [43, 3, 1], 42 << 2 | 2),
            (192, [64, 3, 1], 63 << 2 | 2),
            (195, [65, 3, 1], 64 << 2 | 2),
            (254, [127, 2, 1], 253),
        ] {
            let made = Topology::new(cpus, wish(asked));
            match made {
                Ok(topology) => {
                    let ids: Vec<_> = topology.apic_ids().map(u32::from).collect();
                    assert!(last <= 254, "{cpus} {asked:?}");
                    assert_eq!(ids.last(), Some(&last));
                }
                Err(e) => {
                    assert!(last > 254, "{cpus} {asked:?}");
                    assert!(
                        e.to_string().contains(&format!("APIC IDs up to {last}")),
                        "{e}"
                    );
                    assert!(e.hint().contains(&format!("--cpus {cpus}")));
                }
            }
        }
        let e = Topology::new(195, wish([65, 3, 1])).unwrap_err();
        assert_eq!(
            e.to_string(),
            "195 vCPUs with 65 sockets, 3 cores a socket and 1 thread a core need APIC IDs up to \
             258, and the guest's interrupt controllers reach no ID above 254"
        );
    }

    /// Ids are distinct, rise with the vCPUs, and stay below the broadcast id of an xAPIC.
    #[test]
    fn ids_fit() {
        for cpus in 1..=MAX_CPUS {
            let divides = |n: &u32| cpus.is_multiple_of(*n);
            for cores in (1..=cpus).filter(divides) {
                for threads in (1..=cpus).filter(divides) {
                    let asked = wish([0, cores, threads]);
                    let Ok(topology) = Topology::new(cpus, asked) else {
                        continue;
                    };
                    let ids: Vec<_> = topology.apic_ids().collect();
                    assert_eq!((ids[0], ids.len()), (0, cpus as usize));
                    assert!(ids.is_sorted_by(|a, b| a < b), "{topology:?}");
                    let last = u32::from(ids[ids.len() - 1]);
                    assert!(last < 0xff, "{topology:?}");
                    let shift = topology.socket_shift();
                    assert_eq!(last >> shift, topology.sockets - 1, "{topology:?}");
                }
            }
        }
    }
}
