//! Network ports: where they are, how they get an address, and how they leave the host's network
//! for the time of a turn.
//!
//! | file | content |
//! | --- | --- |
//! | `port` | ports in sysfs |
//! | `netlink` | addresses and links, by rtnetlink(7) |
//! | `namespace` | a network of its own for a port (network_namespaces(7)) |
//! | `lent` | a port in such a network, which goes back |
//! | `macvtap` | a file with all packets of such a port, for a VMM |
//! | `message` | the messages of the two ends |
//! | `service` | the other end: it answers each message |

pub mod lent;
pub mod macvtap;
pub mod message;
pub mod namespace;
pub mod netlink;
pub mod port;
pub mod service;
