//! Disks of guests: their files in the pool, and what a guest that runs has of them.
//!
//! qemu locks each disk that it has open, so that a second one cannot open it, whoever asks for that.

use super::{LIMIT, LONG, Libvirt, astray, domain, domain::Disk, refused};
use crate::compute::Error;
use crate::resource::assignment::MachineVolume;
use stampede_libvirt_protocol::{Answer, Backing, Format, Request, Volume};
use std::collections::{BTreeMap, BTreeSet};

/// The disks of a guest that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveDisks {
    /// By their targets, the files that are written to.
    disks: BTreeMap<String, String>,
    /// All files that are open.
    open: BTreeSet<String>,
}

/// The name of a file in our pool.
fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

impl LiveDisks {
    /// By a domain's XML as it runs.
    fn parse(xml: &str) -> Option<Self> {
        let document = roxmltree::Document::parse(xml).ok()?;
        let disks = document.descendants().filter(|node| node.has_tag_name("disk"));
        let one = |disk: roxmltree::Node<'_, '_>| {
            let part = |name| disk.children().find(|node| node.has_tag_name(name));
            Some((part("target")?.attribute("dev")?.to_owned(), file_name(part("source")?.attribute("file")?)))
        };
        let sources = document.descendants().filter(|node| node.has_tag_name("source"));
        let open = sources.filter_map(|source| source.attribute("file")).map(file_name).collect();
        Some(Self { disks: disks.filter_map(one).collect(), open })
    }

    /// Whether a data volume is among them.
    pub fn has(&self, volume: &str) -> bool {
        let stem = domain::data_volumes(volume);
        self.disks.values().any(|file| file.starts_with(&stem))
    }

    /// Whether a layer of a disk is among the files that are open.
    fn is_open(&self, disk: &Disk, layer: u32) -> bool {
        self.open.contains(&domain::layer(&disk.stem, layer))
    }

    /// Which of a disk's files is written to; `None` where it has none of its layers open.
    fn layer(&self, disk: &Disk) -> Option<usize> {
        let written = self.disks.get(&disk.target)?;
        disk.files.iter().position(|file| file == written)
    }
}

impl Libvirt {
    /// What disks an instance has at this moment; `None` where nothing of it runs.
    ///
    /// # Errors
    /// Where libvirt does not answer.
    pub async fn live_disks(&self, instance: &str) -> Result<Option<LiveDisks>, Error> {
        let action = "look at its disks";
        let uuid = domain::uuid(instance).to_string();
        if !self.by_uuid(&uuid).await?.is_some_and(|domain| domain.active) {
            return Ok(None);
        }
        match self.ask(action, LIMIT, Request::Describe { uuid }).await? {
            Answer::Xml { xml } => LiveDisks::parse(&xml).map(Some).ok_or_else(|| refused(action, "its XML is none")),
            other => Err(astray(action, &other)),
        }
    }

    /// The files of a disk that are there.
    async fn files(&self, disk: &Disk) -> Result<Vec<String>, Error> {
        let action = "look for the disk";
        match self.ask(action, LIMIT, Request::ListVolumes { prefix: format!("{}.", disk.stem) }).await? {
            Answer::Volumes { names } => Ok(names),
            other => Err(astray(action, &other)),
        }
    }

    async fn make_file(&self, volume: Volume) -> Result<(), Error> {
        self.done("make the disk", LONG, Request::CreateVolume(volume)).await
    }

    /// Makes the first layer of a data volume.
    ///
    /// # Errors
    /// Where libvirt does not answer, or says no: the disk is full, say.
    pub async fn make_volume(&self, disk: &Disk, capacity: u64) -> Result<(), Error> {
        self.make_file(Volume { name: domain::layer(&disk.stem, 0), capacity, backing: None, anew: false }).await
    }

    /// Has the files of a disk be there that no guest has open, and the one that is written to be as large as it is to be. The first
    /// is made of `first`; without that it has to be there.
    ///
    /// # Errors
    /// Where libvirt does not answer, or says no; or what was there is gone.
    pub async fn ensure_layers(
        &self,
        disk: &Disk,
        capacity: u64,
        first: Option<&Backing>,
        anew: bool,
    ) -> Result<(), Error> {
        let there = self.files(disk).await?;
        let mut below: Option<&String> = None;
        for (depth, name) in disk.files.iter().enumerate().rev() {
            let (written, is_there) = (depth == 0, there.contains(name));
            if below.is_none() && !is_there && (first.is_none() || disk.files.len() > 1) {
                let message = format!("{name} was made on this host, and is not there any more");
                return Err(refused("look for the disk", &message));
            }
            if !is_there || written {
                let backing = below.map(|file| lower(file)).or_else(|| first.cloned());
                let capacity = if written { capacity } else { 0 };
                self.make_file(Volume { name: name.clone(), capacity, backing, anew: anew && disk.files.len() == 1 })
                    .await?;
            }
            below = Some(name);
        }
        Ok(())
    }

    /// Has a guest that runs write to the layer that is to be written to.
    ///
    /// # Errors
    /// Where libvirt does not answer, or says no; or the guest writes to what is no layer of it.
    pub async fn switch_layer(&self, instance: &str, live: &LiveDisks, disk: &Disk) -> Result<(), Error> {
        let action = "take the snapshot";
        let now =
            live.layer(disk).ok_or_else(|| refused(action, "its guest writes to another layer: stop it first"))?;
        for at in (0..now).rev() {
            let (name, below) = (&disk.files[at], &disk.files[at + 1]);
            self.make_file(Volume { name: name.clone(), capacity: 0, backing: Some(lower(below)), anew: true }).await?;
            let others = live.disks.keys().map(String::as_str).filter(|target| *target != disk.target);
            let xml = domain::snapshot(disk, name, others);
            self.done(action, LONG, Request::Snapshot { uuid: domain::uuid(instance).to_string(), xml }).await?;
        }
        Ok(())
    }

    /// Takes files of a disk away that are none of `layers` and that nobody has open.
    ///
    /// # Errors
    /// Where libvirt does not answer, or says no.
    pub async fn sweep(&self, disk: &Disk, layers: &BTreeSet<u32>, live: Option<&LiveDisks>) -> Result<(), Error> {
        let kept: BTreeSet<String> = layers.iter().map(|number| domain::layer(&disk.stem, *number)).collect();
        for prefix in self.files(disk).await? {
            if !kept.contains(&prefix) && !live.is_some_and(|live| live.open.contains(&prefix)) {
                tracing::info!(file = prefix, "a layer is taken away");
                self.done("remove the layer", LONG, Request::DeleteVolumes { prefix }).await?;
            }
        }
        Ok(())
    }

    /// Brings one layer of a disk of a guest that runs into the one below; whether that is over. It is only where the guest has the
    /// upper one open no more: libvirt's job ends also where the disk is full, and then part of what is in there is nowhere else.
    ///
    /// # Errors
    /// Where libvirt does not answer, or says no; or it was broken off.
    pub async fn merge(&self, instance: &str, disk: &Disk, over: u32, under: u32) -> Result<bool, Error> {
        let action = "merge layers";
        let is_open = async || Ok::<_, Error>(self.live_disks(instance).await?.map(|live| live.is_open(disk, over)));
        // Done before, and not told of.
        if is_open().await? == Some(false) {
            return Ok(true);
        }
        let path = |number| domain::in_pool(&domain::layer(&disk.stem, number)).to_string_lossy().into_owned();
        let (uuid, target) = (domain::uuid(instance).to_string(), disk.target.clone());
        let request = Request::Merge { uuid, target, over: path(over), under: path(under) };
        match self.ask(action, LONG, request).await? {
            Answer::Done => {}
            Answer::Merging => return Ok(false),
            other => return Err(astray(action, &other)),
        }
        match is_open().await? {
            Some(true) => Err(refused(action, "it was broken off; is the disk that the volumes are on full?")),
            Some(false) => Ok(true),
            // Its guest ended meanwhile, and nobody can say. What was brought down lies above it still.
            None => Ok(false),
        }
    }

    /// Takes a data volume away, and all that belongs to it.
    ///
    /// # Errors
    /// Where libvirt does not answer, or says no.
    pub async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.done("remove the volume", LONG, Request::DeleteVolumes { prefix: domain::data_volumes(name) }).await
    }

    /// Gives a guest that runs a data volume.
    ///
    /// # Errors
    /// Where libvirt does not answer, or says no: another has it open, say.
    pub async fn attach(&self, instance: &str, volume: &MachineVolume) -> Result<(), Error> {
        let (uuid, xml) = (domain::uuid(instance).to_string(), domain::data_disk(volume));
        self.done("attach the volume", LONG, Request::AttachDisk { uuid, xml }).await
    }

    /// Asks a guest to let go of a data volume. Whether it has, [`Self::live_disks`] says.
    ///
    /// # Errors
    /// Where libvirt does not answer, or says no.
    pub async fn detach(&self, instance: &str, volume: &MachineVolume) -> Result<(), Error> {
        let (uuid, xml) = (domain::uuid(instance).to_string(), domain::data_disk(volume));
        self.done("detach the volume", LONG, Request::DetachDisk { uuid, xml }).await
    }

    /// Lets a disk of a guest that runs grow.
    ///
    /// # Errors
    /// Where libvirt does not answer, or says no.
    pub async fn grow(&self, instance: &str, disk: &Disk, capacity: u64) -> Result<(), Error> {
        let (uuid, target) = (domain::uuid(instance).to_string(), disk.target.clone());
        self.done("let the disk grow", LONG, Request::GrowDisk { uuid, target, capacity }).await
    }
}

fn lower(file: &str) -> Backing {
    Backing { path: domain::in_pool(file).to_string_lossy().into_owned(), format: Format::Qcow2 }
}

#[cfg(test)]
impl LiveDisks {
    /// With these data volumes.
    pub fn of(names: &[&str]) -> Self {
        let file = |name: &str| format!("{name}-data.qcow2");
        let disks = names.iter().map(|name| ((*name).to_owned(), file(name))).collect();
        Self { disks, open: names.iter().map(|name| file(name)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_has() {
        let volume = MachineVolume { name: "1v55".into(), slot: 2, layers: vec![4, 0] };
        let xml = format!(
            "<domain><devices><disk type='file' device='cdrom'><target dev='sda'/></disk>{}</devices></domain>",
            domain::data_disk(&volume)
        );
        let live = LiveDisks::parse(&xml).unwrap();
        assert!(live.has("1v55") && !live.has("1v5") && !live.has("1v555"));
        assert_eq!(live.open.len(), 2, "{live:?}");
        let layer =
            |layers: &[u32]| live.layer(&Disk::data(&MachineVolume { layers: layers.to_vec(), ..volume.clone() }));
        assert_eq!((layer(&[4, 0]), layer(&[6, 5, 4, 0]), layer(&[7, 0])), (Some(0), Some(2), None));
        let is_open = |layer| live.is_open(&Disk::data(&volume), layer);
        assert_eq!([0, 3, 4].map(is_open), [true, false, true]);
        assert_eq!(LiveDisks::parse("<domain"), None);
    }
}
