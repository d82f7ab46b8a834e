//! An operator's orders about commands in flight: accepted, put into the next entry of progress, and answered once that
//! entry is applied.
//!
//! In: an order, while this node leads. Out: the journal index that records it, or why it is not recorded. What an
//! order does to a command is defined in [`saga`](crate::saga). If this node ceases to lead before an order is
//! recorded, the order is forgotten, and the operator asks again. This file does not know who the operator is.

use crate::features;
use crate::ids::JournalIndex;
use crate::limits;
use crate::machine::entry::Header;
use crate::machine::table::Change;
use crate::partition::actions::{Actions, OneshotReply};
use crate::partition::coordinate::Coordinator;
use crate::partition::now::Now;
use crate::partition::requests::{NotOrdered, Ordered};
use crate::partition::saga_table::SagaTable;
use crate::saga::{Order, PhaseMoment};

impl Ordered {
    pub fn refuse(self, reason: NotOrdered, out: &mut Actions) {
        out.tell(OneshotReply::Ordered(self.reply, Err(reason)));
    }
}

impl Coordinator {
    pub(super) fn on_order(&mut self, mut ordered: Ordered, now: &Now, out: &mut Actions) {
        let found = now.features;
        if found < features::ORDERS_VOUCHED {
            ordered.order = ordered.order.vouched_by(None);
        }
        if found < features::ORDERS {
            ordered.refuse(NotOrdered::Level { expected: features::ORDERS, found }, out);
        } else if limits::ORDERS_WAITING_MAX <= self.orders.len() {
            ordered.refuse(NotOrdered::Overloaded, out);
        } else {
            self.orders.push_back(ordered);
        }
    }

    /// The orders for the next entry, judged on the rows as the heard outcomes leave them. Their effects are added to
    /// `change`.
    pub(super) fn take_orders(
        &mut self,
        table: &SagaTable,
        header: &Header,
        change: &mut Change,
        out: &mut Actions,
    ) -> Option<Vec<Order>> {
        let at = PhaseMoment::at_home(header.time, header.index.0);
        let mut taken = Vec::new();
        while let Some(ordered) = self.take_order() {
            let id = ordered.order.command();
            let saga = change.find(id, table).ok_or(NotOrdered::NotInFlight);
            match saga.and_then(|saga| Ok(saga.order(&ordered.order, &at)?)) {
                Ok(advance) => {
                    change.set(id, advance);
                    taken.push(ordered.order.clone());
                    self.on_ordering(ordered);
                }
                Err(refusal) => ordered.refuse(refusal, out),
            }
        }
        (!taken.is_empty()).then_some(taken)
    }

    /// Tells operators that their orders are recorded, in this entry of the journal.
    pub(super) fn on_ordered(&mut self, orders: &[Order], index: JournalIndex, out: &mut Actions) {
        for order in orders {
            if let Some(ordered) = self.ordering.remove(&order.command()) {
                out.tell(OneshotReply::Ordered(ordered.reply, Ok(index)));
            }
        }
    }

    /// The next order whose command is in no proposed entry.
    fn take_order(&mut self) -> Option<Ordered> {
        let is_free = |ordered: &Ordered| {
            let id = ordered.order.command();
            !self.proposed.contains(&id) && !self.ordering.contains_key(&id)
        };
        let at = self.orders.iter().position(is_free)?;
        self.orders.remove(at)
    }

    /// The order is in a proposed entry.
    fn on_ordering(&mut self, ordered: Ordered) {
        let before: Option<Ordered> = self.ordering.insert(ordered.order.command(), ordered);
        assert!(before.is_none(), "a command has one proposed entry at a time");
    }

    /// The entry with these orders was certainly not appended.
    pub(super) fn refuse_orders(&mut self, orders: &[Order], out: &mut Actions) {
        for order in orders {
            self.proposed.remove(&order.command());
            if let Some(ordered) = self.ordering.remove(&order.command()) {
                ordered.refuse(NotOrdered::NotLeading, out);
            }
        }
    }

    /// The entry with these orders was proposed in vain: they are considered again.
    pub(super) fn order_again(&mut self, orders: &[Order]) {
        for order in orders.iter().rev() {
            self.proposed.remove(&order.command());
            if let Some(ordered) = self.ordering.remove(&order.command()) {
                self.orders.push_front(ordered);
            }
        }
    }
}
