//! What is done in a turn, and what it gives. The guest gets the task as JSON, and answers in lines
//! of JSON.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::stats::latency::Latencies;
use crate::work::traffic::{SHORTEST, Traffic};

/// The order of the blocks that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Anywhere on the disk.
    Random,
    /// One after the other, from a random block on.
    Sequential,
}

/// From where the operations come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Queues {
    /// From where the scheduler has the threads.
    #[default]
    One,
    /// As many at a time from each CPU.
    EachCpu,
}

/// How several reads are in flight at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// One thread, with the kernel's rings (io_uring(7)).
    IoUring,
    /// A thread for each read.
    Threads,
}

impl Engine {
    /// The engine in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Threads => "threads",
        }
    }
}

/// One kind of reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// A name for programs, such as `read-4k-d1`.
    pub name: String,
    /// Bytes of each read.
    pub block: u32,
    /// Reads in flight at a time, on each queue.
    pub depth: u32,
    /// The queues on which reads are in flight.
    #[serde(default)]
    pub queues: Queues,
    /// The order of the blocks.
    pub order: Order,
    /// How many operations of a hundred write.
    #[serde(default)]
    pub writes: u8,
    /// What goes over a network port; `None` for disks.
    #[serde(default)]
    pub traffic: Option<Traffic>,
}

impl Work {
    /// Reads of `kib` KiB, `depth` at a time.
    pub fn new(kib: u32, depth: u32, order: Order) -> Self {
        Self::writing(kib, depth, order, 0)
    }

    /// The same, with `writes` writes in a hundred operations.
    pub fn writing(kib: u32, depth: u32, order: Order, writes: u8) -> Self {
        let kind = match (order, writes) {
            (Order::Random, 0) => "read",
            (Order::Sequential, 0) => "stream",
            (Order::Random, 100) => "write",
            (Order::Sequential, 100) => "write-stream",
            _ => "mixed",
        };
        Self {
            name: format!("{kind}-{kib}k-d{depth}"),
            block: kib * 1024,
            depth,
            queues: Queues::One,
            order,
            writes,
            traffic: None,
        }
    }

    /// The same with as many at a time on each CPU.
    pub fn on_each_cpu(self) -> Self {
        Self {
            name: format!("{}-each-cpu", self.name),
            queues: Queues::EachCpu,
            ..self
        }
    }

    /// Messages with blocks of `block` bytes, `depth` at a time.
    fn exchanging(traffic: Traffic, block: u32, depth: u32) -> Self {
        let kind = match traffic {
            Traffic::Request => "request",
            Traffic::Send => "send",
            Traffic::Receive => "receive",
            Traffic::Packets => "packets",
        };
        let size = match block {
            block if block >= 1024 => format!("{}k", block / 1024),
            block => format!("{block}b"),
        };
        Self {
            name: format!("{kind}-{size}-d{depth}"),
            traffic: Some(traffic),
            ..Self::new(block / 1024, depth, Order::Sequential).of_bytes(block)
        }
    }

    fn of_bytes(self, block: u32) -> Self {
        Self { block, ..self }
    }

    /// What the operations are.
    pub fn operations(&self) -> &'static str {
        match (self.traffic, self.writes) {
            (Some(traffic), _) => traffic.operations(),
            (None, 0) => "reads",
            (None, 100) => "writes",
            (None, _) => "reads and writes",
        }
    }

    /// The work in words.
    pub fn in_words(&self) -> String {
        let order = match self.order {
            Order::Random => "random",
            Order::Sequential => "sequential",
        };
        let many = match self.depth {
            1 => "one at a time".to_owned(),
            depth => format!("{depth} at a time"),
        };
        if let Some(traffic) = self.traffic {
            let size = match self.block {
                block if block >= 1024 => format!("{} KiB", block / 1024),
                block => format!("{block} bytes"),
            };
            return format!("{} of {size}, {many}", traffic.operations());
        }
        let mix = match self.writes {
            0 | 100 => String::new(),
            writes => format!(" ({writes} % writes)"),
        };
        let (kib, operations) = (self.block / 1024, self.operations());
        let each = match self.queues {
            Queues::One => "",
            Queues::EachCpu => " on each CPU",
        };
        format!("{kib} KiB {operations}{mix}, {order}, {many}{each}")
    }
}

/// The disk that is measured, as it is known in the host and in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskId {
    /// The identifier of the disk or namespace, if the kernel has one.
    pub wwid: Option<String>,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
}

/// A network port, as a guest is to set it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortId {
    /// Its hardware address.
    pub mac: String,
    /// The address that it gets.
    pub address: Ipv4Addr,
    /// The bits of that address which name its network.
    pub prefix: u8,
    /// The other end.
    pub peer: SocketAddrV4,
}

/// The PCI function that is measured, as it is known in the host and in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionId {
    /// What the kernel's modules know it by.
    pub modalias: String,
    /// Whether a driver of the host has it, so that one of the guest must.
    pub driver: bool,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A disk.
    Disk(DiskId),
    /// A network port.
    Port(PortId),
    /// A function that is neither: it has no work of its own.
    Function,
}

/// The kinds of messages of a network port.
pub fn port_works() -> Vec<Work> {
    vec![
        Work::exchanging(Traffic::Request, 64, 1),
        Work::exchanging(Traffic::Packets, SHORTEST, 64),
        Work::exchanging(Traffic::Send, 128 << 10, 16),
        Work::exchanging(Traffic::Receive, 128 << 10, 16),
    ]
}

/// What is done in each turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The kinds of reads, in order.
    pub works: Vec<Work>,
    /// Time before each measurement, in which the reads do not count.
    pub warm_up_ms: u64,
    /// Time of each measurement.
    pub measure_ms: u64,
    /// How several reads are in flight.
    pub engine: Engine,
    /// The disk or port, if it is one.
    pub target: Target,
    /// The function.
    #[serde(default)]
    pub function: FunctionId,
    /// The serial number of the disk that may be written to; without it, none may.
    #[serde(default)]
    pub destroy: Option<String>,
}

/// What one kind of reads gave in a turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The name of the work.
    pub work: String,
    /// Reads that ended within the measurement.
    pub operations: u64,
    /// The time of the measurement.
    pub seconds: f64,
    /// Reads in each second.
    pub per_second: f64,
    /// Half of the reads took at most this.
    pub median_us: f64,
    /// The times of the reads in nanoseconds, to two digits, each with the number of reads.
    pub histogram: Vec<(u64, u64)>,
    /// Packets that did not come back.
    #[serde(default)]
    pub lost: u64,
}

impl Sample {
    /// A sample of the reads of `seconds`.
    pub fn of(work: &Work, times: &Latencies, seconds: f64) -> Self {
        Self {
            work: work.name.clone(),
            operations: times.len(),
            seconds,
            per_second: times.len() as f64 / seconds,
            median_us: times.median().unwrap_or(0) as f64 / 1000.0,
            histogram: times.coarse(),
            lost: 0,
        }
    }
}

/// What a subject says while it works. In a guest, each is a line after [`MARK`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Message {
    /// /init runs.
    Init,
    /// The disk is there.
    Ready {
        /// The kernel's release.
        kernel: String,
        /// Time since the kernel's start.
        uptime_ms: u64,
    },
    /// What the disk has (`fingerprint`).
    Content {
        /// A hash of blocks at fixed positions.
        sha256: String,
        /// How many of these blocks are zero.
        zeros: u32,
        /// How many blocks there are.
        blocks: u32,
    },
    /// A kind of work begins.
    Start {
        /// Its name.
        work: String,
    },
    /// A kind of work has ended, and the guest is idle.
    Stopped {
        /// Its name.
        work: String,
        /// The number of its operations, those of the warm-up among them.
        reads: u64,
    },
    /// A kind of work has ended.
    Done(Sample),
    /// What the disk has after the writes of all work.
    Left {
        /// The hash of the blocks of [`Message::Content`].
        sha256: String,
    },
    /// The function was reset.
    Reset {
        /// The time.
        us: Option<f64>,
        /// Why there is none.
        why: Option<String>,
    },
    /// The guest reboots now.
    Reboot,
    /// All work has ended.
    End,
    /// The work cannot be done.
    Failed {
        /// Why.
        why: String,
    },
}

impl Message {
    /// The message in a line of a guest, if there is one.
    ///
    /// # Errors
    /// The line cannot be read.
    pub fn in_line(line: &str) -> Result<Option<Self>> {
        let Some((_, text)) = line.split_once(MARK) else {
            return Ok(None);
        };
        let message = serde_json::from_str(text);
        let unread = |e| Error::new(format!("the guest said what cannot be read: {e}"));
        message.map(Some).map_err(unread)
    }
}

/// The name of the window without reads, in a pass that counts.
pub const IDLE: &str = "idle";

/// The start of a guest's line that holds a [`Message`].
pub const MARK: &str = "mini-vmm-bench ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_way_through_a_line() {
        let mut times = Latencies::default();
        times.add_many(100_000, 7);
        let work = Work::new(4, 32, Order::Random);
        let message = Message::Done(Sample::of(&work, &times, 2.0));
        let text = serde_json::to_string(&message).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
        let Message::Done(sample) = message else {
            unreachable!()
        };
        assert_eq!((sample.operations, sample.per_second), (7, 3.5));
        assert_eq!(work.name, "read-4k-d32");
        assert_eq!(work.in_words(), "4 KiB reads, random, 32 at a time");
    }

    #[test]
    fn messages_have_names() {
        let works = port_works();
        let names: Vec<&str> = works.iter().map(|work| work.name.as_str()).collect();
        let wanted = [
            "request-64b-d1",
            "packets-18b-d64",
            "send-128k-d16",
            "receive-128k-d16",
        ];
        assert_eq!(names, wanted);
        assert_eq!(works[0].in_words(), "requests of 64 bytes, one at a time");
        assert_eq!(works[2].in_words(), "blocks sent of 128 KiB, 16 at a time");
    }
}
