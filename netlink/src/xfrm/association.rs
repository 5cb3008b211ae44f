//! Security associations.

use std::{collections::HashMap, fmt, net::IpAddr};

use super::{AeadKey, Lifetimes, Mark, Mode, REQUEST_ID, Selector, UdpEncapsulation};

/// What the kernel tells associations apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssociationId {
    /// Where its packets go.
    pub destination: IpAddr,
    /// The security parameter index on the wire.
    pub spi: u32,
    /// Only packets with this mark.
    pub mark: Mark,
}

impl AssociationId {
    /// Without a mark.
    pub fn new(destination: IpAddr, spi: u32) -> Self {
        Self { destination, spi, mark: Mark::default() }
    }
}

impl fmt::Display for AssociationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "association {:#010x} to {}", self.spi, self.destination)?;
        if self.mark.mask == 0 { Ok(()) } else { write!(f, " mark {:#x}/{:#x}", self.mark.value, self.mark.mask) }
    }
}

/// An association as it should be: ESP with AES-GCM, a tag of 128 bits, extended sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssociationSpec {
    /// What it is known by.
    pub id: AssociationId,
    /// Where its packets come from.
    pub source: IpAddr,
    /// Key and salt.
    pub key: AeadKey,
    /// How packets are wrapped.
    pub mode: Mode,
    /// Packets that may come through it; what comes out of it and is none of these is dropped.
    pub selector: Selector,
    /// How many packets late one may be and still be told from one that is sent again.
    pub replay_window: u32,
    /// ESP in UDP, else protocol 50.
    pub encapsulation: Option<UdpEncapsulation>,
    /// When it ends.
    pub lifetimes: Lifetimes,
    /// What ties it to policies.
    pub request_id: u32,
    /// The XFRM interface it belongs to, 0 for none.
    pub interface_id: u32,
}

impl AssociationSpec {
    /// In transport mode, for all packets between the two, a window of 1,024, for ever.
    pub fn new(source: IpAddr, destination: IpAddr, spi: u32, key: AeadKey) -> Self {
        Self {
            id: AssociationId::new(destination, spi),
            source,
            key,
            mode: Mode::Transport,
            selector: Selector::between(crate::Prefix::host(source), crate::Prefix::host(destination)),
            replay_window: 1024,
            encapsulation: None,
            lifetimes: Lifetimes::default(),
            request_id: REQUEST_ID,
            interface_id: 0,
        }
    }

    /// What XFRM_MSG_UPDSA does not change in one that is there.
    fn fixed(&self) -> (IpAddr, Mode, u32, bool, u32, u32) {
        // The kernel takes new ports for an encapsulation and a lifetime, but adds no encapsulation to one without.
        let encapsulated = self.encapsulation.is_some();
        (self.source, self.mode, self.replay_window, encapsulated, self.request_id, self.interface_id)
    }

    fn changeable(&self) -> (Option<UdpEncapsulation>, Lifetimes, Selector) {
        (self.encapsulation, self.lifetimes, self.selector)
    }
}

impl fmt::Display for AssociationSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.id, self.source)
    }
}

/// An association as it is. Others than ESP with AES-GCM and extended sequence numbers are left out of dumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// What it is. A kernel in lockdown hides the key.
    pub spec: AssociationSpec,
    /// Bytes that went through.
    pub bytes: u64,
    /// Packets that went through.
    pub packets: u64,
    /// When it was made, seconds since 1970.
    pub added: u64,
    /// When it was first used, seconds since 1970; 0 for never.
    pub used: u64,
    /// The last sequence number sent.
    pub sent: u64,
    /// The highest sequence number received.
    pub received: u64,
    /// Packets dropped because they were older than the window.
    pub too_old: u32,
    /// Packets dropped because they came again.
    pub replayed: u32,
    /// Packets dropped because their tag was wrong.
    pub forged: u32,
}

impl Association {
    /// One of ours.
    pub fn is_ours(&self) -> bool {
        self.spec.request_id == REQUEST_ID
    }
}

/// One change of associations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssociationChange {
    /// Add it, its sequence at zero; fails if one is there.
    Add(AssociationSpec),
    /// Change lifetimes, selector and encapsulation of one that is there; key and sequence stay.
    Update(AssociationSpec),
    /// Remove it.
    Remove(AssociationId),
}

impl fmt::Display for AssociationChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(spec) => write!(f, "add {spec}"),
            Self::Update(spec) => write!(f, "update {spec}"),
            Self::Remove(id) => write!(f, "remove {id}"),
        }
    }
}

/// What a plan comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssociationPlan {
    /// In the order in which they are to be made.
    pub changes: Vec<AssociationChange>,
    /// Those that would use a key from its first sequence number again, or are in the way of somebody else's.
    pub refused: Vec<AssociationSpec>,
}

/// The changes from the associations that are there to those desired; of two wishes with one id the first counts.
///
/// New ones come first and those that go come last, so that at no step there is less than before and after. One with another key takes the place
/// of the one that has its id. One with the same key that the kernel cannot change in place is refused, see the module's text.
/// Somebody else's are left alone.
pub fn plan_associations(current: &[Association], desired: &[AssociationSpec]) -> AssociationPlan {
    let there: HashMap<_, _> = current.iter().map(|association| (association.spec.id, association)).collect();
    let mut wishes: HashMap<_, &AssociationSpec> = HashMap::new();
    let mut plan = AssociationPlan::default();
    for wish in desired {
        if wishes.contains_key(&wish.id) {
            continue;
        }
        wishes.insert(wish.id, wish);
        let Some(found) = there.get(&wish.id) else {
            plan.changes.push(AssociationChange::Add(wish.clone()));
            continue;
        };
        let same_key = found.spec.key.agrees(&wish.key);
        if !found.is_ours() || (same_key && found.spec.fixed() != wish.fixed()) {
            plan.refused.push(wish.clone());
        } else if !same_key {
            plan.changes.extend([AssociationChange::Remove(wish.id), AssociationChange::Add(wish.clone())]);
        } else if found.spec.changeable() != wish.changeable() {
            plan.changes.push(AssociationChange::Update(wish.clone()));
        }
    }
    let gone = current.iter().filter(|found| found.is_ours() && !wishes.contains_key(&found.spec.id));
    plan.changes.extend(gone.map(|found| AssociationChange::Remove(found.spec.id)));
    plan
}
