//! What a container uses, from Docker's figures.

use super::Docker;
use super::error::refused;
use crate::compute::Error;
use crate::compute::streams::{Blkio, Cpu, Figures, Memory, Traffic};
use bollard::models::{
    ContainerBlkioStats, ContainerCpuStats, ContainerMemoryStats, ContainerNetworkStats, ContainerStatsResponse,
};
use bollard::query_parameters::StatsOptionsBuilder;
use futures::stream::{BoxStream, StreamExt};
use std::future::ready;

pub(super) fn follow(docker: &Docker, external_id: &str) -> Result<BoxStream<'static, Result<Figures, Error>>, Error> {
    let action = "read its figures";
    let options = StatsOptionsBuilder::new().stream(true).one_shot(false).build();
    let client = docker.client(action)?.clone();
    Ok(client
        .stats(external_id, Some(options))
        .map(move |told| told.map_err(|source| refused(action, source)))
        // Of a container that has ended Docker goes on to tell nothing, every second.
        .take_while(|told| ready(told.as_ref().map_or(true, runs)))
        .map(|told| told.map(|told| figures(&told)))
        .boxed())
}

/// What is told was looked at: Docker's word for never is the year 1.
fn runs(told: &ContainerStatsResponse) -> bool {
    told.read.as_deref().is_some_and(|read| !read.starts_with("0001-"))
}

fn figures(told: &ContainerStatsResponse) -> Figures {
    Figures {
        time: told.read.clone().unwrap_or_default(),
        cpu: cpu(told.cpu_stats.as_ref(), told.precpu_stats.as_ref()),
        memory: told.memory_stats.as_ref().and_then(memory),
        network: told
            .networks
            .as_ref()
            .map(|all| all.iter().map(|(name, network)| (name.clone(), traffic(network))).collect()),
        blkio: told.blkio_stats.as_ref().and_then(blkio),
        processes: told.pids_stats.as_ref().and_then(|pids| pids.current),
    }
}

fn cpu(now: Option<&ContainerCpuStats>, before: Option<&ContainerCpuStats>) -> Option<Cpu> {
    let now = now?;
    let usage = now.cpu_usage.clone().unwrap_or_default();
    let total = |it: &ContainerCpuStats| it.cpu_usage.as_ref().and_then(|usage| usage.total_usage);
    // Nothing runs without having used any.
    let total_nanos = total(now).filter(|total| *total > 0)?;
    let processors = now.online_cpus.filter(|count| *count > 0);
    // The system's time is of all processors together.
    let percent = before.and_then(|before| {
        let own = total(now)?.checked_sub(total(before)?)?;
        let system = now.system_cpu_usage?.checked_sub(before.system_cpu_usage?).filter(|span| *span > 0)?;
        let percent = own as f64 / system as f64 * f64::from(processors?) * 100.0;
        Some((percent * 100.0).round() / 100.0)
    });
    Some(Cpu {
        percent,
        total_nanos,
        user_nanos: usage.usage_in_usermode.unwrap_or_default(),
        system_nanos: usage.usage_in_kernelmode.unwrap_or_default(),
        processors,
        throttled_nanos: now.throttling_data.as_ref().and_then(|it| it.throttled_time).filter(|time| *time > 0),
    })
}

fn memory(told: &ContainerMemoryStats) -> Option<Memory> {
    let usage = told.usage?;
    // cgroup 2, and 1.
    let named = |name: &str| told.stats.as_ref().and_then(|stats| stats.get(name)).copied();
    let cache = named("inactive_file").or_else(|| named("total_inactive_file")).unwrap_or_default().min(usage);
    Some(Memory { used_bytes: usage - cache, cache_bytes: cache, limit_bytes: told.limit.filter(|limit| *limit > 0) })
}

fn traffic(told: &ContainerNetworkStats) -> Traffic {
    Traffic {
        received_bytes: told.rx_bytes.unwrap_or_default(),
        received_packets: told.rx_packets.unwrap_or_default(),
        received_dropped: told.rx_dropped.unwrap_or_default(),
        sent_bytes: told.tx_bytes.unwrap_or_default(),
        sent_packets: told.tx_packets.unwrap_or_default(),
        sent_dropped: told.tx_dropped.unwrap_or_default(),
    }
}

fn blkio(told: &ContainerBlkioStats) -> Option<Blkio> {
    let entries = told.io_service_bytes_recursive.as_ref()?;
    let sum = |operation: &str| {
        let of =
            entries.iter().filter(|entry| entry.op.as_deref().is_some_and(|op| op.eq_ignore_ascii_case(operation)));
        of.filter_map(|entry| entry.value).sum()
    };
    Some(Blkio { read_bytes: sum("read"), written_bytes: sum("write") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_tells_it() {
        let told: ContainerStatsResponse = serde_json::from_value(serde_json::json!({
            "read": "2026-11-26T13:00:01.5Z",
            "pids_stats": { "current": 2 },
            "networks": { "eth0": { "rx_bytes": 7, "tx_packets": 3 } },
            "memory_stats": { "usage": 1000, "limit": 5000, "stats": { "inactive_file": 400 } },
            "blkio_stats": { "io_service_bytes_recursive": [
                { "major": 8, "minor": 0, "op": "read", "value": 4096 }, { "major": 8, "minor": 1, "op": "Read", "value": 1 },
            ] },
            "cpu_stats": { "cpu_usage": { "total_usage": 1500, "usage_in_usermode": 1000, "usage_in_kernelmode": 500 },
                "system_cpu_usage": 4000, "online_cpus": 2 },
            "precpu_stats": { "cpu_usage": { "total_usage": 500 }, "system_cpu_usage": 2000 },
        }))
        .unwrap();
        assert!(runs(&told));
        let figures = figures(&told);
        assert_eq!(figures.cpu.unwrap().percent, Some(100.0));
        assert_eq!(figures.memory, Some(Memory { used_bytes: 600, cache_bytes: 400, limit_bytes: Some(5000) }));
        assert_eq!(figures.blkio, Some(Blkio { read_bytes: 4097, written_bytes: 0 }));
        assert_eq!(figures.network.unwrap()["eth0"].received_bytes, 7);
        assert_eq!(figures.processes, Some(2));
        // What the first has no figures before it for is left out.
        assert_eq!(cpu(told.cpu_stats.as_ref(), None).unwrap().percent, None);
    }

    #[test]
    fn what_the_kernel_does_not_count_is_absent() {
        let told: ContainerStatsResponse = serde_json::from_value(serde_json::json!({
            "read": "2026-11-26T13:55:33.735105999Z", "pids_stats": {}, "memory_stats": { "stats": { "anon": 0 } },
            "blkio_stats": { "io_service_bytes_recursive": null }, "cpu_stats": { "cpu_usage": { "total_usage": 0 } },
        }))
        .unwrap();
        assert!(runs(&told));
        let text = serde_json::to_string(&figures(&told)).unwrap();
        assert_eq!(text, r#"{"time":"2026-11-26T13:55:33.735105999Z"}"#);
    }

    #[test]
    fn of_what_has_ended_there_is_nothing() {
        let told: ContainerStatsResponse =
            serde_json::from_value(serde_json::json!({ "read": "0001-01-01T00:00:00Z", "pids_stats": {} })).unwrap();
        assert!(!runs(&told));
    }
}
