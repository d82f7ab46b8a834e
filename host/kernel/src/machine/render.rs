//! Rendering many things in few calls of a module, some of which it may fail on.
//!
//! In: items. Out: as many values. An item that the module cannot show is the same on all nodes, so a stand-in is
//! shown. A slow machine or a fault of the host is not the same on all nodes, so it is an error.

use statehouse_abi::cold::RenderItem;
use statehouse_abi::value::Value;

use crate::machine::logic::{Fault, Logic};

/// Renders all items; `instead` stands for each item that the module fails on.
///
/// # Errors
/// [`Fault::Host`] and [`Fault::Watchdog`]: it may succeed later, or on another node.
pub fn render_each(logic: &dyn Logic, items: &[RenderItem], instead: &Value) -> Result<Vec<Value>, Fault> {
    if items.is_empty() { Ok(Vec::new()) } else { in_halves(&|items| logic.render(items), items, instead) }
}

fn in_halves<T, R>(render: &R, items: &[T], instead: &Value) -> Result<Vec<Value>, Fault>
where
    R: Fn(&[T]) -> Result<Vec<Value>, Fault>,
{
    match render(items) {
        Ok(values) if values.len() == items.len() => Ok(values),
        Err(fault @ (Fault::Host { .. } | Fault::Watchdog)) if items.len() == 1 => Err(fault),
        _ if items.len() == 1 => Ok(vec![instead.clone()]),
        _ => {
            let (left, right) = items.split_at(items.len() / 2);
            let mut values = in_halves(render, left, instead)?;
            values.extend(in_halves(render, right, instead)?);
            Ok(values)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders numbers; fails with the given fault if 7 is among them.
    fn shown(items: &[i128], fault: &Fault) -> Result<Vec<Value>, Fault> {
        let render = |items: &[i128]| {
            if items.contains(&7) {
                Err(fault.clone())
            } else {
                Ok(items.iter().map(|item| Value::Int(*item)).collect())
            }
        };
        in_halves(&render, items, &Value::Null)
    }

    #[test]
    fn what_a_module_cannot_show_takes_nothing_else_with_it() {
        let found = shown(&[1, 2, 7, 4, 5], &Fault::Budget).expect("one is left out");
        assert_eq!(found, [Value::Int(1), Value::Int(2), Value::Null, Value::Int(4), Value::Int(5)]);
        assert_eq!(shown(&[7], &Fault::Budget).expect("it is left out"), [Value::Null]);
    }

    #[test]
    fn a_slow_machine_makes_nothing_of_it() {
        assert!(matches!(shown(&[1, 2, 7, 4], &Fault::Watchdog), Err(Fault::Watchdog)));
        assert_eq!(shown(&[1, 2, 4], &Fault::Watchdog).expect("it renders").len(), 3);
    }
}
