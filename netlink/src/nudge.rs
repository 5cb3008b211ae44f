//! Having both ends of forgotten connections look what became of them.
//!
//! Who only waits for an answer sends nothing, and so never hears that its connection leads nowhere any more. A segment that does
//! not fit into the connection makes an end of it say where it is (RFC 9293, 3.10.7.4: an acknowledgment, and the segment is
//! dropped); and that answer finds no connection at the other side, which resets it. Nothing else comes of it: no data, no
//! guess at sequence numbers, and who has no such connection resets the segment.

use std::{io, net::SocketAddrV4};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

use crate::{conntrack::Flow, nftables::Protocol};

const IP_HEADER: usize = 20;
const LENGTH: usize = IP_HEADER + 20;
/// ACK, at the place of TCP's flags.
const ACKNOWLEDGES: u8 = 0x10;

/// The one's complement of the sum of 16 bit words (RFC 1071).
fn checksum(words: impl Iterator<Item = u16>) -> u16 {
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
}

/// A packet with an acknowledgment of nothing. The kernel fills in the IP header's length, number and checksum.
fn packet(from: SocketAddrV4, to: SocketAddrV4) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[0] = 0x45;
    // Time to live, and that it is TCP.
    (packet[8], packet[9]) = (64, Protocol::Tcp.number());
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    // The header's length in words of 32 bits.
    packet[32] = 5 << 4;
    packet[33] = ACKNOWLEDGES;
    let pseudo = [u16::from(Protocol::Tcp.number()), 20];
    let sum = checksum(words(&packet[12..]).chain(pseudo));
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Nudges both ends of connections by TCP, each in the name of the other as it knows it; gives how many nudges were sent. From the calling
/// thread's network namespace; needs CAP_NET_RAW and CAP_NET_ADMIN.
///
/// They carry `mark`, by which a rule keeps them from connection tracking: one that is tracked is a connection of its own, in whose name
/// the end answers, and that answer would not be led to where the connection is.
///
/// # Errors
/// Where no raw socket is to be had. An end that cannot be reached needs no nudge.
pub fn nudge(flows: &[Flow], mark: u32) -> io::Result<usize> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::RAW))?;
    setsockopt(&socket, sockopt::Mark, &mark)?;
    let mut sent = 0;
    for flow in flows.iter().filter(|flow| flow.protocol == Protocol::Tcp) {
        for way in [flow.original, flow.reply] {
            // Towards where that way's packets come from.
            let (from, to) = (way.destination, way.source);
            sent += usize::from(sendto(&socket, &packet(from, to), SendFlags::empty(), &to).is_ok());
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        let example = [0x0001, 0xf203, 0xf4f5, 0xf6f7];
        assert_eq!(checksum(example.into_iter()), !0xddf2);
        assert_eq!(words(&[1, 2, 3]).collect::<Vec<_>>(), [0x0102, 0x0300]);
    }

    proptest! {
        #[test]
        fn who_receives_it_finds_the_sum_right(source: (u32, u16), destination: (u32, u16)) {
            let end = |(address, port): (u32, u16)| SocketAddrV4::new(address.into(), port);
            let packet = packet(end(source), end(destination));
            prop_assert_eq!(checksum(words(&packet[12..]).chain([6, 20])), 0);
        }
    }
}
