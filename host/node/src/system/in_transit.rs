//! The metric of what is in transit between the partitions of each machine, over a consistent cut.
//!
//! In: the partitions of this node. Out: `statehouse_in_transit{machine, unit}` and the time of the cut. Every
//! partition says what it showed at the same moment of the journals' time. No entry is earlier than its cause, so
//! nothing is counted in two places, or in none. It sees what this node has applied, and knows no module.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::Micros;
use crate::machine::transit::InTransit;
use crate::partition::moment_before;
use crate::router::Machine;
use crate::system::context::NodeContext;

const ROUND: Duration = Duration::from_secs(2);
/// How far back the moment lies: it must have passed on every node, however the clocks differ, and be applied here.
const PASSED: i64 = 5_000_000;

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>) {
    // Units that were shown before go back to 0.
    let mut shown: BTreeSet<(String, String)> = BTreeSet::new();
    loop {
        let at = moment_before(Micros(context.clock.now().0.saturating_sub(PASSED)));
        for machine in context.router.machines() {
            let name = machine.name().to_owned();
            let adding = tokio::task::spawn_blocking(move || sum(&machine, at));
            let Ok(Some(sum)) = adding.await else { continue };
            for (machine, unit) in shown.iter().filter(|(machine, _)| *machine == name) {
                metrics::gauge!("statehouse_in_transit", "machine" => machine.clone(), "unit" => unit.clone()).set(0.0);
            }
            for (unit, number) in sum.units() {
                let number: f64 = number.to_string().parse().unwrap_or(f64::NAN);
                let labels = [("machine", name.clone()), ("unit", unit.to_owned())];
                metrics::gauge!("statehouse_in_transit", &labels).set(number);
                shown.insert((name.clone(), unit.to_owned()));
            }
            let cut = metrics::gauge!("statehouse_in_transit_cut_timestamp_seconds", "machine" => name);
            cut.set(at.0 as f64 / 1e6);
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

/// The sum over all partitions; `None` if one of them cannot tell for this moment.
pub fn sum(machine: &Machine, at: Micros) -> Option<InTransit> {
    let mut sum = InTransit::default();
    for partition in machine.partition_ids() {
        sum = sum.plus(&machine.find_partition(partition)?.in_transit_at(at)?).ok()?;
    }
    Some(sum)
}
