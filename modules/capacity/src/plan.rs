//! Commands into steps: what of a body must be true whatever the rows say, who may plan, and where each step belongs.
//!
//! | command | steps: op on entity | home |
//! |---|---|---|
//! | create, change, close a pool | the like-named op on the pool | pool |
//! | place an order | `Place` on the pool | pool |
//! | place a combined order | Try: `Reserve` on each pool; Confirm: `Confirm` on each; in order of name | first pool by name |
//! | the same with all lines in one pool | `Place` on the pool | pool |
//! | cancel an order | `Cancel` on the pool | pool |
//!
//! The home is always the first step's entity, and must stay so in later versions. Bodies are canonical: lists in order, so
//! that the same lines in another order are the same command. It sees no rows.

use statehouse_guest::{Caller, Coordination, FieldValue, Planner, Refusal, TccRole, role};

use crate::commands::{
    CapacityBody, ChangeCapacity, Command, CreatePool, PlaceCombinedOrder, PlaceOrder, PoolLineBody,
};
use crate::op::{Capacity, Line, Op};
use crate::order::{OrderId, order_key};
use crate::pool::POOL;

/// Lines of a combined order.
const LINES_MIN: usize = 2;

pub fn plan(command: &Command, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    match command {
        Command::CreatePool(create) => plan_create(create, caller, planner),
        Command::ChangeCapacity(change) => plan_change(change, caller, planner),
        Command::ClosePool(name) => {
            check_planner(caller)?;
            check_name("pool", &name.pool)?;
            planner.step(Op::Close, &name.pool).key(POOL);
            Ok(())
        }
        Command::PlaceOrder(place) => plan_place(place, planner),
        Command::PlaceCombinedOrder(place) => plan_place_combined(place, planner),
        Command::CancelOrder(cancel) => {
            check_name("pool", &cancel.pool)?;
            let order = OrderId::from(cancel.order_id);
            planner.step(Op::Cancel { order }, &cancel.pool).key(POOL).key(order_key(order));
            Ok(())
        }
    }
}

fn plan_create(create: &CreatePool, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    check_planner(caller)?;
    check_name("pool", &create.pool)?;
    let capacities = parse_capacities(&create.capacities)?;
    let body = CreatePool { pool: create.pool.clone(), capacities: capacity_bodies(&capacities) };
    planner.body(body.to_value());
    planner.step(Op::Create { capacities }, &create.pool).key(POOL);
    Ok(())
}

fn plan_change(change: &ChangeCapacity, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    check_planner(caller)?;
    check_name("pool", &change.pool)?;
    let capacities = parse_capacities(&change.capacities)?;
    let body = ChangeCapacity { pool: change.pool.clone(), capacities: capacity_bodies(&capacities) };
    planner.body(body.to_value());
    planner.step(Op::Change { capacities }, &change.pool).key(POOL);
    Ok(())
}

fn plan_place(place: &PlaceOrder, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    check_name("pool", &place.pool)?;
    let line = Line { capacity_type: place.capacity_type.clone(), quantity: place.quantity };
    step_place(place.order_id.into(), vec![line], &place.pool, planner);
    Ok(())
}

fn plan_place_combined(place: &PlaceCombinedOrder, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    if place.lines.len() < LINES_MIN {
        let detail = "lines must be 2 to 8: an order of one line is placed at its pool, by POST pools/{pool}/orders";
        return Err(refuse("lines", "too_few_lines", detail));
    }
    let mut lines = place.lines.clone();
    lines.sort_by(|a, b| (&a.pool, &a.capacity_type).cmp(&(&b.pool, &b.capacity_type)));
    for line in &lines {
        check_name("lines", &line.pool)?;
    }
    let is_same =
        |pair: &&[PoolLineBody]| pair[0].pool == pair[1].pool && pair[0].capacity_type == pair[1].capacity_type;
    if let Some([PoolLineBody { pool, capacity_type, .. }, ..]) = lines.windows(2).find(is_same) {
        let detail = format!("lines must not name {capacity_type} of {pool} twice: add their quantities up");
        return Err(refuse("lines", "duplicate_line", &detail));
    }
    let order = OrderId::from(place.order_id);
    let pools: Vec<&[PoolLineBody]> = lines.chunk_by(|a, b| a.pool == b.pool).collect();
    if let [lines] = pools.as_slice() {
        step_place(order, lines_of(lines), &lines[0].pool, planner);
    } else {
        planner.coordination(Coordination::TryConfirmCancel);
        for lines in &pools {
            let reserve = planner.step(Op::Reserve { order, lines: lines_of(lines) }, &lines[0].pool);
            reserve.key(POOL).key(order_key(order)).undo(Op::Release { order }).tcc(TccRole::Try);
        }
        for lines in &pools {
            planner.step(Op::Confirm { order }, &lines[0].pool).key(order_key(order)).tcc(TccRole::Confirm);
        }
    }
    planner.body(PlaceCombinedOrder { order_id: place.order_id, lines }.to_value());
    Ok(())
}

fn step_place(order: OrderId, lines: Vec<Line>, pool: &str, planner: &mut Planner<'_, Op>) {
    let place = planner.step(Op::Place { order, lines }, pool).key(POOL).key(order_key(order));
    place.undo(Op::Cancel { order });
}

fn lines_of(bodies: &[PoolLineBody]) -> Vec<Line> {
    let line = |body: &PoolLineBody| Line { capacity_type: body.capacity_type.clone(), quantity: body.quantity };
    bodies.iter().map(line).collect()
}

/// In order of type.
fn parse_capacities(bodies: &[CapacityBody]) -> Result<Vec<Capacity>, Refusal> {
    if bodies.is_empty() {
        return Err(refuse("capacities", "no_capacities", "capacities must name 1 to 16 types"));
    }
    let mut capacities: Vec<Capacity> = bodies
        .iter()
        .map(|body| Capacity { capacity_type: body.capacity_type.clone(), capacity: body.capacity })
        .collect();
    capacities.sort();
    match capacities.windows(2).find(|pair| pair[0].capacity_type == pair[1].capacity_type) {
        None => Ok(capacities),
        Some(pair) => {
            let detail = format!("capacities must not name {} twice", pair[0].capacity_type);
            Err(refuse("capacities", "duplicate_type", &detail))
        }
    }
}

fn capacity_bodies(capacities: &[Capacity]) -> Vec<CapacityBody> {
    let body = |Capacity { capacity_type, capacity }: &Capacity| CapacityBody {
        capacity_type: capacity_type.clone(),
        capacity: *capacity,
    };
    capacities.iter().map(body).collect()
}

fn check_name(field: &str, pool: &str) -> Result<(), Refusal> {
    if pool.starts_with('@') {
        let detail = format!("{field} must not name a pool that starts with @: {pool} is reserved");
        return Err(refuse(field, "reserved_name", &detail));
    }
    Ok(())
}

/// The host has no role for those who plan; who runs things decides how much there is of them.
fn check_planner(caller: &Caller<'_>) -> Result<(), Refusal> {
    if !caller.has_role(role::OPERATOR) {
        return Err(Refusal {
            code: "operator_only".into(),
            status: 403,
            detail: "only a caller with the role operator may create, change or close a pool".into(),
            field: None,
        });
    }
    Ok(())
}

fn refuse(field: &str, code: &str, detail: &str) -> Refusal {
    Refusal { code: code.into(), status: 422, detail: detail.into(), field: Some(field.into()) }
}
