//! Messages of nf_tables: a header (struct nfgenmsg), attributes, and the frame of a batch.

use super::{
    Chain, ChainKind, DataType, Element, ElementData, Family, Hook, Place, Rule, Set, SetData, Table,
    machine::RuleWriter,
    model::{encode_values, type_length, type_number},
};
use crate::{
    Error,
    attribute::{Attributes, Writer},
    socket::{Message, NLM_F_APPEND, NLM_F_CREATE},
};

const SUBSYSTEM: u16 = 10;
pub(crate) const NEW_TABLE: u16 = 0;
pub(crate) const GET_TABLE: u16 = 1;
pub(crate) const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
pub(crate) const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
pub(crate) const GET_RULE: u16 = 7;
pub(crate) const DEL_RULE: u16 = 8;
const NEW_SET: u16 = 9;
pub(crate) const GET_SET: u16 = 10;
pub(crate) const NEW_ELEMENT: u16 = 12;
pub(crate) const GET_ELEMENT: u16 = 13;
pub(crate) const DEL_ELEMENT: u16 = 14;
pub(crate) const NEW_GENERATION: u16 = 15;
pub(crate) const GET_GENERATION: u16 = 16;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// An attribute ends at 64 KiB; a list of elements ends a little before.
const LIST_LIMIT: usize = 60_000;
/// nft's own limit of a comment, with the closing NUL.
const COMMENT_LIMIT: usize = 128;
const MAP: u32 = 0x8;
const DATA_VERDICT: u32 = 0xffff_ff00;

/// The number of a message of nf_tables.
pub(crate) const fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// struct nfgenmsg: family, version, and in a batch's frame the subsystem.
fn header(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

/// A message to a family's tables.
pub(crate) fn message(
    number: u16,
    flags: u16,
    family: Family,
    what: &str,
    write: impl FnOnce(&mut Writer),
) -> Result<Message, Error> {
    let mut writer = Writer::new();
    write(&mut writer);
    let mut payload = header(family.number(), 0);
    payload.extend(writer.finish(what)?);
    Ok(Message { kind: kind(number), flags, payload })
}

/// The attributes of a message from nf_tables.
pub(crate) fn attributes(payload: &[u8]) -> Attributes<'_> {
    Attributes::new(payload.get(4..).unwrap_or_default())
}

/// Puts the messages into the frame of a batch. With a generation, all of it is refused (ERESTART) if somebody
/// committed something since.
pub(super) fn frame(messages: Vec<Message>, generation: Option<u32>) -> Vec<Message> {
    let mut begin = header(0, SUBSYSTEM);
    if let Some(generation) = generation {
        let mut writer = Writer::new();
        writer.be32(1, generation);
        begin.extend(writer.finish("a generation").unwrap_or_default());
    }
    let mut framed = vec![Message { kind: BATCH_BEGIN, flags: 0, payload: begin }];
    framed.extend(messages);
    framed.push(Message { kind: BATCH_END, flags: 0, payload: header(0, SUBSYSTEM) });
    framed
}

/// A comment as userdata, nft's own little format: type 0 (of sets 7), length, text with NUL.
fn comment(kind: u8, text: &str) -> Vec<u8> {
    let mut data = vec![kind, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    data.extend_from_slice(text.as_bytes());
    data.push(0);
    data
}

fn check_comment(text: Option<&str>) -> Result<(), Error> {
    match text {
        Some(text) if text.len() >= COMMENT_LIMIT => Err(Error::TooLarge { what: format!("the comment {text:?}") }),
        _ => Ok(()),
    }
}

/// A comment out of userdata.
pub(super) fn read_comment(userdata: &[u8], kind: u8) -> Option<String> {
    let mut rest = userdata;
    while let [found, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *found == kind {
            return Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned());
        }
        rest = tail.get(usize::from(*length)..)?;
    }
    None
}

pub(super) fn new_table(family: Family, name: &str, text: Option<&str>) -> Result<Message, Error> {
    check_comment(text)?;
    message(NEW_TABLE, NLM_F_CREATE, family, name, |writer| {
        writer.text(1, name);
        if let Some(text) = text {
            writer.bytes(6, &comment(0, text));
        }
    })
}

pub(super) fn delete_table(family: Family, name: &str) -> Result<Message, Error> {
    message(DEL_TABLE, 0, family, name, |writer| {
        writer.text(1, name);
    })
}

fn new_chain(table: &Table, chain: &Chain) -> Result<Message, Error> {
    message(NEW_CHAIN, NLM_F_CREATE, table.family, &chain.name, |writer| {
        writer.text(1, &table.name).text(3, &chain.name);
        if let Some(Hook { kind, place, priority, drop }) = chain.hook {
            let place = match place {
                Place::Prerouting => 0,
                Place::Input => 1,
                Place::Forward => 2,
                Place::Output => 3,
                Place::Postrouting => 4,
            };
            let kind = match kind {
                ChainKind::Filter => "filter",
                ChainKind::Nat => "nat",
                ChainKind::Route => "route",
            };
            writer.nested(4, |writer| {
                writer.be32(1, place).be32(2, priority.cast_unsigned());
            });
            writer.be32(5, u32::from(!drop)).text(7, kind);
        }
    })
}

fn new_set(table: &Table, set: &Set, id: u32) -> Result<Message, Error> {
    check_comment(set.comment.as_deref())?;
    let length = |types| u32::try_from(type_length(types)).unwrap_or(u32::MAX);
    message(NEW_SET, NLM_F_CREATE, table.family, &set.name, |writer| {
        writer.text(1, &table.name).text(2, &set.name);
        writer.be32(3, if set.data.is_some() { MAP } else { 0 });
        writer.be32(4, type_number(&set.key)).be32(5, length(&set.key));
        match &set.data {
            Some(SetData::Values(types)) => {
                writer.be32(6, type_number(types)).be32(7, length(types));
            }
            Some(SetData::Verdict) => {
                writer.be32(6, DATA_VERDICT);
            }
            None => {}
        }
        writer.be32(10, id);
        // For nft: in which byte order it is to read the key and, where that matters, the data (1 the host's, 2 the network's), and the
        // comment.
        let order =
            |types: &[DataType]| -> u32 { if matches!(types, [DataType::Interface | DataType::Mark]) { 1 } else { 2 } };
        let mut userdata = vec![0, 4];
        userdata.extend(order(&set.key).to_ne_bytes());
        if set.data_types() == [DataType::Mark] {
            userdata.extend([1, 4]);
            userdata.extend(order(set.data_types()).to_ne_bytes());
        }
        userdata.extend(set.comment.iter().flat_map(|text| comment(7, text)));
        writer.bytes(13, &userdata);
    })
}

/// A rule; at the end of its chain with NLM_F_APPEND, else at its head.
pub(super) fn new_rule(family: Family, table: &str, chain: &str, rule: &Rule, append: bool) -> Result<Message, Error> {
    check_comment(rule.comment.as_deref())?;
    let flags = NLM_F_CREATE | if append { NLM_F_APPEND } else { 0 };
    let mut failed = Ok(());
    let message = message(NEW_RULE, flags, family, &format!("a rule of chain {chain}"), |writer| {
        writer.text(1, table).text(2, chain).nested(4, |writer| {
            let mut expressions = RuleWriter::new(writer, family);
            failed = rule.expressions.iter().try_for_each(|expression| expressions.write(expression));
        });
        if let Some(text) = &rule.comment {
            writer.bytes(7, &comment(0, text));
        }
    })?;
    failed.map(|()| message)
}

/// The table's structure: sets without elements, chains, rules.
pub(super) struct Structure {
    pub sets: Vec<Message>,
    pub chains: Vec<Message>,
    pub rules: Vec<Message>,
}

impl Structure {
    pub(super) fn of(table: &Table) -> Result<Self, Error> {
        let sets: Result<_, _> = (1..).zip(&table.sets).map(|(id, set)| new_set(table, set, id)).collect();
        let chains: Result<_, _> = table.chains.iter().map(|chain| new_chain(table, chain)).collect();
        let rules: Result<_, _> = table
            .chains
            .iter()
            .flat_map(|chain| chain.rules.iter().map(move |rule| (chain, rule)))
            .map(|(chain, rule)| new_rule(table.family, &table.name, &chain.name, rule, true))
            .collect();
        Ok(Self { sets: sets?, chains: chains?, rules: rules? })
    }

    /// A number that stays the same over programs and versions as long as the messages do (FNV-1a, 64 bits).
    pub(super) fn digest(&self) -> u64 {
        let messages = self.sets.iter().chain(&self.chains).chain(&self.rules);
        messages
            .flat_map(|message| message.kind.to_le_bytes().into_iter().chain(message.payload.iter().copied()))
            .fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

/// An element's key and data as the kernel has them.
pub(super) fn element_bytes(set: &Set, element: &Element) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let key = encode_values(&element.key, &set.key, &set.name)?;
    let wrong = || Error::WrongType { set: set.name.clone(), value: format!("{element:?}") };
    let data = match (&set.data, &element.data) {
        (None, None) => Vec::new(),
        (Some(SetData::Values(types)), Some(ElementData::Values(values))) => encode_values(values, types, &set.name)?,
        // A verdict has no bytes of its own; its text tells verdicts apart.
        (Some(SetData::Verdict), Some(ElementData::Verdict(verdict))) => verdict.to_string().into_bytes(),
        _ => return Err(wrong()),
    };
    Ok((key, data))
}

/// Elements to add or, without their data, to delete, in as many messages as it takes.
pub(super) fn elements<'a>(
    number: u16,
    family: Family,
    table: &str,
    set: &Set,
    elements: impl IntoIterator<Item = &'a Element>,
) -> Result<Vec<Message>, Error> {
    let mut elements = elements.into_iter().peekable();
    let mut messages = Vec::new();
    while elements.peek().is_some() {
        let mut failed = Ok(());
        let flags = if number == NEW_ELEMENT { NLM_F_CREATE } else { 0 };
        messages.push(message(number, flags, family, &set.name, |writer| {
            writer.text(1, table).text(2, &set.name).nested(3, |writer| {
                let start = writer.len();
                while failed.is_ok() && writer.len() - start < LIST_LIMIT {
                    let Some(element) = elements.next() else { break };
                    failed = element_bytes(set, element).map(|(key, data)| {
                        write_element(writer, element, &key, Some(data).filter(|_| number == NEW_ELEMENT));
                    });
                }
            });
        })?);
        failed?;
    }
    Ok(messages)
}

fn write_element(writer: &mut Writer, element: &Element, key: &[u8], data: Option<Vec<u8>>) {
    writer.nested(1, |writer| {
        writer.nested(1, |writer| {
            writer.bytes(1, key);
        });
        match (&element.data, data) {
            (Some(ElementData::Values(_)), Some(data)) => {
                writer.nested(2, |writer| {
                    writer.bytes(1, &data);
                });
            }
            (Some(ElementData::Verdict(verdict)), Some(_)) => {
                writer.nested(2, |writer| verdict.write(writer));
            }
            _ => {}
        }
    });
}

/// Keys to delete, as they were read.
pub(super) fn keys(family: Family, table: &str, set: &Set, keys: &[Vec<u8>]) -> Result<Vec<Message>, Error> {
    // An element with its header and key is below 100 bytes.
    let chunk = |keys: &[Vec<u8>]| {
        message(DEL_ELEMENT, 0, family, &set.name, |writer| {
            writer.text(1, table).text(2, &set.name).nested(3, |writer| {
                for key in keys {
                    writer.nested(1, |writer| {
                        writer.nested(1, |writer| {
                            writer.bytes(1, key);
                        });
                    });
                }
            });
        })
    };
    keys.chunks(LIST_LIMIT / 100).map(chunk).collect()
}
