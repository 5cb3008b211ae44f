//! Messages of NETLINK_XFRM and the statistics file: whatever the bytes are, the reader only says yes or no.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stampede_netlink::xfrm::{Statistics, understand};

fuzz_target!(|data: &[u8]| {
    if let Some((kind, payload)) = data.split_first() {
        let _ = understand(0x10 + u16::from(*kind) % 0x20, payload);
        let _ = Statistics::parse(&String::from_utf8_lossy(payload));
    }
});
