//! The other side of the socket, for a command line: one request, and its answer or its stream.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The largest answer that is read.
const MAX_ANSWER: u64 = 64 << 20;
/// The largest head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// How long a server may take to read a request.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the path.
    #[error("no mini-vmm listens at {path}")]
    Connect {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {path} has ended")]
    Broken {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The other side does not speak HTTP.
    #[error("{0} does not answer as mini-vmm does")]
    NoAnswer(String),
}

impl ClientError {
    /// The remedy.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { path, source } => Some(match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("run this command as the owner of the socket, whom ls -l {path} names")
                }
                _ => format!("start the guest with --api-socket {path}"),
            }),
            Self::Broken { .. } => None,
            Self::NoAnswer(path) => Some(format!("find out who listens there: ss -xlp src {path}")),
        }
    }
}

/// An answer: its status code and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// A connection to a server.
pub struct Client {
    stream: BufReader<UnixStream>,
    path: String,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not connect.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let name = path.display().to_string();
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(TIME_LIMIT))?;
            Ok(stream)
        };
        match connect() {
            Ok(stream) => Ok(Self {
                stream: BufReader::new(stream),
                path: name,
            }),
            Err(source) => Err(ClientError::Connect { path: name, source }),
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        ClientError::Broken { path, source }
    }

    /// Sends a request, and waits for its answer as long as it takes.
    ///
    /// # Errors
    /// There is no answer.
    pub fn ask(
        self,
        method: &str,
        target: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, ClientError> {
        self.ask_with(method, target, body, None)
    }

    /// The same, with an open file that the server gets (SCM_RIGHTS).
    ///
    /// # Errors
    /// There is no answer.
    pub fn ask_with(
        mut self,
        method: &str,
        target: &str,
        body: Option<&[u8]>,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, ClientError> {
        let (status, length) = self.send(method, target, body, file)?;
        let mut body = Vec::new();
        let path = &self.path;
        let broken = |source| ClientError::Broken {
            path: path.clone(),
            source,
        };
        let most = length.unwrap_or(0).min(MAX_ANSWER);
        let read = self.stream.by_ref().take(most).read_to_end(&mut body);
        let read = read.map_err(broken)?;
        if (read as u64) < length.unwrap_or(0) {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Answer { status, body })
    }

    /// Asks for a stream, and calls `each` with every line until it returns `false`, or the stream
    /// ends. An answer that is no stream is returned.
    ///
    /// # Errors
    /// There is no answer, or the stream has broken.
    pub fn follow(
        mut self,
        target: &str,
        mut each: impl FnMut(&str) -> bool,
    ) -> Result<Option<Answer>, ClientError> {
        let (status, length) = self.send("GET", target, None, None)?;
        if let Some(length) = length {
            let mut body = Vec::new();
            let limited = self.stream.by_ref().take(length.min(MAX_ANSWER));
            { limited }
                .read_to_end(&mut body)
                .map_err(|e| self.broken(e))?;
            return Ok(Some(Answer { status, body }));
        }
        // A chunk is one line here, between its size and an empty line.
        loop {
            let size = self.line()?;
            let size = usize::from_str_radix(size.trim(), 16)
                .map_err(|_| ClientError::NoAnswer(self.path.clone()))?;
            if size == 0 {
                return Ok(None);
            }
            let line = self.line()?;
            if line.len() != size {
                return Err(ClientError::NoAnswer(self.path.clone()));
            }
            self.line()?;
            if !each(line.trim_end()) {
                return Ok(None);
            }
        }
    }

    /// Reads a line with its end.
    fn line(&mut self) -> Result<String, ClientError> {
        let mut line = Vec::new();
        let limited = &mut self.stream.by_ref().take(MAX_ANSWER);
        let read = limited.read_until(b'\n', &mut line);
        match read {
            Ok(0) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => String::from_utf8(line).map_err(|_| ClientError::NoAnswer(self.path.clone())),
            Err(e) => Err(self.broken(e)),
        }
    }

    /// Sends a request and reads the head of its answer: the status code, and the length of the
    /// body unless it comes in chunks.
    fn send(
        &mut self,
        method: &str,
        target: &str,
        body: Option<&[u8]>,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<(u16, Option<u64>), ClientError> {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
        if let Some(body) = body {
            request += &format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            );
        }
        request += "\r\n";
        let mut bytes = request.into_bytes();
        bytes.extend(body.unwrap_or_default());
        // A server that refuses at once does not read: its answer is there all the same.
        let sent = send_all(self.stream.get_mut(), &bytes, file);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let limited = &mut self.stream.by_ref().take(MAX_HEAD as u64);
            match limited.read_until(b'\n', &mut head) {
                Ok(0) => {
                    let why = sent.err().unwrap_or(io::ErrorKind::UnexpectedEof.into());
                    return Err(self.broken(why));
                }
                Ok(_) if head.len() > MAX_HEAD => {
                    return Err(ClientError::NoAnswer(self.path.clone()));
                }
                Ok(_) => {}
                Err(e) => return Err(self.broken(e)),
            }
        }
        parse_head(&head).ok_or_else(|| ClientError::NoAnswer(self.path.clone()))
    }
}

/// Writes bytes, of which the first one takes a file along.
fn send_all(stream: &mut UnixStream, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let (Some(file), Some((first, rest))) = (file, bytes.split_at_checked(1)) else {
        return stream.write_all(bytes);
    };
    let files = [file];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&files));
    // One byte is sent, or none.
    sendmsg(
        &*stream,
        &[IoSlice::new(first)],
        &mut rights,
        SendFlags::NOSIGNAL,
    )?;
    stream.write_all(rest)
}

/// The status code and the length of the body; no length if the body comes in chunks.
fn parse_head(head: &[u8]) -> Option<(u16, Option<u64>)> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    response.parse(head).ok()?;
    let value = |name: &str| {
        let field = response.headers.iter();
        field
            .clone()
            .find(|f| f.name.eq_ignore_ascii_case(name))
            .map(|f| f.value)
    };
    let status = response.code?;
    if value("transfer-encoding").is_some() {
        return Some((status, None));
    }
    let length = match value("content-length") {
        Some(text) => str::from_utf8(text).ok()?.trim().parse().ok()?,
        None => 0,
    };
    Some((status, Some(length)))
}
