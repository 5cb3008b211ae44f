//! Eyes on the wire between the hosts.

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex};

const ESP: u8 = 50;
const UDP: u8 = 17;
/// The overlay's own port (docs/network.md).
const OVERLAY: u16 = 14789;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Esp,
    /// The overlay's port, for all to read.
    Plain,
    Other,
}

/// What was seen so far. The look ends with the process.
pub struct Wire(Arc<Mutex<BTreeMap<Kind, usize>>>);

impl Wire {
    /// In the network namespace that this is called in.
    pub fn watch() -> Self {
        let all = Some(SockProtocol::EthAll);
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all).unwrap();
        let seen: Arc<Mutex<BTreeMap<Kind, usize>>> = Arc::default();
        let (notes, mut socket) = (seen.clone(), File::from(socket));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.read(&mut buffer) {
                if let Some(kind) = kind(&buffer[..length]) {
                    *notes.lock().unwrap().entry(kind).or_default() += 1;
                }
            }
        });
        Self(seen)
    }

    /// So many of each kind.
    pub fn seen(&self) -> BTreeMap<Kind, usize> {
        std::thread::sleep(std::time::Duration::from_millis(50));
        self.0.lock().unwrap().clone()
    }
}

fn kind(frame: &[u8]) -> Option<Kind> {
    let packet = frame.get(14..)?;
    if packet.first()? >> 4 != 4 {
        return None;
    }
    Some(match *packet.get(9)? {
        ESP => Kind::Esp,
        UDP if packet.get(22..24)? == OVERLAY.to_be_bytes() => Kind::Plain,
        _ => Kind::Other,
    })
}
