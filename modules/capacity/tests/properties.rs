//! What must be true of any commands in any order: nothing is overbooked, batches make no difference, and what was reserved can
//! always be confirmed and always be released.
//!
//! A model in plain maps says what must come out. It looks at rendered answers and at rows, never at the module inside.

use std::collections::BTreeMap;

use capacity::CapacityModule;
use proptest::collection::vec;
use proptest::prelude::*;
use statehouse_guest::abi::cold::QueryOut;
use statehouse_guest::{FieldValue, Uuid, Value, role};
use statehouse_testkit::{Command, Native, Outcome, Part, World};

const POOLS: [&str; 3] = ["a", "b", "c"];
const TYPES: [&str; 2] = ["meal", "table"];

/// Pool and type.
type Place = (usize, usize);

#[derive(Clone, Debug)]
enum Step {
    Create { pool: usize, capacities: BTreeMap<usize, u32> },
    Change { pool: usize, capacities: BTreeMap<usize, u32> },
    Close { pool: usize },
    Order { order: u8, lines: BTreeMap<Place, u32> },
    Cancel { pool: usize, order: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let pool = 0..POOLS.len();
    let capacities = || prop::collection::btree_map(0..TYPES.len(), 0u32..12, 1..=TYPES.len());
    let lines = prop::collection::btree_map((pool.clone(), 0..TYPES.len()), 1u32..6, 1..4);
    prop_oneof![
        3 => (pool.clone(), capacities()).prop_map(|(pool, capacities)| Step::Create { pool, capacities }),
        2 => (pool.clone(), capacities()).prop_map(|(pool, capacities)| Step::Change { pool, capacities }),
        1 => pool.clone().prop_map(|pool| Step::Close { pool }),
        8 => (0u8..12, lines).prop_map(|(order, lines)| Step::Order { order, lines }),
        4 => (pool, 0u8..12).prop_map(|(pool, order)| Step::Cancel { pool, order }),
    ]
}

fn id(order: u8) -> Uuid {
    Uuid([order; 16])
}

fn sent(step: &Step) -> Command {
    let pool_of = |pool: &usize| Value::text(POOLS[*pool]);
    let capacities_of = |capacities: &BTreeMap<usize, u32>| {
        let one =
            |(at, capacity): (&usize, &u32)| [("type", Value::text(TYPES[*at])), ("capacity", capacity.to_value())];
        Value::Array(capacities.iter().map(|capacity| Value::map(one(capacity))).collect())
    };
    let (name, members) = match step {
        Step::Create { pool, capacities } => {
            ("create_pool", vec![("pool", pool_of(pool)), ("capacities", capacities_of(capacities))])
        }
        Step::Change { pool, capacities } => {
            ("change_capacity", vec![("pool", pool_of(pool)), ("capacities", capacities_of(capacities))])
        }
        Step::Close { pool } => ("close_pool", vec![("pool", pool_of(pool))]),
        Step::Cancel { pool, order } => {
            ("cancel_order", vec![("pool", pool_of(pool)), ("order_id", id(*order).to_value())])
        }
        Step::Order { order, lines } => {
            let line = |((pool, at), quantity): (&Place, &u32)| {
                let members = [("pool", pool_of(pool)), ("type", Value::text(TYPES[*at]))];
                members.into_iter().chain([("quantity", quantity.to_value())]).collect::<Vec<_>>()
            };
            let mut lines: Vec<_> = lines.iter().map(line).collect();
            let id = ("order_id", id(*order).to_value());
            if lines.len() == 1 {
                ("place_order", lines.swap_remove(0).into_iter().chain([id]).collect())
            } else {
                let lines = lines.into_iter().rev().map(Value::map).collect();
                ("place_combined_order", vec![id, ("lines", Value::Array(lines))])
            }
        }
    };
    Command { name: name.into(), body: Value::map(members), caller: "test".into(), roles: role::ALL, id: [7; 16] }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Pending,
    Placed,
    Cancelled,
}

#[derive(Default)]
struct Pool {
    is_closed: bool,
    capacities: BTreeMap<usize, u32>,
    orders: BTreeMap<u8, (Status, BTreeMap<usize, u32>)>,
}

impl Pool {
    fn ordered(&self, at: usize) -> u32 {
        let orders = self.orders.values().filter(|(status, _)| *status != Status::Cancelled);
        orders.filter_map(|(_, lines)| lines.get(&at)).sum()
    }

    fn has_room(&self, order: u8, lines: &BTreeMap<usize, u32>) -> bool {
        let fits = |(at, quantity): (&usize, &u32)| {
            self.capacities.get(at).is_some_and(|capacity| self.ordered(*at) + quantity <= *capacity)
        };
        !self.is_closed && !self.orders.contains_key(&order) && lines.iter().all(fits)
    }
}

#[derive(Default)]
struct Model {
    pools: BTreeMap<usize, Pool>,
}

/// The lines of each pool.
fn by_pool(lines: &BTreeMap<Place, u32>) -> BTreeMap<usize, BTreeMap<usize, u32>> {
    let mut pools: BTreeMap<usize, BTreeMap<usize, u32>> = BTreeMap::new();
    for ((pool, at), quantity) in lines {
        pools.entry(*pool).or_default().insert(*at, *quantity);
    }
    pools
}

impl Model {
    /// Whether the step is accepted.
    fn play(&mut self, step: &Step) -> bool {
        match step {
            Step::Create { pool, capacities } => {
                let is_new = !self.pools.contains_key(pool);
                if is_new {
                    self.pools.insert(*pool, Pool { capacities: capacities.clone(), ..Pool::default() });
                }
                is_new
            }
            Step::Change { pool, capacities } => {
                let Some(pool) = self.pools.get_mut(pool).filter(|pool| !pool.is_closed) else { return false };
                let fits =
                    |(at, capacity): (&usize, &u32)| pool.capacities.contains_key(at) && pool.ordered(*at) <= *capacity;
                let is_changed = capacities.iter().all(fits);
                if is_changed {
                    pool.capacities.extend(capacities);
                }
                is_changed
            }
            Step::Close { pool } => {
                let pool = self.pools.get_mut(pool).filter(|pool| !pool.is_closed);
                pool.map(|pool| pool.is_closed = true).is_some()
            }
            Step::Order { order, lines } => {
                let pools = by_pool(lines);
                let is_placed = pools.iter().all(|(pool, lines)| self.has_room(*pool, *order, lines));
                for (pool, lines) in pools.into_iter().filter(|_| is_placed) {
                    self.set(pool, *order, Status::Placed, lines);
                }
                is_placed
            }
            Step::Cancel { pool, order } => {
                let found = self.pools.get_mut(pool).and_then(|pool| pool.orders.get_mut(order));
                let placed = found.filter(|(status, _)| *status == Status::Placed);
                placed.map(|(status, _)| *status = Status::Cancelled).is_some()
            }
        }
    }

    fn has_room(&self, pool: usize, order: u8, lines: &BTreeMap<usize, u32>) -> bool {
        self.pools.get(&pool).is_some_and(|pool| pool.has_room(order, lines))
    }

    fn set(&mut self, pool: usize, order: u8, status: Status, lines: BTreeMap<usize, u32>) {
        self.pools.entry(pool).or_default().orders.insert(order, (status, lines));
    }
}

/// Type, capacity, ordered and left, as the pool shows them.
fn shown(world: &World<Native<CapacityModule>>, pool: &str) -> Option<Value> {
    let params = Value::map([("pool", Value::text(pool))]);
    match world.query("pool", params, role::ALL, 0).expect("the query is answered") {
        QueryOut::Done(state) => state.find("capacities").cloned(),
        _ => None,
    }
}

fn expected(pool: &Pool) -> Value {
    Value::map(pool.capacities.iter().map(|(at, capacity)| {
        let ordered = pool.ordered(*at);
        let members = [("capacity", *capacity), ("ordered", ordered), ("left", capacity - ordered)];
        (TYPES[*at], Value::map(members.map(|(name, count)| (name, count.to_value()))))
    }))
}

fn new_world() -> World<Native<CapacityModule>> {
    World::new(Native::<CapacityModule>::default()).expect("it describes itself")
}

/// An order over several pools whose steps are played one by one.
struct InFlight {
    command: Command,
    order: u8,
    pools: Vec<usize>,
}

struct Phases {
    world: World<Native<CapacityModule>>,
    model: Model,
    in_flight: Vec<InFlight>,
}

impl Phases {
    fn part(&mut self, command: &Command, part: Part, pool: usize) -> bool {
        let played = self.world.play_part(command, part, Some(POOLS[pool].as_bytes()), 7).expect("it plays");
        played.outcome == Outcome::Accepted
    }

    fn begin(&mut self, order: u8, lines: &BTreeMap<Place, u32>) {
        let command = sent(&Step::Order { order, lines: lines.clone() });
        let (mut reserved, mut is_refused) = (Vec::new(), false);
        for (pool, lines) in by_pool(lines) {
            let has_room = self.model.has_room(pool, order, &lines);
            assert_eq!(self.part(&command, Part::Try, pool), has_room, "{command:?} at {pool}");
            if has_room {
                self.model.set(pool, order, Status::Pending, lines);
                reserved.push(pool);
            }
            is_refused |= !has_room;
        }
        self.in_flight.push(InFlight { command, order, pools: reserved });
        if is_refused {
            self.end(self.in_flight.len() - 1, Part::Cancel);
        }
    }

    fn end(&mut self, at: usize, part: Part) {
        let InFlight { command, order, pools } = self.in_flight.swap_remove(at);
        for pool in pools {
            assert!(self.part(&command, part, pool), "{part:?} is never refused");
            let orders = &mut self.model.pools.get_mut(&pool).expect("it was reserved there").orders;
            if part == Part::Confirm {
                orders.get_mut(&order).expect("it was reserved").0 = Status::Placed;
            } else {
                orders.remove(&order);
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.world.check(2).expect("it checks"), vec![]);
        for (at, pool) in POOLS.iter().enumerate() {
            assert_eq!(shown(&self.world, pool), self.model.pools.get(&at).map(expected), "{pool}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_commands_in_any_batches(steps in vec(step(), 1..60), sizes in vec(1usize..9, 1..5)) {
        let commands: Vec<Command> = steps.iter().map(sent).collect();
        let (mut one_by_one, mut batched) = (new_world(), new_world());
        let singly = one_by_one.play_in_batches(&commands, &[1], 7).expect("it plays");
        let together = batched.play_in_batches(&commands, &sizes, 7).expect("it plays");
        let mut model = Model::default();
        for ((step, single), other) in steps.iter().zip(&singly).zip(&together) {
            prop_assert_eq!(single.decision(), other.decision());
            prop_assert_eq!(single.outcome == Outcome::Accepted, model.play(step), "{:?}: {:?}", step, single.outcome);
        }
        prop_assert_eq!(one_by_one.rows(), batched.rows());
        Phases { world: batched, model, in_flight: Vec::new() }.check();
    }

    #[test]
    fn whatever_was_reserved_can_be_ended(steps in vec((step(), any::<prop::sample::Index>(), 0..3u8), 1..60)) {
        let mut phases = Phases { world: new_world(), model: Model::default(), in_flight: Vec::new() };
        for (step, chosen, end) in &steps {
            match step {
                Step::Order { order, lines } if 1 < by_pool(lines).len() => phases.begin(*order, lines),
                step => {
                    let played = phases.world.play(&[sent(step)], 7).expect("it plays");
                    prop_assert_eq!(played[0].outcome == Outcome::Accepted, phases.model.play(step), "{:?}", step);
                }
            }
            phases.check();
            if 0 < *end && !phases.in_flight.is_empty() {
                let part = if *end == 1 { Part::Confirm } else { Part::Cancel };
                phases.end(chosen.index(phases.in_flight.len()), part);
                phases.check();
            }
        }
    }

    #[test]
    fn the_order_of_lines_says_nothing(lines in prop::collection::btree_map((0..POOLS.len(), 0..TYPES.len()), 1u32..6, 2..7)) {
        let command = sent(&Step::Order { order: 1, lines });
        let mut reversed = command.clone();
        if let Value::Map(members) = &mut reversed.body {
            for (_, member) in members {
                if let Value::Array(lines) = member {
                    lines.reverse();
                }
            }
        }
        prop_assert_ne!(&command.body, &reversed.body);
        let played = new_world().play(&[command, reversed], 7).expect("it plays");
        prop_assert_eq!(&played[0].facts.body, &played[1].facts.body);
        prop_assert_eq!(&played[0].home, &played[1].home);
        let canonical = Value::from_cbor(&played[0].facts.body).expect("it is a value");
        let again = Command { name: "place_combined_order".into(), body: canonical, ..sent(&Step::Close { pool: 0 }) };
        let again = new_world().play(&[again], 7).expect("it plays");
        prop_assert_eq!(&again[0].facts.body, &played[0].facts.body);
    }
}
