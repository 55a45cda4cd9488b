//! What goes over a link.

use serde::{Deserialize, Serialize};

use crate::network::message::HEAD;

/// A kind of messages between a port and the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// A request, and an answer of the same length (TCP).
    Request,
    /// Blocks to the other end, each with a short answer (TCP).
    Send,
    /// Short requests, each with a block as its answer (TCP).
    Receive,
    /// Packets of the least length, each of which comes back (UDP).
    Packets,
}

/// The data of the shortest Ethernet frame, besides the heads of IP and UDP.
pub const SHORTEST: u32 = 18;

impl Traffic {
    /// The lengths of a request and of its answer, for blocks of this length.
    pub(super) fn lengths(self, block: u32) -> (usize, usize) {
        let block = block as usize;
        match self {
            Self::Request | Self::Packets => (block, block),
            Self::Send => (block, HEAD),
            Self::Receive => (HEAD, block),
        }
    }

    /// What is counted.
    pub fn operations(self) -> &'static str {
        match self {
            Self::Request => "requests",
            Self::Send => "blocks sent",
            Self::Receive => "blocks received",
            Self::Packets => "packets that came back",
        }
    }
}
