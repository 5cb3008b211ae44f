//! The table in which the kernel keeps its associations.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{
    AeadKey, AssociationId, AssociationSpec, Xfrm,
    message::{self, DELETE_ASSOCIATION, NEW_ASSOCIATION},
    wire::Take,
};
use crate::{Error, attribute::Attributes, error::RequestError, socket::Message};

/// So many are made at once.
const BATCH: u32 = 256;
/// The kernel enlarges the table in its own time.
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: u32 = 100;

/// xfrm_msg types of include/uapi/linux/xfrm.h.
pub(super) const NEW_TABLE: u16 = 0x22;
const GET_TABLE: u16 = 0x23;
/// enum xfrm_sadattr_type_t
const XFRMA_SAD_CNT: u16 = 1;
const XFRMA_SAD_HINFO: u16 = 2;
/// The flags before the attributes, of which there are none.
const FLAGS: usize = 4;

/// How large the table is. Where more are added to one bucket than there is room for, the kernel doubles it a little later; while
/// that lasts it finds no association for some packets, and drops them (xfrm_state_find in net/xfrm/xfrm_state.c). It is never made
/// smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AssociationTable {
    /// Everybody's.
    pub associations: u32,
    /// The table grows when there are more associations than these.
    pub buckets: u32,
    /// How many buckets there may be.
    pub most_buckets: u32,
}

/// Asks for it.
pub(super) fn ask() -> Message {
    Message { kind: GET_TABLE, flags: 0, payload: vec![0; FLAGS] }
}

pub(super) fn read(payload: &[u8]) -> Option<AssociationTable> {
    let attributes = Attributes::new(payload.get(FLAGS..)?);
    let associations = Take::new(attributes.get(XFRMA_SAD_CNT)?.value).u32()?;
    // struct xfrmu_sadhinfo
    let mut info = Take::new(attributes.get(XFRMA_SAD_HINFO)?.value);
    Some(AssociationTable { associations, buckets: info.u32()?, most_buckets: info.u32()? })
}

impl Xfrm {
    /// Has the kernel make the table as large as that, at once rather than when it is needed: fills it with what belongs to nobody
    /// (between two addresses of RFC 5737, under `key` and SPIs from `spi` on), until it is large enough, and empties it again. How large
    /// it is then; not larger than the kernel lets it be, and not large enough where it does not get to it.
    ///
    /// # Errors
    /// Where the kernel takes no associations.
    pub async fn enlarge_association_table(
        &self,
        buckets: u32,
        spi: u32,
        key: &AeadKey,
    ) -> Result<AssociationTable, Error> {
        let before = self.association_table().await?;
        let buckets = buckets.min(before.most_buckets);
        if before.buckets >= buckets {
            return Ok(before);
        }
        let mut filling = Filling { xfrm: self, key, spi, made: 0 };
        let filled = filling.fill(buckets).await;
        // Emptied in any case.
        filling.empty().await?;
        filled
    }
}

struct Filling<'a> {
    xfrm: &'a Xfrm,
    key: &'a AeadKey,
    spi: u32,
    made: u32,
}

impl Filling<'_> {
    async fn fill(&mut self, buckets: u32) -> Result<AssociationTable, Error> {
        // The last doubling is due with one more than half of the buckets.
        let enough = buckets / 2 + 1;
        while self.made < enough {
            self.add(BATCH.min(enough - self.made)).await?;
        }
        let mut table = self.xfrm.association_table().await?;
        for _ in 0..PATIENCE {
            if table.buckets >= buckets {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            // The kernel looks whether there is room when one is added.
            self.add(1).await?;
            table = self.xfrm.association_table().await?;
        }
        Ok(table)
    }

    /// Who shares a bucket, as these do by their addresses, makes the kernel look.
    fn spec(&self, number: u32) -> AssociationSpec {
        let [source, destination] = [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));
        AssociationSpec::new(source, destination, self.spi.wrapping_add(number), self.key.clone())
    }

    async fn add(&mut self, count: u32) -> Result<(), Error> {
        let numbers = self.made..self.made + count;
        let adds: Result<Vec<_>, _> =
            numbers.map(|number| message::write_association(NEW_ASSOCIATION, &self.spec(number))).collect();
        self.made += count;
        // Left behind by a process that was killed at this very moment.
        self.ask("fill the table of associations", adds?, Error::is_exists).await
    }

    async fn empty(&mut self) -> Result<(), Error> {
        let ids: Vec<AssociationId> = (0..self.made).map(|number| self.spec(number).id).collect();
        for ids in ids.chunks(BATCH as usize) {
            let removes: Result<Vec<_>, _> =
                ids.iter().map(|id| message::name_association(DELETE_ASSOCIATION, id)).collect();
            self.ask("empty the table of associations", removes?, Error::is_not_found).await?;
        }
        Ok(())
    }

    async fn ask(&self, action: &str, messages: Vec<Message>, fine: impl Fn(&Error) -> bool) -> Result<(), Error> {
        let failed = |source: RequestError| Error::request(action, source);
        for answer in self.xfrm.channel.request(&messages).await.map_err(failed)? {
            match answer.map_err(failed) {
                Err(error) if !fine(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
