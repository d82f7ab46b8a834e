//! What `plan` writes into: the home entity, the steps with the keys they touch, and the canonical body.
//!
//! A step is an op on an entity. Steps of entities in one partition run as one group, others as a Saga; the author
//! does not see the difference. It knows nothing of partitions and has no rows.

use borsh::BorshSerialize;
use statehouse_abi::cold::Refusal;
use statehouse_abi::key::{ENTITY_BYTES_MAX, KEY_BYTES_MAX, Scope};
use statehouse_abi::plan::{Coordination, PlanItem, PlanOutWriter, TccRole};
use statehouse_abi::value::Value;

use crate::uuid::Uuid;

/// Who sent the command, and the command's id.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    pub name: &'a str,
    /// Bits of [`role`](crate::role).
    pub roles: u32,
    pub id: Uuid,
}

impl Caller<'_> {
    /// Whether the caller has at least one of these roles.
    pub fn has_role(&self, roles: u32) -> bool {
        self.roles & roles != 0
    }

    pub(crate) fn of<'a>(item: &PlanItem<'a>) -> Caller<'a> {
        let name = core::str::from_utf8(item.caller).expect("the host hands over callers as UTF-8");
        Caller { name, roles: item.roles, id: Uuid(item.id) }
    }
}

/// A range of [`Draft::bytes`].
#[derive(Clone, Copy)]
struct Range {
    start: usize,
    end: usize,
}

struct Step {
    op: Range,
    entity: Range,
    undo: Option<Range>,
    tcc: TccRole,
    key_first: usize,
    key_count: usize,
}

/// The buffers of one plan, reused from command to command.
#[derive(Default)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    keys: Vec<(Scope, Range)>,
    home: Option<Range>,
    body: Option<Value>,
    coordination: Option<Coordination>,
    problem: Option<Refusal>,
}

/// Collects the plan of one command.
pub struct Planner<'a, Op> {
    draft: &'a mut Draft,
    op: core::marker::PhantomData<fn(&Op)>,
}

impl<'a, Op: BorshSerialize> Planner<'a, Op> {
    pub(crate) fn new(draft: &'a mut Draft) -> Self {
        draft.bytes.clear();
        draft.steps.clear();
        draft.keys.clear();
        (draft.home, draft.body, draft.coordination, draft.problem) = (None, None, None, None);
        Self { draft, op: core::marker::PhantomData }
    }

    /// The entity that decides about the command's id; without a call it is the entity of the first step.
    /// It must never change from version to version.
    pub fn home(&mut self, entity: impl AsRef<[u8]>) {
        self.draft.home = Some(self.draft.entity(entity.as_ref()));
    }

    /// The canonical body, where it is not the command's own: two spellings of one command must give one body.
    pub fn body(&mut self, body: Value) {
        self.draft.body = Some(body);
    }

    /// How steps on several partitions are coordinated; without a call a Saga.
    pub fn coordination(&mut self, coordination: Coordination) {
        self.draft.coordination = Some(coordination);
    }

    /// Adds a step. Steps run in this order; the calls on the result belong to it.
    pub fn step(&mut self, op: Op, entity: impl AsRef<[u8]>) -> StepBuilder<'_, Op> {
        let entity = self.draft.entity(entity.as_ref());
        let op = self.draft.encode(&op);
        let key_first = self.draft.keys.len();
        self.draft.steps.push(Step { op, entity, undo: None, tcc: TccRole::Try, key_first, key_count: 0 });
        StepBuilder { draft: self.draft, op: core::marker::PhantomData }
    }
}

/// What else is said about the step added last.
pub struct StepBuilder<'p, Op> {
    draft: &'p mut Draft,
    op: core::marker::PhantomData<fn(&Op)>,
}

impl<Op: BorshSerialize> StepBuilder<'_, Op> {
    /// Declares a row of the step's own entity.
    pub fn key(self, suffix: impl AsRef<[u8]>) -> Self {
        self.declare(Scope::Own, suffix.as_ref())
    }

    /// Declares a row of `@local`.
    pub fn local_key(self, suffix: impl AsRef<[u8]>) -> Self {
        self.declare(Scope::Local, suffix.as_ref())
    }

    /// The compensation: what undoes this step in a Saga, or in Cancel. It may touch the step's keys.
    pub fn undo(mut self, op: Op) -> Self {
        let undo = self.draft.encode(&op);
        self.step().undo = Some(undo);
        self
    }

    /// In which phase of Try-Confirm/Cancel the step runs; without a call in Try.
    pub fn tcc(mut self, role: TccRole) -> Self {
        self.step().tcc = role;
        self
    }

    fn step(&mut self) -> &mut Step {
        self.draft.steps.last_mut().expect("the builder is made after its step")
    }

    fn declare(mut self, scope: Scope, suffix: &[u8]) -> Self {
        let suffix = self.draft.key(suffix);
        self.draft.keys.push((scope, suffix));
        self.step().key_count += 1;
        self
    }
}

impl Draft {
    fn push(&mut self, bytes: &[u8]) -> Range {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Range { start, end: self.bytes.len() }
    }

    fn encode(&mut self, op: &impl BorshSerialize) -> Range {
        let start = self.bytes.len();
        borsh::to_writer(&mut self.bytes, op).expect("a vector takes all bytes");
        Range { start, end: self.bytes.len() }
    }

    fn entity(&mut self, entity: &[u8]) -> Range {
        if entity.is_empty() || entity.len() > ENTITY_BYTES_MAX {
            self.refuse("entity_size", format!("the name of an entity has 1 to {ENTITY_BYTES_MAX} bytes"));
        }
        self.push(entity)
    }

    fn key(&mut self, suffix: &[u8]) -> Range {
        if suffix.len() > KEY_BYTES_MAX - ENTITY_BYTES_MAX - 1 {
            self.refuse("key_size", format!("a key of {} bytes is too long", suffix.len()));
        }
        self.push(suffix)
    }

    fn refuse(&mut self, code: &str, detail: String) {
        self.problem.get_or_insert(Refusal { code: code.into(), status: 422, detail, field: None });
    }

    /// Writes the finished plan; `body` is the command's own canonical body.
    pub(crate) fn finish(&mut self, body: impl FnOnce() -> Value, out: &mut PlanOutWriter) -> Result<(), Refusal> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let first = self.steps.first().expect("a plan must have at least one step");
        let home = self.home.unwrap_or(first.entity);
        let body = self.body.take().unwrap_or_else(body);
        let body = body.to_cbor().map_err(|error| Refusal {
            code: "malformed_body".into(),
            status: 422,
            detail: error.to_string(),
            field: None,
        })?;
        let bytes = |range: Range| &self.bytes[range.start..range.end];
        for step in &self.steps {
            out.step(bytes(step.op), bytes(step.entity), step.undo.map(bytes), step.tcc);
            for (scope, suffix) in &self.keys[step.key_first..step.key_first + step.key_count] {
                out.key(*scope, bytes(*suffix));
            }
        }
        out.plan(self.coordination.unwrap_or(Coordination::Saga), bytes(home), &body);
        Ok(())
    }
}
