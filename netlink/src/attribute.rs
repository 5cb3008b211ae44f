//! Netlink attributes (struct nlattr): written and read.
//!
//! Length (with the four bytes of header, without padding) and kind in the host's byte order, then the value,
//! padded to four bytes. The two highest bits of the kind are flags: NLA_F_NESTED, NLA_F_NET_BYTEORDER.

use crate::Error;

const HEADER: usize = 4;
const NLA_F_NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// Attributes being written, one after the other. One that gets too long (64 KiB) is remembered and
/// [`Writer::finish`] tells of it.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    overflow: Option<u16>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// With room for so many bytes: what does not grow leaves no copy behind.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), overflow: None }
    }

    /// An attribute with these bytes as value.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.put(kind, |writer| writer.bytes.extend_from_slice(value))
    }

    /// A text with its closing NUL.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.put(kind, |writer| {
            writer.bytes.extend_from_slice(value.as_bytes());
            writer.bytes.push(0);
        })
    }

    /// A number in network byte order, as nftables wants all of its own.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes.
    pub(crate) fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        self.put(kind | NLA_F_NESTED, inner)
    }

    fn put(&mut self, kind: u16, value: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        value(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => {
                self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
                self.bytes[start + 2..start + HEADER].copy_from_slice(&kind.to_ne_bytes());
            }
            Err(_) => self.overflow = Some(kind & KIND),
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, or what did not fit.
    pub(crate) fn finish(self, what: &str) -> Result<Vec<u8>, Error> {
        match self.overflow {
            None => Ok(self.bytes),
            Some(_) => Err(Error::TooLarge { what: what.to_owned() }),
        }
    }
}

/// One attribute read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(crate) fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }

    /// The text up to its NUL; bytes that are no UTF-8 are replaced.
    pub(crate) fn text(&self) -> Option<String> {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        Some(String::from_utf8_lossy(self.value.get(..end)?).into_owned())
    }

    pub(crate) fn be32(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn be64(&self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_be_bytes)
    }
}

/// Attributes read one after the other; ends at the first that does not add up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn get(self, kind: u16) -> Option<Attribute<'a>> {
        let mut attributes = self;
        attributes.find(|attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.rest.split_first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = self.rest.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Tree {
        Leaf(u16, Vec<u8>),
        Nested(u16, Vec<Tree>),
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = (1..200u16, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(k, v)| Tree::Leaf(k, v));
        leaf.prop_recursive(4, 64, 6, |inner| {
            (1..200u16, prop::collection::vec(inner, 0..6)).prop_map(|(k, v)| Tree::Nested(k, v))
        })
    }

    fn write(writer: &mut Writer, trees: &[Tree]) {
        for tree in trees {
            match tree {
                Tree::Leaf(kind, value) => writer.bytes(*kind, value),
                Tree::Nested(kind, inner) => writer.nested(*kind, |writer| write(writer, inner)),
            };
        }
    }

    fn same(attributes: Attributes<'_>, trees: &[Tree]) -> bool {
        let read: Vec<_> = attributes.collect();
        read.len() == trees.len()
            && read.iter().zip(trees).all(|(attribute, tree)| match tree {
                Tree::Leaf(kind, value) => attribute.kind == *kind && attribute.value == value.as_slice(),
                Tree::Nested(kind, inner) => attribute.kind == *kind && same(attribute.nested(), inner),
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_stays_aligned(trees in prop::collection::vec(tree(), 0..8)) {
            let mut writer = Writer::new();
            write(&mut writer, &trees);
            let bytes = writer.finish("a tree").unwrap();
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert!(same(Attributes::new(&bytes), &trees));
        }

        #[test]
        fn rubbish_ends_the_reading_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let read: usize = Attributes::new(&bytes).map(|attribute| attribute.value.len() + HEADER).sum();
            prop_assert!(read <= bytes.len());
        }
    }

    #[test]
    fn what_is_longer_than_64_kib_is_an_error_and_not_cut() {
        let mut writer = Writer::new();
        writer.bytes(1, &vec![0; 65_531]);
        assert!(writer.finish("fits").is_ok());
        let mut writer = Writer::new();
        writer.nested(1, |writer| {
            writer.bytes(1, &[0; 40_000]).bytes(2, &[0; 40_000]);
        });
        assert!(matches!(writer.finish("two halves"), Err(Error::TooLarge { what }) if what == "two halves"));
    }
}
