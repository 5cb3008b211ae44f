//! Messages of NETLINK_XFRM: a struct, then attributes (enum xfrm_attr_type_t).

use std::net::IpAddr;

use super::{
    Action, AeadKey, Association, AssociationId, AssociationSpec, AssociationTable, Direction, Mark, Mode, Policy,
    PolicyId, PolicySpec, Template, UdpEncapsulation, XfrmEvent, event, table,
    wire::{Put, Take, address, family},
};
use crate::{
    Error,
    attribute::{Attributes, Writer},
    socket::Message,
};

/// xfrm_msg types of include/uapi/linux/xfrm.h.
pub(super) const NEW_ASSOCIATION: u16 = 0x10;
pub(super) const DELETE_ASSOCIATION: u16 = 0x11;
pub(super) const GET_ASSOCIATION: u16 = 0x12;
pub(super) const NEW_POLICY: u16 = 0x13;
pub(super) const DELETE_POLICY: u16 = 0x14;
pub(super) const GET_POLICY: u16 = 0x15;
pub(super) const UPDATE_POLICY: u16 = 0x19;
pub(super) const UPDATE_ASSOCIATION: u16 = 0x1a;

const XFRMA_ENCAP: u16 = 4;
const XFRMA_TMPL: u16 = 5;
const XFRMA_POLICY_TYPE: u16 = 16;
const XFRMA_ALG_AEAD: u16 = 18;
const XFRMA_MARK: u16 = 21;
const XFRMA_REPLAY_ESN_VAL: u16 = 23;
const XFRMA_IF_ID: u16 = 31;

const IPPROTO_ESP: u8 = 50;
const XFRM_STATE_ESN: u8 = 128;
const UDP_ENCAP_ESPINUDP: u16 = 2;
const AEAD: &str = "rfc4106(gcm(aes))";
const AEAD_NAME: usize = 64;
/// Bits of the tag behind each packet.
const TAG: u32 = 128;
/// struct xfrm_usersa_info, and all attributes of ours behind it with room to spare.
const ROOM: usize = 1024;
const USERSA_INFO: usize = 224;
const USERPOLICY_INFO: usize = 168;

/// A netlink message of the XFRM family that is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Understood {
    /// An association, in a dump or told of.
    Association(Box<Association>),
    /// A policy, in a dump or told of.
    Policy(Box<Policy>),
    /// How large the table of associations is.
    Table(AssociationTable),
    /// Something that happened.
    Event(XfrmEvent),
}

/// Reads what the kernel sent. Whatever the bytes are, it only says yes or no.
pub fn understand(kind: u16, payload: &[u8]) -> Option<Understood> {
    match kind {
        NEW_ASSOCIATION | UPDATE_ASSOCIATION => {
            read_association(payload).map(|it| Understood::Association(Box::new(it)))
        }
        NEW_POLICY | UPDATE_POLICY => read_policy(payload).map(|it| Understood::Policy(Box::new(it))),
        table::NEW_TABLE => table::read(payload).map(Understood::Table),
        _ => event::read(kind, payload).map(Understood::Event),
    }
}

fn mark(writer: &mut Writer, mark: Mark) {
    if mark != Mark::default() {
        writer.bytes(XFRMA_MARK, &Put::default().u32(mark.value).u32(mark.mask).bytes);
    }
}

fn interface(writer: &mut Writer, id: u32) {
    if id != 0 {
        writer.bytes(XFRMA_IF_ID, &id.to_ne_bytes());
    }
}

fn read_mark(attributes: Attributes<'_>) -> Mark {
    let read = |mut value: Take<'_>| Some(Mark { value: value.u32()?, mask: value.u32()? });
    attributes.get(XFRMA_MARK).and_then(|mark| read(Take::new(mark.value))).unwrap_or_default()
}

fn read_interface(attributes: Attributes<'_>) -> u32 {
    attributes.get(XFRMA_IF_ID).and_then(|id| Take::new(id.value).u32()).unwrap_or(0)
}

fn message(kind: u16, flags: u16, header: &Put, writer: Writer, what: impl Fn() -> String) -> Result<Message, Error> {
    let attributes = zeroize::Zeroizing::new(writer.finish(&what())?);
    let mut payload = Vec::with_capacity(header.bytes.len() + attributes.len());
    payload.extend_from_slice(&header.bytes);
    payload.extend_from_slice(&attributes);
    Ok(Message { kind, flags, payload })
}

/// struct xfrm_usersa_info with its attributes: adds one or, by another number, updates it.
pub(super) fn write_association(kind: u16, spec: &AssociationSpec) -> Result<Message, Error> {
    let mut info = Put::default();
    info.selector(&spec.selector)
        .id(spec.id.destination, spec.id.spi, IPPROTO_ESP)
        .address(spec.source)
        .lifetimes(&spec.lifetimes)
        // What went through, statistics, sequence: all the kernel's.
        .pad(32 + 12 + 4)
        .u32(spec.request_id)
        .u16(family(spec.id.destination))
        .u8(spec.mode.number())
        // The small window's size; the large one is in its attribute.
        .u8(0)
        .u8(XFRM_STATE_ESN)
        .pad(7);
    let mut writer = Writer::with_capacity(ROOM);
    let material = spec.key.material();
    let mut aead = Put::with_capacity(AEAD_NAME + 8 + material.len());
    aead.raw(AEAD.as_bytes())
        .pad(AEAD_NAME - AEAD.len())
        .u32(u32::try_from(material.len() * 8).unwrap_or(u32::MAX))
        .u32(TAG)
        .raw(material);
    writer.bytes(XFRMA_ALG_AEAD, &zeroize::Zeroizing::new(aead.bytes));
    let words = spec.replay_window.div_ceil(32);
    let mut replay = Put::default();
    replay.u32(words).pad(4 * 4).u32(spec.replay_window).pad(words as usize * 4);
    writer.bytes(XFRMA_REPLAY_ESN_VAL, &replay.bytes);
    if let Some(ports) = spec.encapsulation {
        let mut encapsulation = Put::default();
        encapsulation.u16(UDP_ENCAP_ESPINUDP).be16(ports.source_port).be16(ports.destination_port).pad(2 + 16);
        writer.bytes(XFRMA_ENCAP, &encapsulation.bytes);
    }
    mark(&mut writer, spec.id.mark);
    interface(&mut writer, spec.interface_id);
    message(kind, 0, &info, writer, || spec.to_string())
}

/// struct xfrm_usersa_id: asks for one or removes it.
pub(super) fn name_association(kind: u16, id: &AssociationId) -> Result<Message, Error> {
    let mut header = Put::default();
    header.address(id.destination).be32(id.spi).u16(family(id.destination)).u8(IPPROTO_ESP).pad(1);
    let mut writer = Writer::new();
    mark(&mut writer, id.mark);
    message(kind, 0, &header, writer, || id.to_string())
}

fn read_association(payload: &[u8]) -> Option<Association> {
    let (info, attributes) = payload.split_at_checked(USERSA_INFO)?;
    let attributes = Attributes::new(attributes);
    // The family stands behind what depends on it.
    let family = Take::new(info.get(212..)?).u16()?;
    let mut info = Take::new(info);
    let selector = info.selector(family)?;
    let destination = address(info.address()?, family)?;
    let spi = info.be32()?;
    if info.u8()? != IPPROTO_ESP {
        return None;
    }
    info.skip(3)?;
    let source = address(info.address()?, family)?;
    let lifetimes = info.lifetimes()?;
    let (bytes, packets, added, used) = (info.u64()?, info.u64()?, info.u64()?, info.u64()?);
    let (too_old, replayed, forged) = (info.u32()?, info.u32()?, info.u32()?);
    info.skip(4)?;
    let request_id = info.u32()?;
    info.skip(2)?;
    let mode = Mode::read(info.u8()?)?;
    info.skip(1)?;
    if info.u8()? & XFRM_STATE_ESN == 0 {
        return None;
    }
    let mut replay = Take::new(attributes.get(XFRMA_REPLAY_ESN_VAL)?.value);
    replay.skip(4)?;
    let (out_low, in_low, out_high, in_high) = (replay.u32()?, replay.u32()?, replay.u32()?, replay.u32()?);
    let join = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let encapsulation = match attributes.get(XFRMA_ENCAP) {
        None => None,
        Some(attribute) => {
            let mut ports = Take::new(attribute.value);
            ports.skip(2)?;
            Some(UdpEncapsulation { source_port: ports.be16()?, destination_port: ports.be16()? })
        }
    };
    Some(Association {
        spec: AssociationSpec {
            id: AssociationId { destination, spi, mark: read_mark(attributes) },
            source,
            key: read_key(attributes)?,
            mode,
            selector,
            replay_window: replay.u32()?,
            encapsulation,
            lifetimes,
            request_id,
            interface_id: read_interface(attributes),
        },
        bytes,
        packets,
        added,
        used,
        sent: join(out_high, out_low),
        received: join(in_high, in_low),
        too_old,
        replayed,
        forged,
    })
}

/// struct xfrm_algo_aead
fn read_key(attributes: Attributes<'_>) -> Option<AeadKey> {
    let attribute = attributes.get(XFRMA_ALG_AEAD)?;
    let mut aead = Take::new(attribute.value);
    let name = aead.raw(AEAD_NAME)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let (bits, tag) = (aead.u32()?, aead.u32()?);
    if name != AEAD.as_bytes() || tag != TAG {
        return None;
    }
    AeadKey::read(aead.raw(bits.div_ceil(8) as usize)?)
}

/// struct xfrm_userpolicy_info with its attributes: adds one or, by another number, replaces it.
pub(super) fn write_policy(kind: u16, spec: &PolicySpec) -> Result<Message, Error> {
    let mut info = Put::default();
    info.selector(&spec.id.selector)
        .lifetimes(&spec.lifetimes)
        // What went through.
        .pad(32)
        .u32(spec.priority)
        // The kernel chooses the index.
        .u32(0)
        .u8(spec.id.direction.number())
        .u8(u8::from(spec.action == Action::Block))
        // No flags; share: XFRM_SHARE_ANY.
        .pad(2 + 4);
    let mut writer = Writer::new();
    if let Action::Protect(templates) = &spec.action {
        let mut list = Put::default();
        for template in templates {
            write_template(&mut list, template);
        }
        writer.bytes(XFRMA_TMPL, &list.bytes);
    }
    mark(&mut writer, spec.id.mark);
    interface(&mut writer, spec.id.interface_id);
    message(kind, 0, &info, writer, || spec.to_string())
}

/// struct xfrm_user_tmpl
fn write_template(list: &mut Put, template: &Template) {
    list.id(template.destination, template.spi, IPPROTO_ESP)
        .u16(family(template.destination))
        .pad(2)
        .address(template.source)
        .u32(template.request_id)
        .u8(template.mode.number())
        .u8(0)
        .u8(u8::from(template.optional))
        .pad(1)
        // Any algorithm: which one is the association's affair.
        .u32(u32::MAX)
        .u32(u32::MAX)
        .u32(u32::MAX);
}

fn read_template(template: &mut Take<'_>) -> Option<Template> {
    let destination = template.address()?;
    let spi = template.be32()?;
    if template.u8()? != IPPROTO_ESP {
        return None;
    }
    template.skip(3)?;
    let family = template.u16()?;
    template.skip(2)?;
    let source = template.address()?;
    let request_id = template.u32()?;
    let mode = Mode::read(template.u8()?)?;
    template.skip(1)?;
    let optional = template.u8()? != 0;
    template.skip(1 + 3 * 4)?;
    let (source, destination) = (address(source, family)?, address(destination, family)?);
    Some(Template { source, destination, spi, request_id, mode, optional })
}

/// struct xfrm_userpolicy_id: asks for one or removes it.
pub(super) fn name_policy(kind: u16, id: &PolicyId) -> Result<Message, Error> {
    let mut header = Put::default();
    header.selector(&id.selector).u32(0).u8(id.direction.number()).pad(3);
    let mut writer = Writer::new();
    mark(&mut writer, id.mark);
    interface(&mut writer, id.interface_id);
    message(kind, 0, &header, writer, || id.to_string())
}

fn read_policy(payload: &[u8]) -> Option<Policy> {
    let (info, attributes) = payload.split_at_checked(USERPOLICY_INFO)?;
    let attributes = Attributes::new(attributes);
    // struct xfrm_userpolicy_type: its first byte is 0 for `main`.
    if attributes.get(XFRMA_POLICY_TYPE).is_some_and(|kind| kind.value.first() != Some(&0)) {
        return None;
    }
    let mut info = Take::new(info);
    let selector = info.selector(0)?;
    let lifetimes = info.lifetimes()?;
    info.skip(32)?;
    let (priority, index) = (info.u32()?, info.u32()?);
    // Higher numbers are policies of single sockets.
    let direction = Direction::read(info.u8()?)?;
    let blocks = info.u8()? != 0;
    let mut templates = Vec::new();
    let mut list = Take::new(attributes.get(XFRMA_TMPL).map_or(&[], |list| list.value));
    while !list.rest().is_empty() {
        templates.push(read_template(&mut list)?);
    }
    let action = match (blocks, templates.is_empty()) {
        (true, _) => Action::Block,
        (false, true) => Action::Pass,
        (false, false) => Action::Protect(templates),
    };
    let interface_id = read_interface(attributes);
    let id = PolicyId { selector, direction, mark: read_mark(attributes), interface_id };
    Some(Policy { spec: PolicySpec { id, action, priority, lifetimes }, index })
}

/// A dump of everything of the kind asked for: xfrm_user takes no header there.
pub(super) fn list(kind: u16) -> Message {
    Message { kind, flags: 0, payload: Vec::new() }
}

/// Destination and family of a struct xfrm_usersa_id or the start of xfrm_usersa_info.
pub(super) fn read_id(id: &mut Take<'_>) -> Option<(IpAddr, u32, u8)> {
    let destination = id.address()?;
    let spi = id.be32()?;
    let family = id.u16()?;
    let protocol = id.u8()?;
    id.skip(1)?;
    Some((address(destination, family)?, spi, protocol))
}
