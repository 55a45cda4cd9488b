//! HTTP/1.1 with JSON on a Unix socket, for programs that control one process.
//!
//! The crate knows no virtual machine: the program gives it a table of routes and a function for
//! each ([`service::Service`]). One thread does all input and output and never waits for anything
//! but descriptors, so a short answer comes at once, whatever else goes on.
//!
//! | file | what |
//! | --- | --- |
//! | [`parser`] | bytes to a request, with the limits of a request |
//! | [`limits`] | the sizes that a request may have |
//! | [`receive`] | a read of the socket, with the descriptor that a client sends |
//! | `chunked` | the body of a request in chunks |
//! | [`message`] | a request and a response |
//! | [`service`] | routes, and how long their answers may take |
//! | [`events`] | the last events, each with its number |
//! | [`listener`] | the socket's file: made, replaced, removed |
//! | `peer` | who is at the other end |
//! | `connection` | one client: what it sends, and what it still has to read |
//! | `workers` | threads for the answers that take long |
//! | [`server`] | the thread, its descriptors and its time limits |
//! | [`witness`] | a look at a request by another process |
//! | [`client`] | the other side, for a command line |

#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod chunked;
pub mod client;
mod connection;
pub mod events;
pub mod limits;
pub mod listener;
pub mod message;
pub mod parser;
mod peer;
pub mod receive;
pub mod server;
pub mod service;
pub mod witness;
mod workers;
