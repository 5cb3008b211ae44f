//! Messages to and from the kernel (struct nlmsghdr of linux/netlink.h).

use rustix::io::Errno;
use zeroize::Zeroize;

use crate::{attribute::Attributes, error::RequestError};

/// NLMSG_ERROR, NLMSG_DONE and the flags of linux/netlink.h.
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
pub(crate) const NLM_F_REQUEST: u16 = 0x01;
pub(crate) const NLM_F_ACK: u16 = 0x04;
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

const HEADER: usize = 16;

/// One message to the kernel, without header.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub kind: u16,
    pub flags: u16,
    pub payload: Vec<u8>,
}

impl Message {
    /// Bytes on the wire.
    pub(super) fn length(&self) -> usize {
        (HEADER + self.payload.len()).next_multiple_of(4)
    }

    pub(super) fn write(&self, extra_flags: u16, sequence: u32, out: &mut Vec<u8>) {
        let length = u32::try_from(HEADER + self.payload.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | extra_flags).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.payload);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// Messages of IPsec hold keys.
impl Drop for Message {
    fn drop(&mut self) {
        self.payload.zeroize();
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.payload.zeroize();
    }
}

/// One message from the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub payload: Vec<u8>,
}

/// What a frame means to an exchange.
pub(super) enum Meaning {
    Acknowledged,
    Refused(RequestError),
    Done,
    Data,
    Nothing,
}

impl Frame {
    /// Cuts a datagram into its messages. What does not add up ends it: a length that lies leaves nothing to trust.
    pub(crate) fn split(datagram: &[u8]) -> Result<Vec<Self>, RequestError> {
        let mut rest = datagram;
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let malformed = || RequestError::Malformed(format!("a message of {} bytes", rest.len()));
            let length = u32_at(rest, 0).ok_or_else(malformed)? as usize;
            if length < HEADER {
                return Err(malformed());
            }
            let message = rest.get(..length).ok_or_else(malformed)?;
            frames.push(Self {
                kind: u16_at(message, 4).ok_or_else(malformed)?,
                flags: u16_at(message, 6).ok_or_else(malformed)?,
                sequence: u32_at(message, 8).ok_or_else(malformed)?,
                payload: message[HEADER..].to_vec(),
            });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(frames)
    }

    pub(super) fn meaning(&self) -> Meaning {
        match self.kind {
            NLMSG_ERROR => match u32_at(&self.payload, 0).map(|code| code.cast_signed()) {
                Some(0) => Meaning::Acknowledged,
                Some(code) => Meaning::Refused(self.refusal(code)),
                None => Meaning::Refused(RequestError::Malformed("an error without a code".to_owned())),
            },
            // The end of a dump carries the dump's own result.
            NLMSG_DONE => match u32_at(&self.payload, 0).map(|code| code.cast_signed()) {
                Some(code) if code < 0 => {
                    Meaning::Refused(RequestError::Refused { errno: Errno::from_raw_os_error(-code), message: None })
                }
                _ => Meaning::Done,
            },
            NLMSG_NOOP | NLMSG_OVERRUN => Meaning::Nothing,
            _ => Meaning::Data,
        }
    }

    /// struct nlmsgerr: the code, the request's header, its payload unless capped, then attributes with the words.
    fn refusal(&self, code: i32) -> RequestError {
        let mut message = None;
        if self.flags & NLM_F_ACK_TLVS != 0 {
            let echoed = if self.flags & NLM_F_CAPPED != 0 {
                HEADER
            } else {
                u32_at(&self.payload, 4).map_or(HEADER, |length| (length as usize).next_multiple_of(4))
            };
            let attributes = self.payload.get(4 + echoed..).unwrap_or_default();
            message = Attributes::new(attributes)
                .find(|attribute| attribute.kind == NLMSGERR_ATTR_MSG)
                .and_then(|attribute| attribute.text());
        }
        RequestError::Refused { errno: Errno::from_raw_os_error(code.saturating_neg()), message }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}
