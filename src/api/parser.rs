//! Bytes to a request, with the limits of a request.
//!
//! httparse reads the head. What a head means for the body is decided here (RFC 9112, 6.3), and a
//! head that could mean two bodies is refused, as the standard asks (6.1, request smuggling).

use httparse::{EMPTY_HEADER, Header};

use crate::chunked::{self, Decoded};
use crate::limits::{MAX_BODY, MAX_HEAD};
use crate::message::{Request, Response, Status};

/// The most header fields.
const MAX_FIELDS: usize = 64;

/// What the bytes of a connection are so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed; `expects` is true if the client waits for "100 Continue" first.
    Partial {
        /// Whether the client waits before it sends the body.
        expects: bool,
    },
    /// A request, and the number of bytes that it took.
    Whole(Box<Request>, usize),
    /// No request of ours. The connection is of no further use.
    Bad(Box<Response>),
}

fn bad(status: Status, why: &str) -> Parsed {
    Parsed::Bad(Box::new(Response::error(status, &[why])))
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunks,
}

/// Parses the request that begins at the first byte.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let limited = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    let size = match head.parse(limited) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => {
            return bad(Status::HeadTooLarge, "The head is larger than 8 KiB");
        }
        Ok(httparse::Status::Partial) => return Parsed::Partial { expects: false },
        Err(httparse::Error::TooManyHeaders) => {
            return bad(Status::HeadTooLarge, "There are more than 64 header fields");
        }
        Err(e) => return bad(Status::BadRequest, &format!("This is no request: {e}")),
    };
    let version_1_1 = head.version == Some(1);
    let length = match length(head.headers, version_1_1) {
        Ok(length) => length,
        Err(refusal) => return refusal,
    };
    let rest = bytes.get(size..).unwrap_or_default();
    let expects = version_1_1 && rest.is_empty() && has(head.headers, "expect", "100-continue");
    let (body, used) = match length {
        Length::Bytes(length) => match rest.get(..length) {
            Some(body) => (body.to_vec(), length),
            None => return Parsed::Partial { expects },
        },
        Length::Chunks => match chunked::decode(rest) {
            Decoded::Whole(body, used) => (body, used),
            Decoded::Partial => return Parsed::Partial { expects },
            Decoded::Bad => return bad(Status::BadRequest, "The body's chunks are malformed"),
            Decoded::TooLarge => return too_large(),
        },
    };
    let (path, query) = split(head.path.unwrap_or_default());
    let request = Request {
        method: head.method.unwrap_or_default().into(),
        path: path.into(),
        query: query.into(),
        body,
        keep_alive: match version_1_1 {
            true => !has(head.headers, "connection", "close"),
            false => has(head.headers, "connection", "keep-alive"),
        },
        chunks: version_1_1,
    };
    Parsed::Whole(Box::new(request), size + used)
}

fn too_large() -> Parsed {
    bad(Status::ContentTooLarge, "The body is larger than 64 KiB")
}

/// The path and the query of a request target, which may be a whole URI (RFC 9112, 3.2.2).
fn split(target: &str) -> (&str, &str) {
    let lower = target.get(..7).unwrap_or_default().to_ascii_lowercase();
    let target = match lower == "http://" {
        true => {
            let rest = target.get(7..).unwrap_or_default();
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        false => target,
    };
    target.split_once('?').unwrap_or((target, ""))
}

fn values<'a>(fields: &'a [Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = fields
        .iter()
        .filter(move |f| f.name.eq_ignore_ascii_case(name));
    named.map(|f| f.value.trim_ascii())
}

/// Whether a list of tokens has this one.
fn has(fields: &[Header<'_>], name: &str, token: &str) -> bool {
    let mut tokens = values(fields, name).flat_map(|value| value.split(|b| *b == b','));
    tokens.any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The length of the body, or why the request is refused.
fn length(fields: &[Header<'_>], version_1_1: bool) -> Result<Length, Parsed> {
    let mut lengths = values(fields, "content-length");
    let declared = lengths.next();
    if lengths.any(|other| Some(other) != declared) {
        return Err(bad(
            Status::BadRequest,
            "There are two values of Content-Length",
        ));
    }
    let mut encodings = values(fields, "transfer-encoding");
    if let Some(encoding) = encodings.next() {
        if declared.is_some() || !version_1_1 {
            return Err(bad(
                Status::BadRequest,
                "The length of the body is ambiguous",
            ));
        }
        if !encoding.eq_ignore_ascii_case(b"chunked") || encodings.next().is_some() {
            let why = "The only Transfer-Encoding is chunked";
            return Err(bad(Status::NotImplemented, why));
        }
        return Ok(Length::Chunks);
    }
    let Some(declared) = declared else {
        return Ok(Length::Bytes(0));
    };
    // Digits only: `usize` would take a sign.
    let digits = !declared.is_empty() && declared.iter().all(u8::is_ascii_digit);
    let length = str::from_utf8(declared).ok().filter(|_| digits);
    match length.map(str::parse::<usize>) {
        Some(Ok(length)) if length <= MAX_BODY => Ok(Length::Bytes(length)),
        // More digits than a number has.
        Some(_) => Err(too_large()),
        None => Err(bad(Status::BadRequest, "Content-Length is no number")),
    }
}

#[cfg(test)]
mod tests;
