//! The results of a finished machine: its transcript, its logs and its disk images.

use std::path::PathBuf;

use crate::transcript::Transcript;

/// The results of a finished machine.
#[derive(Debug)]
pub struct Outcome {
    /// Every line of L1's serial port.
    pub transcript: Transcript,
    /// The directory with the images and the logs.
    pub dir: PathBuf,
}

impl Outcome {
    /// The path of a disk's image.
    pub fn image(&self, serial: &str) -> PathBuf {
        self.dir.join(format!("{serial}.img"))
    }
}
