//! Looking at links and changing them.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
};

use super::{
    Change, Ensured, Link, LinkSpec, PortFlags, Settings, check_name,
    message::{self, Handle},
    plan,
};
use crate::{
    Error, Netlink,
    socket::{NLM_F_CREATE, NLM_F_EXCL},
};

/// How often a link is made: each further time because another one's was there between the look and the step.
const RACES: usize = 4;

impl Netlink {
    /// All links of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let mut request = LinkMessage::default();
        // Counters are half of a dump and nobody here reads them.
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.dump("list links", &RouteNetlinkMessage::GetLink(request), message::read).await
    }

    /// The link of that name, if there is one.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, Error> {
        check_name(name)?;
        match self.get_link(&Handle::Name(name), &format!("look at link {name}")).await {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The index of the link of that name; [`Error::NoSuchLink`] if there is none.
    pub async fn link_index(&self, name: &str) -> Result<u32, Error> {
        let link = self.link_by_name(name).await?;
        link.map(|link| link.index).ok_or_else(|| Error::NoSuchLink { name: name.to_owned() })
    }

    async fn get_link(&self, handle: &Handle<'_>, action: &str) -> Result<Link, Error> {
        let request = RouteNetlinkMessage::GetLink(message::base(handle));
        let answer = self.one(request, 0, action).await?;
        answer.into_iter().find_map(message::read).ok_or_else(|| Error::NoSuchLink { name: action.to_owned() })
    }

    /// One request and its answer.
    pub(crate) async fn one(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
        action: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let answers = self.request(&[(request, flags)]).await.map_err(|source| Error::request(action, source))?;
        answers.into_iter().next().unwrap_or(Ok(Vec::new())).map_err(|source| Error::request(action, source))
    }

    /// Makes the link as it should be: looks, plans, changes what differs. Steps follow one another and the first that
    /// fails ends it; run again, it goes on from there. Where somebody else makes the same link meanwhile, theirs is
    /// looked at and taken.
    pub async fn ensure_link(&self, desired: &LinkSpec) -> Result<Ensured, Error> {
        for _ in 1..RACES {
            match self.ensure_link_once(desired).await {
                Err(error) if error.is_exists() => {}
                done => return done,
            }
        }
        self.ensure_link_once(desired).await
    }

    async fn ensure_link_once(&self, desired: &LinkSpec) -> Result<Ensured, Error> {
        let current = self.link_by_name(&desired.name).await?;
        let master = match &desired.master {
            Some(master) => Some(self.link_index(master).await?),
            None => None,
        };
        let changes = plan(current.as_ref(), desired, master)?;
        let mut requests = Vec::new();
        for change in &changes {
            steps(desired, current.as_ref(), change, &mut requests);
        }
        self.send_links(requests).await?;
        let index = match current {
            Some(link) if !changes.contains(&Change::Create) => link.index,
            _ => self.link_index(&desired.name).await?,
        };
        for change in &changes {
            tracing::info!(link = desired.name, index, ?change, "link changed");
        }
        Ok(Ensured { index, changes })
    }

    /// Sends link requests in one system call; the first failure is the result.
    pub(super) async fn send_links(&self, requests: Vec<LinkRequest>) -> Result<(), Error> {
        if requests.is_empty() {
            return Ok(());
        }
        let (actions, messages): (Vec<_>, Vec<_>) =
            requests.into_iter().map(|request| (request.action, (request.message, request.flags))).unzip();
        let whole = actions.join(", ");
        let answers = self.request(&messages).await.map_err(|source| Error::request(whole, source))?;
        for (action, answer) in actions.into_iter().zip(answers) {
            answer.map_err(|source| Error::request(action, source))?;
        }
        Ok(())
    }

    /// Sets properties of a link by its name; [`Error::is_not_found`] if there is none.
    pub async fn set_link(&self, name: &str, settings: &Settings) -> Result<(), Error> {
        check_name(name)?;
        let mut requests = Vec::new();
        settle(name, &Handle::Name(name), settings, &mut requests);
        self.send_links(requests).await
    }

    /// Deletes the link of that name; false if there was none. Of a veth pair both ends go.
    pub async fn delete_link(&self, name: &str) -> Result<bool, Error> {
        check_name(name)?;
        let request = RouteNetlinkMessage::DelLink(message::base(&Handle::Name(name)));
        match self.one(request, 0, &format!("delete link {name}")).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves a link into another network namespace. It arrives there down and without addresses.
    pub async fn move_link(&self, name: &str, namespace: BorrowedFd<'_>) -> Result<(), Error> {
        check_name(name)?;
        let mut request = message::base(&Handle::Name(name));
        request.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        let action = format!("move link {name} into another namespace");
        self.one(RouteNetlinkMessage::SetLink(request), 0, &action).await.map(drop)
    }
}

/// One link message with what it is for.
pub(super) struct LinkRequest {
    pub action: String,
    pub message: RouteNetlinkMessage,
    pub flags: u16,
}

fn steps(desired: &LinkSpec, current: Option<&Link>, change: &Change, requests: &mut Vec<LinkRequest>) {
    let name = desired.name.as_str();
    match change {
        Change::Delete { index } => requests.push(LinkRequest {
            action: format!("delete link {name}"),
            message: RouteNetlinkMessage::DelLink(message::base(&Handle::Index(*index))),
            flags: 0,
        }),
        Change::Create => requests.push(LinkRequest {
            action: format!("create {} {name}", desired.kind.name()),
            message: RouteNetlinkMessage::NewLink(message::create(name, &desired.kind)),
            flags: NLM_F_CREATE | NLM_F_EXCL,
        }),
        Change::Set(settings) => {
            // A link that is kept is named by the index that was looked at, a new one has none yet.
            let created = requests.iter().any(|request| request.flags & NLM_F_CREATE != 0);
            let handle = match current {
                Some(link) if !created => Handle::Index(link.index),
                _ => Handle::Name(name),
            };
            settle(name, &handle, settings, requests);
        }
    }
}

/// Settings as messages. Port flags go to the master a link has when the message is read, so a new master has a
/// message of its own before them; up comes with the last, so that no port is up before it is isolated.
pub(super) fn settle(name: &str, handle: &Handle<'_>, settings: &Settings, requests: &mut Vec<LinkRequest>) {
    let mut settings = settings.clone();
    let mut push = |settings: &Settings| {
        requests.push(LinkRequest {
            action: format!("set {} of link {name}", describe(settings)),
            message: RouteNetlinkMessage::NewLink(message::set(handle, settings)),
            flags: 0,
        });
    };
    if settings.master.is_some() && !settings.port.wants_nothing() {
        let last = Settings { port: settings.port, up: settings.up.take(), ..Settings::default() };
        settings.port = PortFlags::default();
        push(&settings);
        push(&last);
    } else {
        push(&settings);
    }
}

fn describe(settings: &Settings) -> String {
    let parts = [
        settings.mtu.map(|mtu| format!("mtu {mtu}")),
        settings.mac.map(|mac| format!("address {mac}")),
        settings.alias.as_ref().map(|alias| format!("alias {alias:?}")),
        settings.master.map(|master| format!("master {master}")),
        (!settings.port.wants_nothing()).then(|| "port flags".to_owned()),
        settings.up.map(|up| if up { "up" } else { "down" }.to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
