//! The body of a request in chunks (RFC 9112, 7.1).

use crate::limits::{MAX_BODY, MAX_HEAD};

/// The most bytes that size lines, extensions and trailer fields may add to a body.
const MAX_FRAMING: usize = MAX_HEAD;

/// The outcome of decoding.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// More bytes are needed.
    Partial,
    /// The body, and the bytes that it took.
    Whole(Vec<u8>, usize),
    /// No such body.
    Bad,
    /// The body or its framing is over the limit.
    TooLarge,
}

/// Decodes a body whose first byte is the first of `bytes`.
pub fn decode(bytes: &[u8]) -> Decoded {
    let mut body = Vec::new();
    let mut at = 0_usize;
    loop {
        if at.saturating_sub(body.len()) > MAX_FRAMING {
            return Decoded::TooLarge;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        let (skip, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) if rest.len() > MAX_FRAMING => return Decoded::TooLarge,
            Ok(httparse::Status::Partial) => return Decoded::Partial,
            Err(_) => return Decoded::Bad,
        };
        let Ok(size) = usize::try_from(size) else {
            return Decoded::TooLarge;
        };
        if size > MAX_BODY - body.len() {
            return Decoded::TooLarge;
        }
        at += skip;
        if size == 0 {
            return trailers(bytes, at, body);
        }
        match bytes.get(at..at + size + 2) {
            None => return Decoded::Partial,
            Some(chunk) => match chunk.strip_suffix(b"\r\n") {
                Some(chunk) => body.extend(chunk),
                None => return Decoded::Bad,
            },
        }
        at += size + 2;
    }
}

/// Skips the trailer fields after the last chunk, up to the empty line.
fn trailers(bytes: &[u8], mut at: usize, body: Vec<u8>) -> Decoded {
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(line) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            return match rest.len() > MAX_FRAMING {
                true => Decoded::TooLarge,
                false => Decoded::Partial,
            };
        };
        at += line + 2;
        if line == 0 {
            return Decoded::Whole(body, at);
        }
        if at.saturating_sub(body.len()) > MAX_FRAMING {
            return Decoded::TooLarge;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_become_a_body() {
        let bytes = b"4\r\nWiki\r\n5;a=b\r\npedia\r\n0\r\nX: y\r\n\r\nGET";
        let used = bytes.len() - 3;
        assert_eq!(decode(bytes), Decoded::Whole(b"Wikipedia".to_vec(), used));
        for cut in 0..used {
            assert_eq!(decode(&bytes[..cut]), Decoded::Partial, "{cut}");
        }
    }

    #[test]
    fn bad_chunks() {
        assert_eq!(decode(b"x\r\n"), Decoded::Bad);
        assert_eq!(decode(b"1\r\nabc\r\n"), Decoded::Bad);
        assert_eq!(decode(b"10001\r\n"), Decoded::TooLarge);
        assert_eq!(decode(b"ffffffffffffffff\r\n"), Decoded::TooLarge);
        let trailers = [&b"0\r\n"[..], &b"A: b\r\n".repeat(2000)].concat();
        assert_eq!(decode(&trailers), Decoded::TooLarge);
        // Many small chunks: the framing is limited, too.
        assert_eq!(decode(&b"1\r\na\r\n".repeat(5000)), Decoded::TooLarge);
        let largest = [
            &b"10000\r\n"[..],
            &vec![b'x'; MAX_BODY],
            &b"\r\n0\r\n\r\n"[..],
        ]
        .concat();
        assert!(matches!(decode(&largest), Decoded::Whole(body, _) if body.len() == MAX_BODY));
    }
}
