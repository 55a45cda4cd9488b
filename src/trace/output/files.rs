//! The files that a trace is written to. The first error of each is kept for the end: the traced
//! program goes on without that file.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

type Failure = Rc<RefCell<Option<io::Error>>>;

/// The files of a trace.
#[derive(Debug, Default)]
pub struct Files(Vec<Named>);

#[derive(Debug)]
struct Named {
    path: PathBuf,
    /// Device and inode of a regular file.
    identity: Option<(u64, u64)>,
    failure: Failure,
}

/// A file that is written.
#[derive(Debug)]
pub struct Written {
    file: File,
    failure: Failure,
}

impl Files {
    /// Makes a file, or empties it.
    ///
    /// # Errors
    /// The errno of open(2), or that another output has the same file.
    pub fn create(&mut self, path: &Path) -> io::Result<Written> {
        let file = File::create(path)?;
        let identity = identity(&file.metadata()?);
        if identity.is_some() && self.0.iter().any(|other| other.identity == identity) {
            let text = "another output is written to the same file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let failure = Failure::default();
        self.0.push(Named {
            path: path.to_owned(),
            identity,
            failure: Rc::clone(&failure),
        });
        Ok(Written { file, failure })
    }

    /// A sentence for each file that is not whole.
    pub fn broken(&self) -> Vec<String> {
        let failures = self.0.iter().filter_map(|file| {
            let failure = file.failure.borrow();
            let e = failure.as_ref()?;
            Some(format!("{} is not whole: {e}", file.path.display()))
        });
        failures.collect()
    }
}

/// What tells a regular file from others.
fn identity(file: &Metadata) -> Option<(u64, u64)> {
    file.is_file().then(|| (file.dev(), file.ino()))
}

impl Written {
    fn keep<T>(&self, done: io::Result<T>) -> io::Result<T> {
        if let Err(e) = &done
            && e.kind() != io::ErrorKind::Interrupted
        {
            let mut failure = self.failure.borrow_mut();
            failure.get_or_insert_with(|| match e.raw_os_error() {
                Some(errno) => io::Error::from_raw_os_error(errno),
                None => e.kind().into(),
            });
        }
        done
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.file.write(bytes);
        self.keep(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.file.flush();
        self.keep(done)
    }
}
