//! The client commands, and how the agent is started.
//!
//! `agent` and `up` run an agent ([`agent`]); `supervise` and `network-driver` are what its units run; the rest asks a running
//! agent over its Unix socket or over TCP, except `store`, which works on the store itself.

mod agent;
mod api_key;
mod assembly;
mod ca;
mod client;
mod join;
mod esp;
mod host;
mod late;
mod logging;
mod options;
mod span;
mod secret;
mod store;
mod simulated;
mod stream;
mod table;
mod list;
mod mesh;
mod names;
mod terminal;
mod token;
mod trust;
mod way;

use crate::compute::supervisor::command::Supervise;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Virtual machines and Docker containers side by side on one private network, without a server.
#[derive(Debug, Parser)]
#[command(name = "stampede", version, propagate_version = true)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs this host's agent, with the cluster's state in etcd.
    Agent(options::AgentOptions),
    /// Runs one host by itself: no etcd, no systemd, the state in a file.
    Up(options::UpOptions),
    /// Makes and lists API keys.
    #[command(subcommand, name = "api-key")]
    ApiKey(api_key::ApiKeyVerb),
    /// Makes, lists and removes tokens with which hosts join the cluster.
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// Makes this host one of a cluster, with a token from `stampede token create` on a host of it.
    Join(join::JoinOptions),
    /// Shows and changes the cluster's certificate authority.
    #[command(subcommand)]
    Ca(ca::CaVerb),
    /// Shows the hosts' cluster secrets, and has another take their place.
    #[command(subcommand)]
    Secret(secret::SecretVerb),
    /// Lists instances: id, name, host, address, state.
    Ps(list::ListOptions),
    /// Shows an instance's output.
    Logs(stream::LogsOptions),
    /// Runs a command in an instance: stampede exec -it 1i54 -- sh.
    Exec(stream::ExecOptions),
    /// Lists hosts.
    Hosts(list::ListOptions),
    /// Shows how hosts reach each other: addresses, keys, what went over.
    Mesh(mesh::MeshOptions),
    /// Has a host take nothing new.
    Cordon(host::HostOptions),
    /// Has a host take new instances again, also one that is being drained.
    Uncordon(host::HostOptions),
    /// Empties a host: what may move (onHostLoss is `move`) goes to other hosts.
    Drain(host::DrainOptions),
    /// What there is to say about one host: remove, failover.
    #[command(subcommand)]
    Host(host::HostVerb),
    /// Backs the cluster's state up, and brings it back.
    #[command(subcommand)]
    Store(store::StoreVerb),
    /// Supervises one instance (run by stampede-instance@.service).
    #[command(hide = true)]
    Supervise(Supervise),
    /// Ends one instance that must not run twice and is past its deadline (run by stampede-instance@.service).
    #[command(hide = true)]
    Fence(Supervise),
    /// Answers Docker for the managed network (run by stampede-network.service).
    #[command(hide = true, name = "network-driver")]
    NetworkDriver(options::NetworkDriverOptions),
}

/// Everything from the command line to the exit code: 0 done, 1 failed (the reason on standard error), 2 wrong usage.
pub fn main() -> ExitCode {
    let verb = Command::parse().verb;
    let result = match verb {
        Verb::Agent(options) => return agent::run(options),
        Verb::Up(options) => return agent::up(options),
        Verb::ApiKey(verb) => client::block_on(api_key::run(verb)),
        Verb::Token(verb) => client::block_on(token::run(verb)),
        Verb::Join(options) => client::block_on(join::run(options)),
        Verb::Ca(verb) => client::block_on(ca::run(verb)),
        Verb::Secret(verb) => client::block_on(secret::run(verb)),
        Verb::Ps(options) => client::block_on(list::instances(options)),
        Verb::Logs(options) => client::block_on(stream::logs(options)),
        Verb::Exec(options) => client::block_on(stream::exec(options)),
        Verb::Hosts(options) => client::block_on(list::hosts(options)),
        Verb::Mesh(options) => client::block_on(mesh::run(options)),
        Verb::Cordon(options) => client::block_on(host::cordon(options)),
        Verb::Uncordon(options) => client::block_on(host::uncordon(options)),
        Verb::Drain(options) => client::block_on(host::drain(options)),
        Verb::Host(verb) => client::block_on(host::say(verb)),
        Verb::Store(verb) => client::block_on(store::run(verb)),
        Verb::Supervise(options) => return agent::supervise(&options),
        Verb::Fence(options) => return agent::fence(&options),
        Verb::NetworkDriver(options) => agent::network_driver(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stampede: {error:#}");
            ExitCode::FAILURE
        }
    }
}
