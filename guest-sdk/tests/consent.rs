//! What a module says of consent stands beside its plans, and one that says nothing plans as it did before there was such a thing.
//!
//! Two modules with the same plan: a payment from `payer` to `payee`. One of them says that a credit needs nobody's consent.

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::abi::consent::FreeSteps;
use statehouse_guest::abi::plan::{PlanInWriter, PlanItem, PlanOut};
use statehouse_guest::native::{self, Export};
use statehouse_guest::*;

#[derive(Body)]
struct Nothing {}

#[derive(Commands)]
enum Command {
    /// Pays
    #[command(path = "pay")]
    Pay(Nothing),
}

#[derive(Rejections)]
enum Rejection {}

#[derive(BorshSerialize, BorshDeserialize)]
enum Op {
    Debit(u64),
    Credit(u64),
}

macro_rules! payments {
    ($module:ident, $($consent:item)?) => {
        struct $module;

        #[module]
        impl Module for $module {
            const NAME: &'static str = "payments";
            const SCHEMA: u32 = 1;

            type Command = Command;
            type Op = Op;
            type Event = u8;
            type Rejection = Rejection;

            fn plan(_: &Command, _: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
                planner.step(Op::Debit(7), "payer").undo(Op::Credit(7));
                planner.step(Op::Credit(7), "payee");
                Ok(())
            }

            fn validate(_: &Op, _: &View<'_>, _: &mut Events<'_, u8>) -> Result<(), Rejection> {
                Ok(())
            }

            fn apply(_: &u8, _: &mut Tx<'_>) {}

            fn render_response(_: &Done<'_, Self>) -> Value {
                Value::Null
            }

            fn render_event(_: &u8, _: &EventContext<'_, Self>) -> Value {
                Value::Null
            }

            fn render_row(_: &[u8], _: &[u8], _: &[u8]) -> Value {
                Value::Null
            }

            $($consent)?
        }
    };
}

payments!(Silent,);
payments!(
    Telling,
    fn needs_consent(op: &Op) -> bool {
        matches!(op, Op::Debit(_))
    }
);

/// Two payments, planned in one call.
fn planned<M: Module>() -> Vec<u8> {
    let body = Value::Map(Vec::new()).to_cbor().expect("it has no integer");
    let mut items = PlanInWriter::default();
    for id in [1, 2] {
        items.item(PlanItem { command: 0, roles: 1, id: [id; 16], caller: b"caller", body: &body });
    }
    native::call::<M>(Export::Plan, &items.finish(Vec::new()))
}

#[test]
fn a_module_says_which_of_its_ops_need_consent() {
    let (silent, telling) = (planned::<Silent>(), planned::<Telling>());
    assert!(FreeSteps::find(&silent).expect("a good block").is_none());
    let free = FreeSteps::find(&telling).expect("a good block").expect("the module says it");
    assert_eq!([0, 1, 2, 3].map(|step| free.contains(step)), [false, true, false, true]);
    let (silent, telling) = (PlanOut::parse(&silent), PlanOut::parse(&telling));
    let (silent, telling) = (silent.expect("a good block"), telling.expect("a good block"));
    assert!((0..4).all(|step| silent.step(step) == telling.step(step)), "the plans are the same");
}
