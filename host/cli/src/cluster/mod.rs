//! `statehouse cluster`: changes by operators, through the REST API of any node; and the certificates that nodes need
//! before a cluster exists.
//!
//! In: a node's URL, a token, and the change. Out: the cluster as that node sees it; exit code 1 if something in it is
//! not well. It does not know how a change is made.

mod certificates;
mod status;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use statehouse_node::api::ClusterPage;
use statehouse_node::config::is_host_and_port;

use crate::client::ClientArgs;
use crate::output::{paragraph, print, print_json};

#[derive(Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Subcommand)]
enum ClusterCommand {
    Certificates(certificates::CertificatesArgs),
    /// Create a cluster of nodes that run and belong to no cluster yet
    ///
    /// The node at --url must be one of them. The command prints the new cluster's status.
    Init {
        /// A node, as ID=HOST:PORT, the address in its `[peer]` section; repeat the option for each node
        #[arg(long = "node", required = true, value_parser = parse_node)]
        nodes: Vec<(u64, String)>,
        #[command(flatten)]
        asked: ClientArgs,
    },
    /// Show the nodes, and the leader and position of each partition; exit code 1 if something is wrong
    Status {
        /// Print the node's answer, as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        asked: ClientArgs,
    },
    /// Add a running node to the cluster; it votes once it has caught up
    ///
    /// The command prints the cluster's status.
    Add {
        /// The node, as ID=HOST:PORT, the address in its `[peer]` section
        #[arg(long, value_parser = parse_node)]
        node: (u64, String),
        #[command(flatten)]
        asked: ClientArgs,
    },
    /// Remove a node from the cluster for good; its id is never used again
    ///
    /// The command prints the cluster's status.
    Remove {
        /// The id of the node
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        node: u64,
        #[command(flatten)]
        asked: ClientArgs,
    },
    /// Confirm that the clock of the node at --url, which has jumped, is right
    ///
    /// A node believes a clock that jumps by more than a second only after most nodes have shown the new time for a
    /// minute. Until then, entries keep the old time, and `cluster status` says so. This command makes entries follow
    /// the new time at once, also on other nodes whose clocks have jumped as far. The time of a journal never goes
    /// back, so check the clock first.
    AcceptClock {
        #[command(flatten)]
        asked: ClientArgs,
    },
    /// Transfer the leadership of a partition to another node
    ///
    /// A later election can move it again. The command prints the cluster's status.
    Transfer {
        /// The name of the machine
        #[arg(long)]
        machine: String,
        /// The number of the partition
        #[arg(long)]
        partition: u32,
        /// The id of the node that is to become the leader
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        to: u64,
        #[command(flatten)]
        asked: ClientArgs,
    },
    /// Let the node at --url open a partition without the acknowledged entries that its log has lost
    ///
    /// The entries cannot be recovered afterwards: commands that clients were told had succeeded never happened. The
    /// decision and its reason are recorded for ever.
    AcceptLoss {
        /// The name of the machine
        machine: String,
        /// The number of the partition
        partition: u32,
        /// The reason, for everybody who looks at the cluster later
        #[arg(long, required = true)]
        why: String,
        #[command(flatten)]
        asked: ClientArgs,
    },
}

fn parse_node(text: &str) -> Result<(u64, String), String> {
    let (id, peer) = text.split_once('=').ok_or("expected ID=HOST:PORT, like 2=10.0.0.2:7000")?;
    let number = id.parse().ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| format!("`{id}` is not the id of a node, a whole number from 1"))?;
    if !is_host_and_port(peer) {
        return Err(format!("`{peer}` is not HOST:PORT, where the other nodes reach node {id}"));
    }
    Ok((number, peer.to_owned()))
}

pub fn run(args: ClusterArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(answer(args.command))
}

async fn answer(command: ClusterCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClusterCommand::Certificates(args) => certificates::run(&args),
        ClusterCommand::Init { nodes, asked } => {
            change(&asked, Method::POST, "/v1/cluster/init", Some(init_body(&nodes))).await
        }
        ClusterCommand::Add { node: (id, peer), asked } => {
            let body = json!({ "id": id, "peer": peer });
            change(&asked, Method::POST, "/v1/cluster/nodes", Some(body)).await
        }
        ClusterCommand::Remove { node, asked } => {
            change(&asked, Method::DELETE, &format!("/v1/cluster/nodes/{node}"), None).await
        }
        ClusterCommand::Transfer { machine, partition, to, asked } => {
            let body = json!({ "machine": machine, "partition": partition, "to": to });
            change(&asked, Method::POST, "/v1/cluster/transfer", Some(body)).await
        }
        ClusterCommand::AcceptClock { asked } => change(&asked, Method::POST, "/v1/cluster/accept-clock", None).await,
        ClusterCommand::AcceptLoss { machine, partition, why, asked } => {
            let body = json!({ "machine": machine, "partition": partition, "why": why });
            change(&asked, Method::POST, "/v1/cluster/losses", Some(body)).await
        }
        ClusterCommand::Status { json, asked } => show_status(&asked, json).await,
    }
}

/// The body that initializes a cluster of these nodes: id and peer address.
pub fn init_body(nodes: &[(u64, String)]) -> Value {
    let nodes: Vec<_> = nodes.iter().map(|(id, peer)| json!({ "id": id, "peer": peer })).collect();
    json!({ "nodes": nodes })
}

/// Makes a change and shows the cluster afterwards. Only `status` checks whether all is well: nodes may still catch up.
async fn change(asked: &ClientArgs, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<ExitCode> {
    let page = read(asked.client()?.send(method, path, body.as_ref()).await?)?;
    let not_running: String = status::troubles_of_replicas(&page).map(|trouble| paragraph(&trouble)).collect();
    print(&format!("done\n{}{not_running}", status::render(&page)))?;
    Ok(ExitCode::SUCCESS)
}

async fn show_status(asked: &ClientArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let json = asked.client()?.get("/v1/cluster").await?;
    let page = read(json.clone())?;
    let troubles = status::troubles(&page);
    if as_json {
        print_json(&json)?;
    } else {
        let not_well: String = troubles.iter().map(|trouble| paragraph(&format!("not well: {trouble}"))).collect();
        print(&format!("{}{not_well}", status::render(&page)))?;
    }
    Ok(if troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(json: Value) -> anyhow::Result<ClusterPage> {
    serde_json::from_value(json).context("the node's answer is not that of this version; use the `statehouse` it runs")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cluster: ClusterArgs,
    }

    fn parse(line: &str) -> Result<ClusterCommand, String> {
        let parsed = Line::try_parse_from(["cluster"].into_iter().chain(line.split(' ')));
        parsed.map(|line| line.cluster.command).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_are_read() {
        let line = "init --node 1=127.0.0.1:7001 --node 2=n2:7000 --url http://n:1 --token t";
        let Ok(ClusterCommand::Init { nodes, asked }) = parse(line) else { panic!("a good line") };
        assert_eq!(
            init_body(&nodes).to_string(),
            r#"{"nodes":[{"id":1,"peer":"127.0.0.1:7001"},{"id":2,"peer":"n2:7000"}]}"#
        );
        assert_eq!((asked.url.as_deref(), asked.access.token.as_deref()), (Some("http://n:1"), Some("t")));
        let Ok(ClusterCommand::Status { json, asked }) = parse("status --json") else { panic!("a good line") };
        assert_eq!((json, asked.url), (true, None));
        let Ok(ClusterCommand::Transfer { machine, partition, to, .. }) =
            parse("transfer --machine wallet --partition 3 --to 2")
        else {
            panic!("a good line")
        };
        assert_eq!((machine.as_str(), partition, to), ("wallet", 3, 2));
        let Ok(ClusterCommand::Add { node, .. }) = parse("add --node 4=n4:7000") else { panic!("a good line") };
        assert_eq!(node, (4, "n4:7000".to_owned()));
        assert!(matches!(parse("accept-clock --url http://n:1"), Ok(ClusterCommand::AcceptClock { .. })));
        let Ok(ClusterCommand::Remove { node, .. }) = parse("remove --node 4") else { panic!("a good line") };
        assert_eq!(node, 4);
        let Ok(ClusterCommand::AcceptLoss { machine, partition, why, .. }) = parse("accept-loss wallet 3 --why fire")
        else {
            panic!("a good line")
        };
        assert_eq!((machine.as_str(), partition, why.as_str()), ("wallet", 3, "fire"));
    }

    #[test]
    fn mistakes_are_named() {
        let check = |line: &str, expected: &str| {
            let error = parse(line).err().expect(line);
            assert!(error.contains(expected), "{line}: {error}");
        };
        check("init", "--node <NODES>");
        check("init --node n1:7000", "expected ID=HOST:PORT");
        check("add --node 0=n:1", "`0` is not the id of a node");
        check("add --node 4=n4", "`n4` is not HOST:PORT, where the other nodes reach node 4");
        check("remove --node 0", "0 is not in 1..");
        check("transfer --machine wallet --partition 0", "--to <TO>");
        check("accept-loss wallet 3", "--why <WHY>");
    }
}
