//! What a root port shows of the way from a device to the host's root complex.

use crate::atomic_ops::AtomicOps;
use crate::link::Link;

/// What a root port shows of the host's way to the functions behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPath {
    /// The link.
    pub link: Link,
    /// The largest payload that the host has agreed on for the way, as the code of Device Control:
    /// 128 bytes, shifted left by this. A port that starts with the same leaves a guest nothing to
    /// agree on.
    pub payload: u8,
    /// The AtomicOps that the host's root port completes for all functions.
    pub atomic_ops: AtomicOps,
}

impl Default for HostPath {
    /// That of a port without a device: what every device can.
    fn default() -> Self {
        Self {
            link: Link::SLOWEST,
            payload: 0,
            atomic_ops: AtomicOps::NONE,
        }
    }
}

impl HostPath {
    /// The way that several functions of a device share. They have one link, which is the first
    /// one's: a function without a link of its own shows the slowest.
    pub fn shared(paths: &[Self]) -> Self {
        let fastest = paths
            .iter()
            .map(|path| path.link)
            .max_by_key(|link| (link.speed(), link.width()));
        let payloads = paths.iter().map(|path| path.payload);
        let atomic_ops = paths.iter().map(|path| path.atomic_ops);
        Self {
            link: fastest.unwrap_or(Link::SLOWEST),
            payload: payloads.min().unwrap_or(0),
            atomic_ops: atomic_ops.reduce(|a, b| a & b).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Speed;

    #[test]
    fn functions_of_a_device_share_a_way() {
        let link = |code, width| Link::new(Speed::from_code(code).unwrap(), width, None).unwrap();
        let gpu = HostPath {
            link: link(4, 16),
            payload: 2,
            atomic_ops: AtomicOps::ALL,
        };
        let sound = HostPath {
            link: Link::SLOWEST,
            payload: 1,
            atomic_ops: AtomicOps {
                cas_128: false,
                ..AtomicOps::ALL
            },
        };
        for paths in [[gpu, sound], [sound, gpu]] {
            let shared = HostPath {
                link: gpu.link,
                ..sound
            };
            assert_eq!(HostPath::shared(&paths), shared);
        }
        assert_eq!(HostPath::shared(&[gpu]), gpu);
        assert_eq!(HostPath::shared(&[]), HostPath::default());
        let plain = HostPath::default();
        assert!(!HostPath::shared(&[gpu, plain]).atomic_ops.any());
    }
}
