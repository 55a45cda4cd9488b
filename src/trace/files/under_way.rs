//! Files that messages take to other processes (SCM_RIGHTS; unix(7)).
//!
//! The sender may close its descriptor while the message is under way. Then nothing in /proc leads
//! from the receiver's new descriptor to the file that the trace knows, so the trace remembers what
//! is under way.

use std::collections::HashSet;

use crate::files::identify::Seen;
use crate::files::open_file::FileRef;

/// The most messages under way that are remembered.
const MOST: usize = 256;

/// A message with descriptors.
#[derive(Debug)]
struct Message {
    number: u64,
    /// The socket that it was sent on, as /proc names it.
    socket: Option<String>,
    /// Its descriptors, of which `None` is a file that the trace does not name.
    files: Vec<Option<FileRef>>,
}

/// Messages under way, the oldest first.
#[derive(Debug, Default)]
pub struct UnderWay {
    next: u64,
    messages: Vec<Message>,
}

impl UnderWay {
    /// A message is sent. Returns its number.
    pub fn send(&mut self, socket: Option<String>, files: Vec<Option<FileRef>>) -> u64 {
        if self.messages.len() == MOST {
            self.messages.remove(0);
        }
        self.next += 1;
        self.messages.push(Message {
            number: self.next,
            socket,
            files,
        });
        self.next
    }

    /// A message was not sent.
    pub fn forget(&mut self, number: u64) {
        self.messages.retain(|message| message.number != number);
    }

    /// Whether no message is under way.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes the oldest message that has these files, or only looks (`peek`), so that the message
    /// can be received again. `None` if messages of several sockets may be meant.
    pub fn take(&mut self, seen: &[Option<Seen>], peek: bool) -> Option<Vec<Option<FileRef>>> {
        let meant = self.messages.iter().enumerate();
        let meant = meant.filter(|(_, message)| fits(&message.files, seen));
        let meant: Vec<usize> = meant.map(|(at, _)| at).collect();
        let sockets = meant.iter().map(|at| self.messages[*at].socket.as_ref());
        let sockets: HashSet<_> = sockets.collect();
        let first = *meant.first().filter(|_| sockets.len() == 1)?;
        match peek {
            true => self
                .messages
                .get(first)
                .map(|message| message.files.clone()),
            false => Some(self.messages.remove(first).files),
        }
    }
}

/// Whether a message's files may be these, of which /proc tells.
fn fits(files: &[Option<FileRef>], seen: &[Option<Seen>]) -> bool {
    let both = files.iter().zip(seen);
    let same = both.filter(|(file, seen)| match (file, seen) {
        (Some(file), Some(seen)) => {
            let detail = seen.detail.as_ref();
            file.kind == seen.kind && detail.is_none_or(|detail| file.name.ends_with(detail))
        }
        (None, None) => true,
        _ => false,
    });
    !seen.is_empty() && files.len() == seen.len() && same.count() == seen.len()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::decode::value::Kind;
    use crate::files::open_file::{FileKind, OpenFile};

    fn device(id: u32) -> (FileRef, Seen) {
        let kind = FileKind::Calls(Kind::Device);
        let file = OpenFile {
            id,
            kind,
            name: format!("device {id}"),
            vm: None,
        };
        (Rc::new(file), Seen { kind, detail: None })
    }

    fn sent(messages: &[(&str, u32)]) -> UnderWay {
        let mut under_way = UnderWay::default();
        for (socket, id) in messages {
            under_way.send(Some((*socket).into()), vec![Some(device(*id).0)]);
        }
        under_way
    }

    #[test]
    fn messages_of_one_socket_arrive_in_order() {
        let mut under_way = sent(&[("a", 1), ("a", 2)]);
        let seen = [Some(device(0).1)];
        assert!(under_way.take(&[None], false).is_none());
        assert!(under_way.take(&[], false).is_none());
        for id in [1, 2] {
            let looked = under_way.take(&seen, true).unwrap();
            assert_eq!(looked, [Some(device(id).0)], "the message stays");
            let files = under_way.take(&seen, false).unwrap();
            assert_eq!(files, [Some(device(id).0)]);
        }
        assert!(under_way.take(&seen, false).is_none());
    }

    #[test]
    fn messages_of_two_sockets_are_not_guessed() {
        let mut under_way = sent(&[("a", 1), ("b", 2)]);
        let mut seen = device(0).1;
        assert!(under_way.take(&[Some(seen.clone())], false).is_none());
        seen.detail = Some("2".into());
        assert_eq!(
            under_way.take(&[Some(seen)], false).unwrap(),
            [Some(device(2).0)]
        );
    }

    #[test]
    fn a_message_that_was_not_sent_is_forgotten() {
        let mut under_way = sent(&[("a", 1)]);
        let number = under_way.send(None, vec![Some(device(2).0)]);
        under_way.forget(number);
        for _ in 0..2 * MOST {
            under_way.send(Some("a".into()), vec![Some(device(3).0)]);
        }
        let files = under_way.take(&[Some(device(0).1)], false).unwrap();
        assert_eq!(files, [Some(device(3).0)]);
        assert_eq!(under_way.messages.len(), MOST - 1);
    }
}
