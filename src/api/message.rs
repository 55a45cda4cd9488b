//! A request and a response (RFC 9110 and RFC 9112).

use std::fmt::Write;

use serde::Serialize;

/// A request that has arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, in capitals as it was sent.
    pub method: String,
    /// The path, without scheme, host and query.
    pub path: String,
    /// What follows the `?`; empty if nothing does.
    pub query: String,
    /// The body; empty if there is none.
    pub body: Vec<u8>,
    /// Whether the connection stays open after the answer (RFC 9112, 9.3).
    pub keep_alive: bool,
    /// Whether the client understands a body in chunks, which HTTP/1.0 does not have.
    pub chunks: bool,
}

impl Request {
    /// The value of a key in the query, as it was sent.
    pub fn parameter(&self, key: &str) -> Option<&str> {
        let pairs = self.query.split('&').filter_map(|p| p.split_once('='));
        pairs.into_iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }
}

/// A status code (RFC 9110, 15). Only those that an answer of this crate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are the standard's.
pub enum Status {
    Ok = 200,
    NoContent = 204,
    BadRequest = 400,
    Forbidden = 403,
    NotFound = 404,
    MethodNotAllowed = 405,
    RequestTimeout = 408,
    Conflict = 409,
    ContentTooLarge = 413,
    HeadTooLarge = 431,
    InternalError = 500,
    NotImplemented = 501,
    Unavailable = 503,
}

impl Status {
    /// The number.
    pub fn code(self) -> u16 {
        self as u16
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NoContent => "No Content",
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::RequestTimeout => "Request Timeout",
            Self::Conflict => "Conflict",
            Self::ContentTooLarge => "Content Too Large",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::InternalError => "Internal Server Error",
            Self::NotImplemented => "Not Implemented",
            Self::Unavailable => "Service Unavailable",
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: Status,
    /// The body, which is JSON; `None` for an answer without content.
    pub body: Option<Vec<u8>>,
    /// The methods that the path has, for the field `Allow`.
    allow: Option<String>,
}

impl Response {
    /// "Done", with nothing to say.
    pub fn done() -> Self {
        Self {
            status: Status::NoContent,
            body: None,
            allow: None,
        }
    }

    /// A value as JSON. A value that is no JSON is an internal error.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self {
                status: Status::Ok,
                body: Some(body),
                allow: None,
            },
            Err(e) => Self::error(Status::InternalError, &[e.to_string()]),
        }
    }

    /// An error: its message, its causes, and what the user can do, as Cloud Hypervisor answers, in
    /// a list of strings.
    pub fn error(status: Status, lines: &[impl AsRef<str>]) -> Self {
        let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        Self {
            status,
            body: serde_json::to_vec(&lines).ok(),
            allow: None,
        }
    }

    /// An error for a path that has other methods than the request's.
    pub(crate) fn allow_only(methods: &[&str]) -> Self {
        let allow = methods.join(", ");
        Self {
            allow: Some(allow.clone()),
            ..Self::error(
                Status::MethodNotAllowed,
                &[format!("This path has only {allow}")],
            )
        }
    }

    /// The bytes for the client. After HEAD, a response has no body (RFC 9110, 9.3.2).
    pub(crate) fn encode(&self, keep_alive: bool, with_body: bool) -> Vec<u8> {
        let mut head = head(self.status, keep_alive);
        if let Some(allow) = &self.allow {
            // Writing to a string cannot fail.
            let _ = write!(head, "Allow: {allow}\r\n");
        }
        if let Some(body) = &self.body {
            let _ = write!(
                head,
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            );
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if with_body {
            bytes.extend(self.body.iter().flatten());
        }
        bytes
    }
}

/// The status line and the fields that each response has.
fn head(status: Status, keep_alive: bool) -> String {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let (code, reason) = (status.code(), status.reason());
    format!("HTTP/1.1 {code} {reason}\r\nServer: mini-vmm\r\nConnection: {connection}\r\n")
}

/// The head of a stream, one line of JSON for each event.
pub(crate) fn stream_head(chunks: bool) -> Vec<u8> {
    let mut head = head(Status::Ok, false);
    head.push_str("Content-Type: application/x-ndjson\r\nCache-Control: no-store\r\n");
    if chunks {
        head.push_str("Transfer-Encoding: chunked\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A line of a stream. `None` ends the stream.
pub(crate) fn stream_line(line: Option<&str>, chunks: bool) -> Vec<u8> {
    match (line, chunks) {
        // RFC 9112, 7.1: the size in hexadecimal, and the bytes with the newline.
        (Some(line), true) => format!("{:x}\r\n{line}\n\r\n", line.len() + 1).into_bytes(),
        (Some(line), false) => format!("{line}\n").into_bytes(),
        (None, true) => b"0\r\n\r\n".to_vec(),
        (None, false) => Vec::new(),
    }
}

/// The interim response to `Expect: 100-continue` (RFC 9110, 10.1.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: &Response, keep_alive: bool, with_body: bool) -> String {
        String::from_utf8(response.encode(keep_alive, with_body)).unwrap()
    }

    #[test]
    fn responses() {
        let start = "HTTP/1.1 204 No Content\r\nServer: mini-vmm\r\nConnection: keep-alive\r\n";
        assert_eq!(text(&Response::done(), true, true), format!("{start}\r\n"));
        let error = text(&Response::error(Status::Conflict, &["a", "b"]), false, true);
        assert!(error.starts_with("HTTP/1.1 409 Conflict\r\n"));
        assert!(error.contains("\r\nConnection: close\r\n"));
        assert!(error.ends_with("\r\nContent-Length: 9\r\n\r\n[\"a\",\"b\"]"));
        let allow = text(&Response::allow_only(&["GET"]), true, false);
        assert!(allow.contains("\r\nAllow: GET\r\n") && allow.ends_with("\r\n\r\n"));
    }

    #[test]
    fn lines_of_a_stream() {
        assert_eq!(stream_line(Some("{}"), true), b"3\r\n{}\n\r\n");
        assert_eq!(stream_line(Some("{}"), false), b"{}\n");
        assert_eq!(stream_line(None, true), b"0\r\n\r\n");
    }

    #[test]
    fn parameters_of_a_query() {
        let request = Request {
            method: "GET".into(),
            path: "/".into(),
            query: "a&since=5&since=6&b=".into(),
            body: Vec::new(),
            keep_alive: true,
            chunks: true,
        };
        assert_eq!(request.parameter("since"), Some("5"));
        assert_eq!(request.parameter("b"), Some(""));
        assert_eq!(request.parameter("a"), None);
    }
}
