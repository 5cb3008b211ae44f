//! From an assignment to what Docker is asked to create. Pure.

use super::{LABEL_GENERATION, LABEL_INSTANCE, LABEL_TOKEN, LABEL_UUID, NETWORK, network};
use crate::resource::assignment::{Assignment, Container};
use crate::resource::dns_name::DOMAIN;
use crate::systemd::slice_name;
use bollard::models::{ContainerCreateBody, HostConfig, NetworkingConfig, RestartPolicy, RestartPolicyNameEnum};
use std::collections::HashMap;

/// Docker's names have no limit of their own; what shows them does.
const LONGEST_NAME: usize = 100;

/// `<name>-<id>` in the letters that Docker takes; `<id>` where there is no name, or none of it is left.
pub(super) fn name(id: &str, container: &Container) -> String {
    let wanted = container.name.as_deref().unwrap_or_default();
    let safe: String = wanted
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || "_.-".contains(letter) { letter } else { '-' })
        .skip_while(|letter| !letter.is_ascii_alphanumeric())
        .take(LONGEST_NAME)
        .collect();
    let safe = safe.trim_end_matches(['-', '.', '_']);
    if safe.is_empty() { id.to_owned() } else { format!("{safe}-{id}") }
}

/// The container. `slices`: Docker's cgroup driver is systemd, so that it can stand in the instance's slice.
pub(super) fn body(assignment: &Assignment, container: &Container, slices: bool) -> ContainerCreateBody {
    let token = assignment.token;
    let labels = HashMap::from([
        (LABEL_INSTANCE.to_owned(), assignment.id.clone()),
        (LABEL_UUID.to_owned(), assignment.uuid.clone()),
        (LABEL_TOKEN.to_owned(), format!("{}:{}", token.generation, token.revision)),
        (LABEL_GENERATION.to_owned(), assignment.generation.to_string()),
    ]);
    let variables = assignment.environment(container);
    let memory = i64::try_from(container.memory_mb).unwrap_or(i64::MAX).saturating_mul(1 << 20);
    ContainerCreateBody {
        image: Some(container.image.clone()),
        cmd: (!container.command.is_empty()).then(|| container.command.clone()),
        env: Some(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: container.directory.clone(),
        hostname: container.hostname.clone(),
        user: container.user.clone(),
        labels: Some(labels),
        host_config: Some(HostConfig {
            binds: (!container.volumes.is_empty()).then(|| container.volumes.clone()),
            privileged: Some(container.privileged),
            memory: (memory > 0).then_some(memory),
            cgroup_parent: slices.then(|| slice_name(&assignment.id)),
            // Docker's own resolver in the container asks there, with the container's address.
            dns: assignment.network.as_ref().map(|network| vec![network.gateway.to_string()]),
            dns_search: assignment.network.as_ref().map(|_| vec![DOMAIN.to_owned()]),
            network_mode: assignment.network.as_ref().map(|_| NETWORK.to_owned()),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            ..HostConfig::default()
        }),
        networking_config: assignment.network.as_ref().map(|address| NetworkingConfig {
            endpoints_config: Some(HashMap::from([(NETWORK.to_owned(), network::endpoint(address))])),
        }),
        ..ContainerCreateBody::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::assignment::{AssignedLink, ManagedAddress, PublicPort};
    use crate::resource::port::Protocol;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn named(name: &str) -> Container {
        Container { name: Some(name.to_owned()), ..Container::default() }
    }

    #[test]
    fn names_as_people_read_them() {
        assert_eq!(name("1i54", &named("web")), "web-1i54");
        assert_eq!(name("1i54", &named("my web/app")), "my-web-app-1i54");
        assert_eq!(name("1i54", &named("-._")), "1i54");
        assert_eq!(name("1i54", &named("ü")), "1i54");
        assert_eq!(name("1i54", &Container::default()), "1i54");
    }

    #[test]
    fn variables_of_links_do_not_outdo_what_was_asked_for() {
        let asked = [("WEB_PORT", "mine"), ("A", "b")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let container = Container { environment: asked.into(), ..Container::default() };
        let port = PublicPort { protocol: Protocol::Tcp, public: 20_080, private: 80 };
        let link = AssignedLink { name: "web".into(), target: None, ports: vec![port] };
        let mut assignment = Assignment { links: vec![link], ..Assignment::example("1i54") };
        let told = |assignment: &Assignment| body(assignment, &container, false).env.unwrap();
        assert_eq!(told(&assignment), ["A=b", "WEB_PORT=mine"], "without an address there is nothing to be found");
        assignment.network = Some(ManagedAddress {
            address: Ipv4Addr::new(10, 42, 7, 9),
            prefix: 16,
            gateway: Ipv4Addr::new(10, 42, 0, 1),
            mac: "02:00:01:00:07:09".into(),
            mtu: 1380,
        });
        let told = told(&assignment);
        for variable in ["A=b", "WEB_PORT=mine", "WEB_NAME=/cattle/web", "WEB_PORT_80_TCP=tcp://10.42.0.1:20080"] {
            assert!(told.iter().any(|one| one == variable), "{variable}: {told:?}");
        }
    }

    proptest! {
        #[test]
        fn docker_takes_every_name(wanted in ".{0,300}") {
            let name = name("1i54", &named(&wanted));
            prop_assert!(name.len() <= LONGEST_NAME + 5);
            prop_assert!(name.starts_with(|letter: char| letter.is_ascii_alphanumeric()));
            prop_assert!(name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter)));
            prop_assert!(name.ends_with("1i54"));
        }
    }
}
