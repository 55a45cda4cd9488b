//! The messages of the two ends. A connection begins with a greeting, which says how long requests
//! and answers are. Each message begins with a mark and its number, and has fixed noise after them,
//! so a message that was lost, changed or sent twice is found.

/// The first bytes of each message.
pub const MARK: &[u8; 8] = b"mvmbench";

/// The bytes of mark and number.
pub const HEAD: usize = 16;

/// The longest message.
pub const LONGEST: usize = 1 << 20;

/// The number in the answer to a request with other content than was sent.
pub const OTHER_CONTENT: u64 = u64::MAX;

/// One of so many messages is compared as a whole: comparing all costs time on fast links.
const COMPARED: u64 = 64;

/// Messages of one length.
pub struct Messages {
    noise: Vec<u8>,
    bytes: Vec<u8>,
}

impl Messages {
    /// Messages of `len` bytes, of at least [`HEAD`].
    pub fn new(len: usize) -> Self {
        let mut noise = vec![0; len.max(HEAD)];
        fastrand::Rng::with_seed(len as u64).fill(&mut noise);
        noise[..8].copy_from_slice(MARK);
        Self {
            bytes: noise.clone(),
            noise,
        }
    }

    /// The message with a number.
    pub fn make(&mut self, number: u64) -> &[u8] {
        self.noise[8..HEAD].copy_from_slice(&number.to_le_bytes());
        &self.noise
    }

    /// The buffer for a message that is read.
    pub fn buffer(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The number of the message that was read; `None` if it has other content than was sent.
    pub fn number(&self) -> Option<u64> {
        let (head, body) = self.bytes.split_at(HEAD);
        let number = head.strip_prefix(MARK)?;
        let number = u64::from_le_bytes(number.try_into().ok()?);
        let is_whole = !number.is_multiple_of(COMPARED) || body == &self.noise[HEAD..];
        is_whole.then_some(number)
    }
}

/// The greeting of a connection.
pub fn greeting(request: usize, answer: usize) -> [u8; HEAD] {
    let mut greeting = [0; HEAD];
    greeting[..8].copy_from_slice(MARK);
    for (at, len) in [(8, request), (12, answer)] {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        greeting[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }
    greeting
}

/// The lengths in a greeting; `None` if it is none, or a length is out of range.
pub fn lengths(greeting: &[u8; HEAD]) -> Option<(usize, usize)> {
    let rest = greeting.strip_prefix(MARK)?;
    let len = |at: usize| {
        let bytes = rest[at..at + 4].try_into().ok()?;
        let len = u32::from_le_bytes(bytes) as usize;
        (HEAD..=LONGEST).contains(&len).then_some(len)
    };
    Some((len(0)?, len(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_has_two_lengths_in_range() {
        assert_eq!(lengths(&greeting(64, 1 << 20)), Some((64, 1 << 20)));
        for (request, answer) in [(15, 64), (64, 0), ((1 << 20) + 1, 64)] {
            assert_eq!(lengths(&greeting(request, answer)), None);
        }
        assert_eq!(lengths(b"GET / HTTP/1.0\r\n"), None);
    }

    #[test]
    fn other_content_is_found() {
        let mut sent = Messages::new(100);
        let mut heard = Messages::new(100);
        for (number, changed, found) in [
            (64, None, Some(64)),
            (65, None, Some(65)),
            (64, Some(99), None),
            (65, Some(3), None),
        ] {
            let message = sent.make(number).to_vec();
            heard.buffer().copy_from_slice(&message);
            if let Some(at) = changed {
                heard.buffer()[at] ^= 1;
            }
            assert_eq!(heard.number(), found, "{number} {changed:?}");
        }
    }
}
