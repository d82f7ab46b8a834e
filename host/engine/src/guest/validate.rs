//! The validator: which WebAssembly is a module of the contract. In: wasm. Out: all its faults, each with function,
//! byte offset and what to do about it, or useful facts about a good module.
//!
//! A view is a module with the exports of a view. The same code runs in `statehouse module check` and before the host
//! loads a module. It looks only at the bytes, in time that grows with their number, runs nothing, and knows nothing of
//! what a module describes.

use statehouse_abi::export;
use statehouse_projection::abi::PROJECT;
use wasmparser::{
    BlockType, CompositeInnerType, Encoding, ExternalKind, FuncType, FunctionBody, KnownCustom, MemoryType, Name,
    Operator, Parser, Payload, ProducersSectionReader, TableType, ValType, Validator, WasmFeatures,
};

use super::allowance::Allowance;
use super::problem::{ProblemKind, WasmProblem};
use super::structure::{Structure, StructurePart};
use crate::limits;

/// How many faults are listed. If a module has more, the rest are listed once these are corrected.
const PROBLEMS_MAX: usize = 20;
const PAGE_BYTES: u64 = 64 << 10;
/// The features that remain when everything that the contract forbids is switched off; rustc's output needs their
/// encodings.
const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::REFERENCE_TYPES);

/// The function exports of the contract with their types.
const EXPORTS: [(&str, &[ValType], &[ValType]); 10] = {
    use ValType::{I32, I64};
    const CALL: (&[ValType], &[ValType]) = (&[I32, I32], &[I64]);
    [
        (export::ALLOC, &[I32], &[I32]),
        (export::DESCRIBE, &[], &[I64]),
        (export::PLAN, CALL.0, CALL.1),
        (export::EXECUTE, CALL.0, CALL.1),
        (export::APPLY, CALL.0, CALL.1),
        (export::QUERY, CALL.0, CALL.1),
        (export::RENDER, CALL.0, CALL.1),
        (export::CHECK, CALL.0, CALL.1),
        (export::MIGRATE, CALL.0, CALL.1),
        (export::PANIC, &[], &[I64]),
    ]
};

/// The function exports of a view, which has one that a module has not.
const VIEW_EXPORTS: [(&str, &[ValType], &[ValType]); 5] = {
    use ValType::{I32, I64};
    [
        (export::ALLOC, &[I32], &[I32]),
        (export::DESCRIBE, &[], &[I64]),
        (PROJECT, &[I32, I32], &[I64]),
        (export::QUERY, &[I32, I32], &[I64]),
        (export::PANIC, &[], &[I64]),
    ]
};

/// What the validator learned about a good module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WasmFacts {
    pub exports: Vec<String>,
    pub function_count: usize,
    /// The memory with which a fresh instance starts.
    pub memory_bytes_min: u64,
    pub table_elements_min: u64,
    /// The compiler that the module names, like `rustc 1.95.0`.
    pub compiler: Option<String>,
    pub structure: Structure,
}

/// Checks a module against the contract, and against the limits for modules that nobody has recorded.
///
/// # Errors
/// Its faults, at most [`PROBLEMS_MAX`] and one of a kind in each function; never an empty list.
pub fn validate(wasm: &[u8]) -> Result<WasmFacts, Vec<WasmProblem>> {
    validate_within(wasm, Allowance::Foreign)
}

/// The same with the limits of this allowance.
pub(super) fn validate_within(wasm: &[u8], allowance: Allowance) -> Result<WasmFacts, Vec<WasmProblem>> {
    if wasm.len() > limits::MODULE_BYTES_MAX {
        return Err(vec![WasmProblem::at(0, ProblemKind::ModuleTooLarge { size: wasm.len() })]);
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(vec![WasmProblem::at(0, ProblemKind::NotWasm)]);
    }
    let mut scan = Scan { factor: allowance.factor(), ..Scan::default() };
    if let Err(error) = scan.module(wasm) {
        scan.malformed(&error);
    }
    if scan.problems.is_empty() {
        scan.judge_exports();
    }
    if scan.problems.is_empty()
        && let Err(error) = Validator::new_with_features(FEATURES).validate_all(wasm)
    {
        scan.malformed(&error);
    }
    scan.finish()
}

/// One pass over a module.
#[derive(Default)]
struct Scan {
    /// The factor by which the limits of its structure are multiplied.
    factor: u64,
    found: WasmFacts,
    types: Vec<Option<FuncType>>,
    /// Type index of each function, imported ones first.
    functions: Vec<u32>,
    import_count: u32,
    body_count: u32,
    memory_count: u32,
    table_count: u32,
    exported: Vec<(String, ExternalKind, u32)>,
    names: Vec<(u32, String)>,
    problems: Vec<WasmProblem>,
}

impl Scan {
    fn module(&mut self, wasm: &[u8]) -> Result<(), wasmparser::BinaryReaderError> {
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::Version { encoding: Encoding::Component, .. } => {
                    self.problem(0, ProblemKind::Component);
                    return Ok(());
                }
                Payload::TypeSection(section) => {
                    for group in section.into_iter_with_offsets() {
                        let (offset, group) = group?;
                        for ty in group.into_types() {
                            self.add_type(offset, ty.composite_type.inner);
                        }
                    }
                }
                Payload::ImportSection(section) => self.imports(section)?,
                Payload::FunctionSection(section) => {
                    self.count(section.range().start, StructurePart::Functions, u64::from(section.count()));
                    for ty in section {
                        self.functions.push(ty?);
                    }
                }
                Payload::TableSection(section) => {
                    for table in section.into_iter_with_offsets() {
                        let (offset, table) = table?;
                        self.table(offset, &table.ty);
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section.into_iter_with_offsets() {
                        let (offset, memory) = memory?;
                        self.memory(offset, &memory);
                    }
                }
                Payload::TagSection(section) => {
                    let offset = section.range().start;
                    self.problem(offset, ProblemKind::Exception { what: "tag section".to_owned() });
                }
                Payload::GlobalSection(section) => {
                    self.count(section.range().start, StructurePart::Globals, u64::from(section.count()));
                    for global in section.into_iter_with_offsets() {
                        let (offset, global) = global?;
                        self.value_type(offset, global.ty.content_type, None, "a global");
                    }
                }
                Payload::ElementSection(section) => {
                    self.count(section.range().start, StructurePart::Segments, u64::from(section.count()));
                }
                Payload::DataSection(section) => {
                    self.count(section.range().start, StructurePart::Segments, u64::from(section.count()));
                }
                Payload::ExportSection(section) => {
                    self.count(section.range().start, StructurePart::Exports, u64::from(section.count()));
                    for export in section {
                        let export = export?;
                        self.found.exports.push(export.name.to_owned());
                        self.exported.push((export.name.to_owned(), export.kind, export.index));
                    }
                }
                Payload::StartSection { range, .. } => self.problem(range.start, ProblemKind::Start),
                Payload::CodeSectionEntry(body) => self.body(&body)?,
                Payload::CustomSection(section) => match section.as_known() {
                    KnownCustom::Name(names) => self.read_names(names),
                    KnownCustom::Producers(producers) => self.found.compiler = find_compiler(producers),
                    _ => {}
                },
                _ => {}
            }
        }
        self.judge_types();
        Ok(())
    }

    fn imports(&mut self, section: wasmparser::ImportSectionReader<'_>) -> Result<(), wasmparser::BinaryReaderError> {
        for import in section.into_imports_with_offsets() {
            let (offset, import) = import?;
            if let wasmparser::TypeRef::Func(ty) = import.ty {
                self.functions.push(ty);
                self.import_count += 1;
            }
            let (module, name) = (import.module.to_owned(), import.name.to_owned());
            self.problem(offset, ProblemKind::Import { module, name });
        }
        Ok(())
    }

    fn table(&mut self, offset: usize, table: &TableType) {
        self.table_count += 1;
        if self.table_count == 2 {
            self.problem(offset, ProblemKind::SeveralTables);
        }
        self.found.table_elements_min = self.found.table_elements_min.max(table.initial);
        if table.initial > u64::from(limits::GUEST_TABLE_ELEMENTS_MAX) {
            self.problem(offset, ProblemKind::TableTooLarge { elements: table.initial });
        }
        if !table.element_type.is_func_ref() {
            self.problem(offset, ProblemKind::Reference { what: "table that holds no functions".to_owned() });
        }
        if table.table64 {
            self.problem(offset, ProblemKind::Memory64);
        }
        if table.shared {
            self.problem(offset, ProblemKind::Thread { what: "shared table".to_owned() });
        }
    }

    fn memory(&mut self, offset: usize, memory: &MemoryType) {
        self.memory_count += 1;
        if self.memory_count == 2 {
            self.problem(offset, ProblemKind::SeveralMemories);
        }
        if memory.memory64 {
            self.problem(offset, ProblemKind::Memory64);
        }
        if memory.shared {
            self.problem(offset, ProblemKind::Thread { what: "shared memory".to_owned() });
        }
        if memory.page_size_log2.is_some() {
            let what = "memory with pages of a size of their own".to_owned();
            self.problem(offset, ProblemKind::Proposal { proposal: "custom_page_sizes", what });
        }
        let bytes = memory.initial.saturating_mul(PAGE_BYTES);
        if bytes > limits::GUEST_MEMORY_BYTES_MAX as u64 {
            self.problem(offset, ProblemKind::MemoryTooLarge { bytes });
        }
        self.found.memory_bytes_min = self.found.memory_bytes_min.max(bytes);
    }

    fn body(&mut self, body: &FunctionBody<'_>) -> Result<(), wasmparser::BinaryReaderError> {
        let function = self.import_count + self.body_count;
        self.body_count += 1;
        let begin = body.range().start;
        self.most(begin, Some(function), StructurePart::Body, body.range().len() as u64);
        let (mut locals, mut local_count) = (body.get_locals_reader()?, 0u64);
        for _ in 0..locals.get_count() {
            let offset = locals.original_position();
            let (count, ty) = locals.read()?;
            local_count += u64::from(count);
            self.value_type(offset, ty, Some(function), "a local");
        }
        self.count(begin, StructurePart::Locals, local_count);
        let ty = self.functions.get(function as usize).and_then(|ty| self.types.get(*ty as usize));
        local_count += ty.and_then(Option::as_ref).map_or(0, |ty| ty.params().len() as u64);
        self.most(begin, Some(function), StructurePart::FunctionLocals, local_count);
        let mut operators = body.get_operators_reader()?;
        let (mut depth, mut block_count) = (0u64, 1);
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            match &operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                    (depth, block_count) = (depth + 1, block_count + 1);
                    self.most(offset, Some(function), StructurePart::Nesting, depth);
                }
                Operator::End => depth = depth.saturating_sub(1),
                Operator::BrTable { targets } => {
                    self.most(offset, Some(function), StructurePart::Targets, u64::from(targets.len()));
                }
                _ => {}
            }
            self.operator(offset, function, &operator);
        }
        self.most(begin, Some(function), StructurePart::BlockLocals, block_count * local_count);
        Ok(())
    }

    fn add_type(&mut self, offset: usize, ty: CompositeInnerType) {
        let ty = if let CompositeInnerType::Func(ty) = ty { Some(ty) } else { None };
        let values = ty.as_ref().map_or(0, |ty| ty.params().len() + ty.results().len());
        self.most(offset, None, StructurePart::Values, values as u64);
        self.count(offset, StructurePart::Types, 1);
        self.types.push(ty);
    }

    /// Counts what the module has in total.
    fn count(&mut self, offset: usize, part: StructurePart, count: u64) {
        if let Some(count) = self.found.structure.add(part, count, self.factor) {
            self.problem(offset, ProblemKind::Excess { part, count, limit: part.limit() * self.factor });
        }
    }

    /// Notes what one function or type has.
    fn most(&mut self, offset: usize, function: Option<u32>, part: StructurePart, count: u64) {
        if let Some(count) = self.found.structure.most(part, count, self.factor) {
            self.problem_in(offset, function, ProblemKind::Excess { part, count, limit: part.limit() * self.factor });
        }
    }

    fn operator(&mut self, offset: usize, function: u32, operator: &Operator<'_>) {
        match operator {
            Operator::Block { blockty: BlockType::Type(ty) }
            | Operator::Loop { blockty: BlockType::Type(ty) }
            | Operator::If { blockty: BlockType::Type(ty) } => {
                return self.value_type(offset, *ty, Some(function), "a block");
            }
            Operator::TypedSelect { ty } => return self.value_type(offset, *ty, Some(function), "a select"),
            _ => {}
        }
        let (proposal, visit) = proposal_and_name(operator);
        let what = || text_name(visit);
        let kind = match proposal {
            _ if visit.contains("f32") && proposal != "simd" && proposal != "relaxed_simd" => {
                ProblemKind::Float { what: what() }
            }
            "simd" | "relaxed_simd" => ProblemKind::Simd { what: what() },
            _ if visit.contains("f64") => ProblemKind::Float { what: what() },
            "mvp" | "sign_extension" | "bulk_memory" => return,
            "threads" | "shared_everything_threads" => ProblemKind::Thread { what: what() },
            "reference_types" | "function_references" => ProblemKind::Reference { what: what() },
            "exceptions" | "legacy_exceptions" => ProblemKind::Exception { what: what() },
            "gc" | "custom_descriptors" => ProblemKind::Gc { what: what() },
            "tail_call" => ProblemKind::TailCall { what: what() },
            _ => ProblemKind::Proposal { proposal, what: what() },
        };
        self.problem_in(offset, Some(function), kind);
    }

    /// A value of a forbidden type must not exist in a module, be it a parameter, local, global or on the stack.
    fn value_type(&mut self, offset: usize, ty: ValType, function: Option<u32>, place: &'static str) {
        let kind = match ty {
            ValType::I32 | ValType::I64 => return,
            ValType::F32 | ValType::F64 => ProblemKind::FloatType { what: format!("{ty} as type of {place}") },
            ValType::V128 => ProblemKind::Simd { what: format!("{ty} as type of {place}") },
            ValType::Ref(_) => ProblemKind::Reference { what: format!("{ty} as type of {place}") },
        };
        self.problem_in(offset, function, kind);
    }

    /// Checks parameters and results, of functions by name, and of types that no function has by number.
    fn judge_types(&mut self) {
        let mut named: Vec<Option<u32>> = vec![None; self.types.len()];
        for (function, ty) in self.functions.iter().enumerate() {
            if let Some(named) = named.get_mut(*ty as usize) {
                named.get_or_insert(function as u32);
            }
        }
        for (ty, function) in std::mem::take(&mut self.types).into_iter().zip(named) {
            match &ty {
                Some(func) => {
                    for value in func.params().iter().chain(func.results()) {
                        self.value_type(0, *value, function, "a parameter or result");
                    }
                }
                None => self.problem(0, ProblemKind::Gc { what: "type that is no function".to_owned() }),
            }
            self.types.push(ty);
        }
    }

    fn judge_exports(&mut self) {
        let memory =
            |(name, kind, _): &(String, ExternalKind, u32)| name == export::MEMORY && *kind == ExternalKind::Memory;
        if !self.exported.iter().any(memory) {
            self.problem(0, ProblemKind::MissingExport { name: export::MEMORY });
        }
        let is_view = self.exported.iter().any(|(name, ..)| name == PROJECT);
        let wanted: &[_] = if is_view { &VIEW_EXPORTS } else { &EXPORTS };
        for &(name, params, results) in wanted {
            let found = self.exported.iter().find(|(found, kind, _)| found == name && *kind == ExternalKind::Func);
            let Some((_, _, index)) = found else {
                self.problem(0, ProblemKind::MissingExport { name });
                continue;
            };
            let ty = self.functions.get(*index as usize).and_then(|ty| self.types.get(*ty as usize));
            // An index without a function is reported by wasmparser's own validator.
            let Some(Some(ty)) = ty else { continue };
            if ty.params() != params || ty.results() != results {
                let (expected, found) = (signature(params, results), signature(ty.params(), ty.results()));
                self.problem(0, ProblemKind::ExportType { name, expected, found });
            }
        }
    }

    fn read_names(&mut self, names: wasmparser::NameSectionReader<'_>) {
        // A damaged name section costs only names.
        for name in names.into_iter().flatten() {
            if let Name::Function(map) = name {
                self.names.extend(map.into_iter().flatten().map(|naming| (naming.index, naming.name.to_owned())));
            }
        }
    }

    fn malformed(&mut self, error: &wasmparser::BinaryReaderError) {
        self.problem(error.offset(), ProblemKind::Malformed { detail: error.message().to_owned() });
    }

    fn problem(&mut self, offset: usize, kind: ProblemKind) {
        self.problem_in(offset, None, kind);
    }

    fn problem_in(&mut self, offset: usize, function: Option<u32>, kind: ProblemKind) {
        let again = |other: &WasmProblem| {
            function.is_some()
                && other.function_index == function
                && std::mem::discriminant(&other.kind) == std::mem::discriminant(&kind)
        };
        if self.problems.len() < PROBLEMS_MAX && !self.problems.iter().any(again) {
            self.problems.push(WasmProblem { kind, offset, function_index: function, function: None });
        }
    }

    fn finish(mut self) -> Result<WasmFacts, Vec<WasmProblem>> {
        for problem in &mut self.problems {
            let name = |index| self.names.iter().find(|(named, _)| *named == index);
            problem.function = problem.function_index.map(|index| match name(index) {
                Some((_, name)) => format!("{:#}", rustc_demangle::demangle(name)),
                None => format!("function {index}"),
            });
        }
        self.found.function_count = self.functions.len();
        if self.problems.is_empty() { Ok(self.found) } else { Err(self.problems) }
    }
}

/// The compiler among a module's producers.
fn find_compiler(producers: ProducersSectionReader<'_>) -> Option<String> {
    let fields = producers.into_iter().flatten().filter(|field| field.name == "processed-by");
    let values = fields.flat_map(|field| field.values.into_iter().flatten());
    let mut tools: Vec<_> = values.map(|tool| (tool.name, tool.version)).collect();
    tools.sort_by_key(|(name, _)| *name != "rustc");
    tools.first().map(|(name, version)| format!("{name} {version}"))
}

fn signature(params: &[ValType], results: &[ValType]) -> String {
    let list = |types: &[ValType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("({}) -> ({})", list(params), list(results))
}

macro_rules! define_proposal_and_name {
    ($( @$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*) )*) => {
        /// The proposal to which an instruction belongs, and the name of its visitor.
        fn proposal_and_name(operator: &Operator<'_>) -> (&'static str, &'static str) {
            match operator {
                $( Operator::$op { .. } => (stringify!($proposal), stringify!($visit)), )*
                _ => ("unknown", "visit_unknown"),
            }
        }
    };
}
wasmparser::for_each_operator!(define_proposal_and_name);

/// `visit_f64_add` → `f64.add`, `visit_i64_atomic_load` → `i64.atomic.load`.
fn text_name(visit: &str) -> String {
    const FAMILIES: [&str; 22] = [
        "i32", "i64", "f32", "f64", "v128", "i8x16", "i16x8", "i32x4", "i64x2", "f32x4", "f64x2", "memory", "table",
        "ref", "struct", "array", "any", "extern", "global", "local", "elem", "data",
    ];
    let name = visit.strip_prefix("visit_").unwrap_or(visit);
    match name.split_once('_') {
        Some((family, rest)) if FAMILIES.contains(&family) => {
            format!("{family}.{}", rest.replacen("atomic_", "atomic.", 1))
        }
        _ => name.to_owned(),
    }
}
