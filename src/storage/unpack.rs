//! Unpacking what was fetched: gz, bz2, xz and zstd by their first bytes, anything else as it is.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const PIECE: usize = 1 << 20;

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Packing {
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Unpacks `from` into `to`, at most `most` bytes; how many there were. Zeros become holes.
///
/// # Errors
/// What reading, writing or unpacking gives; [`io::ErrorKind::FileTooLarge`] where there is more.
pub fn unpack(from: &mut File, to: &Path, most: u64) -> io::Result<u64> {
    let mut head = [0; 16];
    let length = from.read_at(&mut head, 0)?;
    from.rewind()?;
    let packed = BufReader::with_capacity(PIECE, from);
    match Packing::of(&head[..length]) {
        Packing::None => copy(packed, to, most),
        Packing::Gzip => copy(flate2::bufread::MultiGzDecoder::new(packed), to, most),
        Packing::Bzip2 => copy(bzip2::bufread::MultiBzDecoder::new(packed), to, most),
        Packing::Xz => copy(lzma_rust2::XzReader::new(packed, true), to, most),
        Packing::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(packed)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            copy(decoder, to, most)
        }
    }
}

fn copy(mut from: impl Read, to: &Path, most: u64) -> io::Result<u64> {
    let mut file = File::create(to)?;
    let mut piece = vec![0; PIECE];
    let mut all = 0;
    loop {
        let length = fill(&mut from, &mut piece)?;
        if length == 0 {
            break;
        }
        all += length as u64;
        if all > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if piece[..length].iter().all(|byte| *byte == 0) {
            file.seek_relative(length as i64)?;
        } else {
            file.write_all(&piece[..length])?;
        }
    }
    file.set_len(all)?;
    file.sync_all()?;
    Ok(all)
}

fn fill(from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < piece.len() {
        match from.read(&mut piece[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    /// Others' own programs pack it.
    fn packed(program: &str, plain: &[u8]) -> Option<Vec<u8>> {
        #[allow(clippy::disallowed_types)]
        let mut child =
            std::process::Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut input = child.stdin.take().unwrap();
        let plain = plain.to_vec();
        let writer = std::thread::spawn(move || input.write_all(&plain));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        Some(output.stdout)
    }

    #[test]
    fn what_others_packed_comes_out_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let mut plain = vec![0; 3 << 20];
        for (at, byte) in plain.iter_mut().enumerate().skip(100).take(1 << 20) {
            *byte = u8::try_from(at * at % 251).unwrap();
        }
        plain.extend_from_slice(b"the end");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        for (program, packing) in
            [("gzip", Packing::Gzip), ("bzip2", Packing::Bzip2), ("xz", Packing::Xz), ("zstd", Packing::Zstd)]
        {
            let bytes = packed(program, &plain).unwrap_or_else(|| panic!("{program} is not installed"));
            assert_eq!(Packing::of(&bytes), packing);
            // Cut short is an error, and never a shorter image.
            std::fs::write(&from, &bytes[..bytes.len() - 9]).unwrap();
            assert!(unpack(&mut File::open(&from).unwrap(), &to, 1 << 30).is_err(), "{program}");
            std::fs::write(&from, &bytes).unwrap();
            assert_eq!(unpack(&mut File::open(&from).unwrap(), &to, 1 << 30).unwrap(), plain.len() as u64, "{program}");
            assert!(std::fs::read(&to).unwrap() == plain, "{program}");
            let late = unpack(&mut File::open(&from).unwrap(), &to, 1 << 20).unwrap_err();
            assert_eq!(late.kind(), io::ErrorKind::FileTooLarge, "{program}: a few bytes may become very many");
        }
        std::fs::write(&from, &plain).unwrap();
        assert_eq!(unpack(&mut File::open(&from).unwrap(), &to, 1 << 30).unwrap(), plain.len() as u64);
        assert!(std::fs::read(&to).unwrap() == plain);
    }
}
