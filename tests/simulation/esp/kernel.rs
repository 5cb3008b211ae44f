//! One host's kernel, as far as it encrypts: policies and associations, and which of them a packet meets (net/xfrm of Linux).

use stampede::environment::Clock;
use stampede::network::mesh::PORT;
use stampede_netlink::xfrm::{
    Action, Association, AssociationId, AssociationSpec, Direction, Policy, PolicyId, PolicySpec, Selector, Template,
    XfrmEvent,
};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::broadcast;

/// UDP.
const PROTOCOL: u8 = 17;
/// Who hears less often than that has missed something.
const HEARD: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub struct Kernel {
    pub address: IpAddr,
    /// This boot's, which goes with the power.
    pub clock: Option<Arc<dyn Clock>>,
    pub policies: Vec<Policy>,
    pub associations: Vec<Association>,
    /// An agent has closed the port to plain text since the host booted.
    pub closed: bool,
    /// Of a hundred changes so many fail.
    pub refuses: usize,
    /// A call takes up to so many milliseconds.
    pub takes: u64,
    /// Nothing of the overlay's passes its wire.
    pub cut: bool,
    /// Something was done to it that may cost packets until the run is over.
    pub spoiled: bool,
    events: broadcast::Sender<XfrmEvent>,
    indexes: u32,
}

/// What becomes of a packet to the overlay's port before it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// As it is.
    Plain,
    /// Not at all: no policy lets it.
    Blocked,
    /// Not at all: there is no association for it.
    Unprotected,
    /// Through the association at this place.
    Through(usize),
}

impl Kernel {
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            clock: None,
            policies: Vec::new(),
            associations: Vec::new(),
            closed: false,
            refuses: 0,
            takes: 0,
            cut: false,
            spoiled: false,
            events: broadcast::Sender::new(HEARD),
            indexes: 0,
        }
    }

    /// Nothing of before is there any more.
    pub fn boot(&mut self, clock: Option<Arc<dyn Clock>>) {
        self.clock = clock;
        self.policies.clear();
        self.associations.clear();
        self.closed = false;
    }

    pub fn is_on(&self) -> bool {
        self.clock.is_some()
    }

    pub fn tell(&self, event: XfrmEvent) {
        // Where nobody listens it is lost.
        let _ = self.events.send(event);
    }

    pub fn listen(&self) -> broadcast::Receiver<XfrmEvent> {
        self.events.subscribe()
    }

    fn now(&self) -> u64 {
        self.clock.as_ref().map_or(0, |clock| clock.now().0.unsigned_abs() / 1000)
    }

    /// The policy for what goes between these; of two the one with the lower number.
    fn policy(&self, direction: Direction, from: IpAddr, to: IpAddr) -> Option<&PolicySpec> {
        let fits = |spec: &&PolicySpec| spec.id.direction == direction && matches(&spec.id.selector, from, to);
        self.policies.iter().map(|policy| &policy.spec).filter(fits).min_by_key(|spec| spec.priority)
    }

    /// What a packet of this host's meets. The kernel takes the newest association, by the wall clock's seconds.
    pub fn leaves(&self, to: IpAddr) -> Leaves {
        match self.policy(Direction::Out, self.address, to).map(|policy| &policy.action) {
            None | Some(Action::Pass) => Leaves::Plain,
            Some(Action::Block) => Leaves::Blocked,
            Some(Action::Protect(templates)) => {
                let fits = |(_, association): &(usize, &Association)| {
                    let spec = &association.spec;
                    spec.source == self.address
                        && spec.id.destination == to
                        && is_as_asked(templates, spec)
                        && matches(&spec.selector, self.address, to)
                };
                let all = self.associations.iter().enumerate().filter(fits);
                let newest = all.max_by_key(|(place, association)| (association.added, *place));
                newest.map_or(Leaves::Unprotected, |(place, _)| Leaves::Through(place))
            }
        }
    }

    /// The association that this host opens a packet with.
    pub fn opens(&self, spi: u32) -> Option<usize> {
        let id = AssociationId::new(self.address, spi);
        self.associations.iter().position(|association| association.spec.id == id)
    }

    /// Whether a packet is taken in that came through this association, or through none.
    pub fn takes_in(&self, from: IpAddr, through: Option<&AssociationSpec>) -> bool {
        let fits = |spec: &AssociationSpec| matches(&spec.selector, from, self.address);
        match self.policy(Direction::In, from, self.address).map(|policy| &policy.action) {
            None | Some(Action::Pass) => through.is_none_or(fits),
            Some(Action::Block) => false,
            Some(Action::Protect(asked)) => through.is_some_and(|spec| is_as_asked(asked, spec) && fits(spec)),
        }
    }

    /// False where one is there that has its id.
    pub fn add(&mut self, spec: &AssociationSpec) -> bool {
        if self.associations.iter().any(|association| association.spec.id == spec.id) {
            return false;
        }
        let added = self.now();
        self.associations.push(Association {
            spec: spec.clone(),
            bytes: 0,
            packets: 0,
            added,
            used: 0,
            sent: 0,
            received: 0,
            too_old: 0,
            replayed: 0,
            forged: 0,
        });
        self.tell(XfrmEvent::AssociationAdded(spec.id));
        true
    }

    /// Whether it was there.
    pub fn remove(&mut self, id: &AssociationId) -> bool {
        let before = self.associations.len();
        self.associations.retain(|association| association.spec.id != *id);
        let gone = self.associations.len() < before;
        if gone {
            self.tell(XfrmEvent::AssociationGone(*id));
        }
        gone
    }

    /// Puts it in the place of the one for the same packets, if there is one.
    pub fn put_policy(&mut self, spec: &PolicySpec) {
        self.indexes += 1;
        let policy = Policy { spec: spec.clone(), index: self.indexes };
        match self.policies.iter_mut().find(|policy| policy.spec.id == spec.id) {
            Some(there) => *there = policy,
            None => self.policies.push(policy),
        }
        self.tell(XfrmEvent::PolicyChanged);
    }

    pub fn remove_policy(&mut self, id: &PolicyId) {
        self.policies.retain(|policy| policy.spec.id != *id);
        self.tell(XfrmEvent::PolicyChanged);
    }
}

fn is_as_asked(templates: &[Template], spec: &AssociationSpec) -> bool {
    templates.iter().any(|asked| asked.request_id == spec.request_id && asked.mode == spec.mode)
}

/// Whether a packet between these to the overlay's port is one of them.
fn matches(selector: &Selector, from: IpAddr, to: IpAddr) -> bool {
    let port = selector.destination_port.is_none_or(|port| port == PORT);
    let protocol = selector.protocol == 0 || selector.protocol == PROTOCOL;
    selector.source.contains(from) && selector.destination.contains(to) && protocol && port
}
