//! What is asked of a virtual machine before it is made.

use super::orchestrator::{Orchestrator, invalid};
use super::{Draft, ServiceError, workload};
use crate::membership::record::Capability;
use crate::resource::assignment::MachineImage;
use crate::resource::{Resource, identifier, instance};
use serde_json::{Value, json};

const BASE: &str = "image";

/// What a host cannot do yet is refused at once.
pub(super) fn check(wanted: &Resource, managed: bool) -> Result<(), ServiceError> {
    if instance::is_machine(wanted) && !managed {
        let message = "a virtual machine is on the managed network; leave networkIds out";
        return Err(invalid("InvalidOption", instance::NETWORK_IDS, message));
    }
    Ok(())
}

/// Whether an account may make its own of it.
fn is_seen(image: &Resource, account: Option<u64>) -> bool {
    image.account_id.is_none() || image.account_id == account || image.get::<bool>("isPublic") == Some(true)
}

impl Orchestrator {
    /// The image's uuid and number; its address and checksum, which never change, go into the draft.
    pub(super) async fn machine_image(&self, draft: &mut Draft) -> Result<(String, u64), ServiceError> {
        let uuid = draft.fields.get(instance::IMAGE_UUID).and_then(Value::as_str).map(str::to_owned);
        match uuid.as_deref().map(workload::image) {
            Some(Some((Capability::Simulated, uuid))) => {
                return Ok((uuid.to_owned(), self.images().ensure(uuid).await?));
            }
            Some(Some(_)) => {
                let message = "a virtual machine is made from the image of a disk: one with a url";
                return Err(invalid("InvalidImageInstanceKind", instance::IMAGE_UUID, message));
            }
            _ => {}
        }
        let (field, id) = match (uuid, draft.fields.get(instance::IMAGE_ID).and_then(Value::as_u64)) {
            (Some(uuid), _) => (instance::IMAGE_UUID, self.images().find(&uuid).await?),
            (None, id) => (instance::IMAGE_ID, id),
        };
        let absent =
            || invalid("InvalidReference", field, "there is no such image; make one with POST /v1/images and its url");
        let image = match self.read(BASE, id.ok_or_else(absent)?).await {
            Ok((image, _)) if image.removed.is_none() && is_seen(&image, draft.account_id) => image,
            Ok(_) | Err(ServiceError::NotFound) => return Err(absent()),
            Err(error) => return Err(error),
        };
        let kind = image.get::<String>("instanceKind");
        let url = image.get::<String>("url").filter(|url| !url.is_empty());
        let Some(url) = url.filter(|_| kind.is_none_or(|kind| kind == instance::MACHINE)) else {
            let shown = identifier::format(BASE, image.id);
            let message = format!("{shown} is no image of a disk: a virtual machine is made from one that has a url");
            return Err(invalid("InvalidImageInstanceKind", field, message));
        };
        let told = MachineImage { id: image.id, url, checksum: image.get("checksum") };
        draft.fields.insert(instance::MACHINE_IMAGE.into(), json!(told));
        draft.fields.entry(instance::VCPU).or_insert_with(|| 1.into());
        Ok((image.uuid, image.id))
    }
}
