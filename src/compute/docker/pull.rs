//! Fetching an image.

use super::error::refused;
use super::{Docker, LONG};
use crate::compute::{Daemon, Error};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::stream::StreamExt;
use std::collections::HashMap;

/// Pulls, and tells how far it is. Where nothing at all is heard for a while, it is given up.
pub(super) async fn pull(
    docker: &Docker,
    image: &str,
    progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
) -> Result<(), Error> {
    let action = "pull the image";
    let (name, tag) = split(image);
    let options = CreateImageOptionsBuilder::new().from_image(name).tag(tag).build();
    let client = docker.client(action)?;
    let mut answers = client.create_image(Some(options), None, None);
    let mut layers = HashMap::new();
    let mut said = String::new();
    loop {
        let answer = match tokio::time::timeout(LONG, answers.next()).await {
            Err(_) => return Err(Error::Late { daemon: Daemon::Docker, action, limit: LONG }),
            Ok(None) => return Ok(()),
            Ok(Some(Err(source))) => return Err(refused(action, source)),
            Ok(Some(Ok(answer))) => answer,
        };
        let status = answer.status.unwrap_or_default();
        if let (Some(layer), Some(detail)) = (answer.id, answer.progress_detail)
            && status == "Downloading"
            && let (Some(current), Some(total)) = (detail.current, detail.total)
        {
            layers.insert(layer, (current, total));
        }
        let (current, total) = layers.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let text = if status == "Downloading" && total > 0 {
            format!("downloading {image}: {} of {} MB", current / 1_000_000, total / 1_000_000)
        } else if layers.is_empty() || status == "Extracting" {
            format!("{image}: {}", status.to_lowercase())
        } else {
            continue;
        };
        if text != said {
            progress(&text);
            said = text;
        }
    }
}

/// An image's name and its tag or digest. Without either, Docker's own default: its API would fetch every tag.
fn split(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        return (tagged(name).0, digest);
    }
    let (name, tag) = tagged(image);
    (name, tag.unwrap_or("latest"))
}

/// A colon before the last slash belongs to a registry's port.
fn tagged(image: &str) -> (&str, Option<&str>) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_an_image() {
        assert_eq!(split("busybox"), ("busybox", "latest"));
        assert_eq!(split("nginx:1.27"), ("nginx", "1.27"));
        assert_eq!(split("host:5000/a/b"), ("host:5000/a/b", "latest"));
        assert_eq!(split("host:5000/a/b:v1"), ("host:5000/a/b", "v1"));
        assert_eq!(split("a/b@sha256:12ab"), ("a/b", "sha256:12ab"));
        assert_eq!(split("host:5000/a/b:v1@sha256:12ab"), ("host:5000/a/b", "sha256:12ab"));
    }
}
