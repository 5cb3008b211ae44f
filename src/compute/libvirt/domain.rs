//! From an assignment to libvirt's XML, and what of a domain's metadata is ours. Pure.
//!
//! Everything is virtio where a guest of the last fifteen years has a driver for it. The firmware is the machine's BIOS (SeaBIOS).

use crate::resource::assignment::{Assignment, Machine, MachineVolume, Token};
use crate::resource::volume;
use stampede_libvirt_protocol::{Accelerator, CONSOLES, Format, NAMESPACE, POOL_PATH, PREFIX};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// libvirt names files after domains.
const LONGEST_NAME: usize = 60;

/// What a machine's own disk is for its guest.
pub const ROOT: &str = "vda";
/// A place for a device. Disks come to one that runs at places that it has: as many as there may be data volumes, beside those of what
/// each has from the start.
const PLACE: &str = "<controller type='pci' model='pcie-root-port'/>";
const PLACES: usize = volume::MOST as usize + 8;

/// What a domain is called, to be recognized by people: `web-1i54`.
pub fn name(id: &str, machine: &Machine) -> String {
    let fine = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    let mut name: String = machine.name.as_deref().unwrap_or_default().chars().filter(|letter| fine(*letter)).collect();
    name.truncate(LONGEST_NAME);
    let name = name.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
    if name.is_empty() { id.to_owned() } else { format!("{name}-{id}") }
}

/// A domain's uuid: the instance's own where it is one, else one that follows from it.
pub fn uuid(instance: &str) -> uuid::Uuid {
    use sha2::Digest;
    instance.parse().unwrap_or_else(|_| {
        let digest = sha2::Sha256::digest(instance.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    })
}

/// The beginning of the names of an instance's volumes.
pub fn volumes(id: &str) -> String {
    format!("{id}-")
}

/// The file of a layer of a disk ([`crate::resource::snapshot`]).
pub fn layer(stem: &str, number: u32) -> String {
    if number == 0 { format!("{stem}.qcow2") } else { format!("{stem}.{number}.qcow2") }
}

/// A disk of a guest that keeps what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The beginning of its files' names: `1i54-root`, `1v55-data`.
    pub stem: String,
    /// What it is for its guest: `vda`.
    pub target: String,
    /// Its files, from what is written to down to the first.
    pub files: Vec<String>,
}

impl Disk {
    fn new(stem: String, target: String, layers: &[u32]) -> Self {
        let layers = if layers.is_empty() { &[0] } else { layers };
        let files = layers.iter().map(|number| layer(&stem, *number)).collect();
        Self { stem, target, files }
    }

    /// An instance's own.
    pub fn root(id: &str, layers: &[u32]) -> Self {
        Self::new(format!("{id}-root"), ROOT.to_owned(), layers)
    }

    pub fn data(volume: &MachineVolume) -> Self {
        // Behind its guest's own disk and its config drive.
        let target = format!("vd{}", char::from(b'b'.saturating_add(volume.slot)));
        Self::new(format!("{}-data", volume.name), target, &volume.layers)
    }

    /// As a domain has it. Formats are said, and never guessed from what a guest has written.
    pub fn xml(&self, base: Option<(&Path, Format)>, more: &str) -> String {
        let path = |file: &String| escaped(&in_pool(file).to_string_lossy());
        let mut backing = match base {
            Some((base, format)) => backing(&escaped(&base.to_string_lossy()), format, "<backingStore/>"),
            None => "<backingStore/>".to_owned(),
        };
        for file in self.files.iter().skip(1).rev() {
            backing = self::backing(&path(file), Format::Qcow2, &backing);
        }
        let file = self.files.first().map(path).unwrap_or_default();
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='{file}'/>\
             {backing}<target dev='{}' bus='virtio'/>{more}</disk>",
            self.target
        )
    }
}

fn backing(path: &str, format: Format, below: &str) -> String {
    format!("<backingStore type='file'><format type='{}'/><source file='{path}'/>{below}</backingStore>", format.name())
}

/// A data volume, as a domain has it.
pub fn data_disk(volume: &MachineVolume) -> String {
    Disk::data(volume).xml(None, &format!("<serial>{}</serial>", escaped(&volume.name)))
}

/// Has a guest write to that file of a disk from now on, and go on with its `others` as they are.
pub fn snapshot<'a>(disk: &Disk, file: &str, others: impl Iterator<Item = &'a str>) -> String {
    let others: String = others.map(|other| format!("<disk name='{}' snapshot='no'/>", escaped(other))).collect();
    let file = escaped(&in_pool(file).to_string_lossy());
    format!(
        "<domainsnapshot><disks><disk name='{}' snapshot='external'><driver type='qcow2'/><source file='{file}'/></disk>\
         {others}</disks></domainsnapshot>",
        disk.target
    )
}

/// The beginning of the names of what is on the host of a data volume.
pub fn data_volumes(name: &str) -> String {
    format!("{name}-")
}

/// A file of our pool.
pub fn in_pool(name: &str) -> PathBuf {
    Path::new(POOL_PATH).join(name)
}

pub fn config_drive(id: &str) -> PathBuf {
    in_pool(&format!("{id}-config.iso"))
}

/// What the guest writes to its serial console.
pub fn console_log(id: &str) -> PathBuf {
    Path::new(CONSOLES).join(format!("{id}-console.log"))
}

/// Our element in a domain's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub instance: String,
    pub uuid: String,
    pub token: Token,
    pub generation: u64,
    /// On the managed network.
    pub address: Option<String>,
    /// When it was last started, in milliseconds; `None` where it never was.
    pub started: Option<i64>,
    /// Its start is not over: it waits for its port to be pinned.
    pub held: bool,
}

impl Mark {
    pub fn of(assignment: &Assignment) -> Self {
        Self {
            instance: assignment.id.clone(),
            uuid: assignment.uuid.clone(),
            token: assignment.token,
            generation: assignment.generation,
            address: assignment.address().map(|address| address.to_string()),
            started: None,
            held: false,
        }
    }

    /// As it stands in the XML; `prefix` with its colon, or nothing where libvirt puts it there.
    fn element(&self, prefix: &str, declaration: &str) -> String {
        let mut text = format!(
            "<{prefix}instance{declaration} id='{}' uuid='{}' token='{}:{}' generation='{}'",
            escaped(&self.instance),
            escaped(&self.uuid),
            self.token.generation,
            self.token.revision,
            self.generation
        );
        let optional = [
            ("address", self.address.clone()),
            ("started", self.started.map(|started| started.to_string())),
            ("held", self.held.then(|| "yes".to_owned())),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                let _ = write!(text, " {name}='{}'", escaped(&value));
            }
        }
        text.push_str("/>");
        text
    }

    /// For libvirt's call that writes metadata, which adds prefix and namespace.
    pub fn text(&self) -> String {
        self.element("", "")
    }

    /// `None` where that is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let document = roxmltree::Document::parse(text).ok()?;
        let element = document.root_element();
        let attribute = |name: &str| element.attribute(name);
        let (generation, revision) = attribute("token")?.split_once(':')?;
        Some(Self {
            instance: attribute("id")?.to_owned(),
            uuid: attribute("uuid")?.to_owned(),
            token: Token { generation: generation.parse().ok()?, revision: revision.parse().ok()? },
            generation: attribute("generation")?.parse().ok()?,
            address: attribute("address").map(str::to_owned),
            started: attribute("started").and_then(|started| started.parse().ok()),
            held: attribute("held") == Some("yes"),
        })
    }
}

/// What a domain is made of, beside the assignment.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    pub name: &'a str,
    pub mark: &'a Mark,
    pub accelerator: Accelerator,
    pub base: &'a Path,
    pub base_format: Format,
}

/// The domain's definition.
pub fn xml(assignment: &Assignment, machine: &Machine, parts: &Parts<'_>) -> String {
    let cpu = match parts.accelerator {
        Accelerator::Kvm => "<cpu mode='host-model'/>",
        Accelerator::Tcg => "<cpu mode='maximum'/>",
    };
    let (id, memory) = (&assignment.id, machine.memory_mb);
    format!(
        "<domain type='{domain_type}'><name>{name}</name><uuid>{uuid}</uuid>\
         <description>Stampede's instance {id}: stop and change it there, or it is started again</description>\
         <metadata>{mark}</metadata>\
         <memory unit='MiB'>{memory}</memory><currentMemory unit='MiB'>{memory}</currentMemory>\
         <vcpu placement='static'>{vcpu}</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <features><acpi/><apic/></features>{cpu}\
         <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='pit' tickpolicy='delay'/>\
         <timer name='hpet' present='no'/></clock>\
         <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>\
         <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>\
         <devices><controller type='pci' index='0' model='pcie-root'/>{places}{disks}{interface}{console}\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <input type='tablet' bus='usb'/>\
         <graphics type='vnc'><listen type='socket'/></graphics><video><model type='vga'/></video>\
         <watchdog model='i6300esb' action='reset'/>\
         <memballoon model='virtio'/>\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
         </devices></domain>",
        domain_type = parts.accelerator.domain_type(),
        name = escaped(parts.name),
        uuid = uuid(&assignment.uuid),
        mark = parts.mark.element(&format!("{PREFIX}:"), &format!(" xmlns:{PREFIX}='{NAMESPACE}'")),
        vcpu = machine.vcpu,
        places = PLACE.repeat(PLACES),
        disks = disks(id, machine, parts),
        interface = interface(assignment),
        console = console(id),
    )
}

/// The config drive is a disk like the others: kernels that are made for clouds know no CD drives of this machine's kind (AHCI).
fn disks(id: &str, machine: &Machine, parts: &Parts<'_>) -> String {
    let root = Disk::root(id, &machine.layers).xml(Some((parts.base, parts.base_format)), "<boot order='1'/>");
    let volumes: String = machine.volumes.iter().map(data_disk).collect();
    format!(
        "{root}<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{config}'/>\
         <target dev='vdb' bus='virtio'/><readonly/></disk>{volumes}",
        config = escaped(&config_drive(id).to_string_lossy()),
    )
}

/// Its port of the managed network. That it is isolated and all else that a port is here is laid on it before the guest runs
/// ([`super::port`]): libvirt would write that to sysfs, which a host in a container cannot.
fn interface(assignment: &Assignment) -> String {
    let Some(network) = &assignment.network else { return String::new() };
    format!(
        "<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/><target dev='{port}'/>\
         <model type='virtio'/><mtu size='{mtu}'/></interface>",
        mac = escaped(&network.mac),
        bridge = crate::network::BRIDGE,
        port = crate::network::port_name(&assignment.id),
        mtu = network.mtu,
    )
}

fn console(id: &str) -> String {
    let log = escaped(&console_log(id).to_string_lossy());
    format!(
        "<serial type='pty'><log file='{log}' append='off'/><target type='isa-serial' port='0'/></serial>\
         <console type='pty'><log file='{log}' append='off'/><target type='serial' port='0'/></console>"
    )
}

/// Text as an attribute or an element may have it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has no other control characters, whatever they are written as.
            letter if letter.is_control() && !"\t\n\r".contains(letter) => escaped.push('?'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::SubnetSpec;
    use crate::resource::assignment::Workload;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn machine() -> Machine {
        Machine { name: Some("my web/app".into()), vcpu: 2, memory_mb: 512, ..Machine::default() }
    }

    fn assignment() -> Assignment {
        Assignment {
            workload: Workload::VirtualMachine(machine()),
            network: Some(SubnetSpec::default().managed(Ipv4Addr::new(10, 42, 7, 9), 1380)),
            uuid: "77adc9a5-27dd-44be-b2b5-a0e1d4c9c5a2".into(),
            ..Assignment::example("1i54")
        }
    }

    #[test]
    fn a_domain_of_everything_that_a_guest_expects() {
        let (assignment, machine) = (assignment(), machine());
        let mark = Mark::of(&assignment);
        let base = Path::new("/var/lib/libvirt/images/stampede/images/ab.raw");
        let name = name(&assignment.id, &machine);
        let parts = Parts { name: &name, mark: &mark, accelerator: Accelerator::Tcg, base, base_format: Format::Raw };
        let xml = xml(&assignment, &machine, &parts);
        let document = roxmltree::Document::parse(&xml).unwrap();
        let find = |name: &str| document.descendants().find(|node| node.has_tag_name(name)).unwrap();
        assert_eq!(find("name").text(), Some("mywebapp-1i54"));
        assert_eq!(find("uuid").text(), Some("77adc9a5-27dd-44be-b2b5-a0e1d4c9c5a2"));
        assert_eq!((find("memory").text(), find("vcpu").text()), (Some("512"), Some("2")));
        assert_eq!(find("mac").attribute("address"), Some("02:00:01:00:07:09"));
        assert_eq!(
            find("interface").children().find(|node| node.has_tag_name("target")).unwrap().attribute("dev"),
            Some("st-1i54")
        );
        let backing = find("backingStore");
        assert_eq!(backing.children().find(|node| node.has_tag_name("format")).unwrap().attribute("type"), Some("raw"));
        let element = find("metadata").first_element_child().unwrap();
        assert_eq!(element.tag_name().namespace(), Some(NAMESPACE));
        assert_eq!(Mark::parse(&xml[element.range()]), Some(mark));
    }

    #[test]
    fn a_disk_lies_on_its_layers_and_the_last_on_its_image() {
        let disk = Disk::root("1i54", &[3, 1, 0]);
        assert_eq!(disk.files, ["1i54-root.3.qcow2", "1i54-root.1.qcow2", "1i54-root.qcow2"]);
        let xml = disk.xml(Some((Path::new("/x.raw"), Format::Raw)), "");
        let document = roxmltree::Document::parse(&xml).unwrap();
        let files: Vec<_> = document.descendants().filter_map(|node| node.attribute("file")).collect();
        let in_pool = |name: &str| in_pool(name).to_string_lossy().into_owned();
        let wanted: Vec<String> = disk.files.iter().map(|file| in_pool(file)).chain(["/x.raw".to_owned()]).collect();
        assert_eq!(files, wanted);
        let data = MachineVolume { name: "1v55".into(), slot: 2, layers: Vec::new() };
        assert_eq!(Disk::data(&data).files, ["1v55-data.qcow2"]);
        assert_eq!(Disk::data(&data).target, "vdd");
        roxmltree::Document::parse(&snapshot(&disk, "a.qcow2", ["vdb"].into_iter())).unwrap();
    }

    #[test]
    fn names_are_the_instance_s_as_far_as_files_go() {
        let named = |name: &str| super::name("1i54", &Machine { name: Some(name.into()), ..Machine::default() });
        assert_eq!(named("web"), "web-1i54");
        assert_eq!(named("../../etc"), "etc-1i54");
        assert_eq!(named("日本"), "1i54");
        assert!(named(&"x".repeat(500)).len() < 80);
        assert_eq!(uuid("77adc9a5-27dd-44be-b2b5-a0e1d4c9c5a2").to_string(), "77adc9a5-27dd-44be-b2b5-a0e1d4c9c5a2");
        assert_eq!(uuid("mine"), uuid("mine"));
        assert_ne!(uuid("mine"), uuid("yours"));
    }

    proptest! {
        #[test]
        fn what_is_marked_is_read_again(uuid in "\\PC{0,40}", revision: i64, started in prop::option::of(any::<i64>()), held: bool) {
            let mark = Mark { uuid, started, held, token: Token { generation: 3, revision }, ..Mark::of(&assignment()) };
            prop_assert_eq!(Mark::parse(&mark.text()), Some(mark.clone()));
        }
    }
}
