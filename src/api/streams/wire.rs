//! A conversation in a WebSocket's messages: the same to clients and between agents.
//!
//! Binary, the first byte says what the rest is, in the numbers that Kubernetes gives its channels: 0 input (empty: its
//! end), 1 output, 2 errors' output, 3 the last word as JSON, 4 a terminal's size as JSON. Text is figures to the client,
//! and input from it.

use super::conversation::{End, Said, Told};
use crate::compute::streams::{Channel, Piece};
use axum::body::Bytes;

const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const END: u8 = 3;
const SIZE: u8 = 4;

/// A message of either library for WebSockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Binary(Bytes),
    Text(String),
}

fn tagged(tag: u8, bytes: &[u8]) -> Frame {
    let mut frame = Vec::with_capacity(bytes.len() + 1);
    frame.push(tag);
    frame.extend_from_slice(bytes);
    Frame::Binary(frame.into())
}

pub fn told(told: Told) -> Frame {
    match told {
        Told::Output(Piece { channel: Channel::Stdout, bytes }) => tagged(OUTPUT, &bytes),
        Told::Output(Piece { channel: Channel::Stderr, bytes }) => tagged(ERRORS, &bytes),
        Told::Figures(text) => Frame::Text(text),
        Told::End(end) => tagged(END, &serde_json::to_vec(&end).unwrap_or_default()),
    }
}

/// `None` for what a later version may say.
pub fn read_told(frame: Frame) -> Option<Told> {
    let bytes = match frame {
        Frame::Text(text) => return Some(Told::Figures(text)),
        Frame::Binary(bytes) => bytes,
    };
    let output = |channel| Some(Told::Output(Piece { channel, bytes: bytes.slice(1..) }));
    match *bytes.first()? {
        OUTPUT => output(Channel::Stdout),
        ERRORS => output(Channel::Stderr),
        END => serde_json::from_slice::<End>(&bytes[1..]).ok().map(Told::End),
        _ => None,
    }
}

pub fn said(said: Said) -> Frame {
    match said {
        Said::Input(bytes) => tagged(INPUT, &bytes),
        Said::InputEnd => tagged(INPUT, &[]),
        Said::Resize(size) => tagged(SIZE, &serde_json::to_vec(&size).unwrap_or_default()),
    }
}

pub fn read_said(frame: Frame) -> Option<Said> {
    let bytes = match frame {
        Frame::Text(text) => return Some(Said::Input(text.into())),
        Frame::Binary(bytes) => bytes,
    };
    match *bytes.first()? {
        INPUT if bytes.len() == 1 => Some(Said::InputEnd),
        INPUT => Some(Said::Input(bytes.slice(1..))),
        SIZE => serde_json::from_slice(&bytes[1..]).ok().map(Said::Resize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::streams::Size;
    use proptest::prelude::*;

    #[test]
    fn there_and_back() {
        let bytes = Bytes::from_static(b"\x00\x01text");
        let piece = |channel| Told::Output(Piece { channel, bytes: bytes.clone() });
        for one in
            [piece(Channel::Stdout), piece(Channel::Stderr), Told::Figures("{}".into()), Told::End(End::exited(3))]
        {
            assert_eq!(read_told(told(one.clone())), Some(one));
        }
        for one in [Said::Input(bytes.clone()), Said::InputEnd, Said::Resize(Size { columns: 80, rows: 24 })] {
            assert_eq!(read_said(said(one.clone())), Some(one));
        }
    }

    proptest! {
        #[test]
        fn rubbish_is_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = read_told(Frame::Binary(bytes.clone().into()));
            let _ = read_said(Frame::Binary(bytes.into()));
        }
    }
}
