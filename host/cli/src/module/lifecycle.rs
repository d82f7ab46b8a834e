//! `statehouse module stage | prepare | activate | rollback | log`: a module's life on a cluster, through the REST API
//! of any node.
//!
//! In: a node's URL, a token, and which module. Out: the machine's modules as that node sees them afterwards. It does
//! not know how a step is taken.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use statehouse_kernel::ids::ModuleId;
use statehouse_node::api::ModulesPage;

use crate::client::{Client, ClientArgs};
use crate::output::{print, print_json, table};

/// How many hexadecimal digits of an id distinguish modules.
const SHORT: usize = 12;

/// Upload a module to a cluster; it is not active yet
#[derive(Debug, Args)]
pub struct StageArgs {
    /// The module, a .wasm file
    file: PathBuf,
    #[command(flatten)]
    of: MachineTargetArgs,
}

/// Let every node compile a staged module, and try it on its own rows and newest commands
///
/// The command prints the machine's modules. Exit code 1 means that at least one node has a problem with the module.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    #[command(flatten)]
    which: ModuleNameArgs,
    #[command(flatten)]
    of: MachineTargetArgs,
}

/// Make a prepared module the active module of a machine
///
/// This needs a certificate of a replay that covers the cluster's history, or --without-proof.
#[derive(Debug, Args)]
pub struct ActivateArgs {
    #[command(flatten)]
    which: ModuleNameArgs,
    /// The certificate file that `audit replay --certificate` wrote
    #[arg(long, required_unless_present = "without_proof")]
    certificate: Option<PathBuf>,
    /// Approve a class of differences, as CLASS=COUNT with the count in the replay's report; repeat the option for each
    /// class
    #[arg(long, requires = "certificate")]
    approve: Vec<String>,
    /// Activate the module without a certificate. This needs the role `admin`, and is recorded for ever
    #[arg(long, conflicts_with = "certificate")]
    without_proof: bool,
    #[command(flatten)]
    of: MachineTargetArgs,
}

/// Make a module active again that was active before
#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    which: ModuleNameArgs,
    #[command(flatten)]
    of: MachineTargetArgs,
}

/// Show a machine's modules, and every step that was taken with them
#[derive(Debug, Args)]
pub struct ModuleLogArgs {
    /// Print the node's answer, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of: MachineTargetArgs,
}

/// Which machine of which cluster.
#[derive(Debug, Args)]
pub struct MachineTargetArgs {
    /// The name of the machine
    #[arg(long, default_value = "wallet")]
    machine: String,
    #[command(flatten)]
    asked: ClientArgs,
}

#[derive(Debug, Args)]
pub struct ModuleNameArgs {
    /// The module: its file, its id, the first digits of its id (at least 4), or its version
    module: String,
}

impl MachineTargetArgs {
    pub fn client(&self) -> anyhow::Result<Client> {
        self.asked.client()
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/v1/machines/{}/modules{rest}", self.machine)
    }

    pub async fn page(&self) -> anyhow::Result<ModulesPage> {
        read(self.asked.client()?.get(&self.path("")).await?)
    }

    /// Takes a step with a module that is staged or was active.
    async fn step(&self, which: &ModuleNameArgs, step: &str, body: Option<Value>) -> anyhow::Result<ExitCode> {
        let id = which.find(&self.page().await?)?;
        let path = self.path(&format!("/{id}/{step}"));
        let page = read(self.asked.client()?.send(Method::POST, &path, body.as_ref()).await?)?;
        print(&render_modules(&page))?;
        let of_module = page.modules.iter().filter(|module| module.id == id);
        let problems = of_module.flat_map(|module| &module.prepared).filter(|node| node.problem.is_some()).count();
        Ok(if step == "prepare" && 0 < problems { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl ModuleNameArgs {
    pub fn named(module: String) -> Self {
        Self { module }
    }

    /// The id of the module, which must be on the page.
    pub fn find(&self, page: &ModulesPage) -> anyhow::Result<String> {
        if std::path::Path::new(&self.module).is_file() {
            let wasm = std::fs::read(&self.module).with_context(|| format!("reading {}", self.module))?;
            return Ok(ModuleId::of(&wasm).to_string());
        }
        let staged = page.modules.iter().map(|module| (module.id.as_str(), module.version.as_str()));
        let active = page.steps.iter().map(|step| (step.module.as_str(), ""));
        let is_meant = |(id, version): &(&str, &str)| {
            *version == self.module || (4 <= self.module.len() && id.starts_with(&self.module))
        };
        let mut found: Vec<&str> = staged.chain(active).filter(is_meant).map(|(id, _)| id).collect();
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [id] => Ok((*id).to_owned()),
            [] => bail!("no module `{}` is staged; `statehouse module log` lists what is", self.module),
            several => bail!("`{}` may be any of {}: give more digits of its id", self.module, several.join(", ")),
        }
    }
}

pub fn block_on<T>(asking: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(asking)
}

pub fn stage(args: &StageArgs) -> anyhow::Result<ExitCode> {
    let wasm = std::fs::read(&args.file).with_context(|| format!("reading {}", args.file.display()))?;
    let body = ("application/wasm", wasm.into());
    let page = block_on(async {
        read(args.of.asked.client()?.send_content(Method::POST, &args.of.path(""), Some(body)).await?)
    })?;
    print(&render_modules(&page))?;
    Ok(ExitCode::SUCCESS)
}

pub fn prepare(args: &PrepareArgs) -> anyhow::Result<ExitCode> {
    block_on(args.of.step(&args.which, "prepare", None))
}

pub fn activate(args: &ActivateArgs) -> anyhow::Result<ExitCode> {
    let body = match &args.certificate {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            json!({ "certificate": text, "approve": args.approve })
        }
        None => json!({ "without_proof": true }),
    };
    block_on(args.of.step(&args.which, "activate", Some(body)))
}

pub fn rollback(args: &RollbackArgs) -> anyhow::Result<ExitCode> {
    block_on(args.of.step(&args.which, "rollback", None))
}

pub fn log(args: &ModuleLogArgs) -> anyhow::Result<ExitCode> {
    let page = block_on(args.of.page())?;
    if args.json {
        print_json(&page)?
    } else {
        print(&render(&page))?
    }
    Ok(ExitCode::SUCCESS)
}

fn read(json: Value) -> anyhow::Result<ModulesPage> {
    serde_json::from_value(json).context("the node's answer is not that of this version; use the `statehouse` it runs")
}

pub fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

fn render_modules(page: &ModulesPage) -> String {
    let mut modules = table(&["module", "version", "schema", "bytes", "prepared by", "active in"]);
    for module in &page.modules {
        let prepared = module.prepared.iter().map(|node| match &node.problem {
            None => node.node.to_string(),
            Some(problem) => format!("not by {}: {problem}", node.node),
        });
        let active = page.partitions.iter().filter(|partition| partition.module == module.id);
        modules.add_row([
            short(&module.id).to_owned(),
            module.version.clone(),
            module.schema.to_string(),
            module.size.to_string(),
            prepared.collect::<Vec<_>>().join(", "),
            active.map(|partition| partition.partition.to_string()).collect::<Vec<_>>().join(", "),
        ]);
    }
    let active = format!("{}: {} is active, by activation {}", page.machine, short(&page.active), page.activation);
    format!("{active}\n{modules}\n")
}

/// The same, with every step.
fn render(page: &ModulesPage) -> String {
    let mut steps = table(&["time", "step", "module", "by", ""]);
    for step in &page.steps {
        let module = short(&step.module).to_owned();
        steps.add_row([step.time.clone(), step.step.clone(), module, step.by.clone(), step.detail.clone()]);
    }
    if page.refused.is_empty() {
        return format!("{}{steps}\n", render_modules(page));
    }
    let mut refused = table(&["time", "refused", "bytes", "by", "why"]);
    for module in &page.refused {
        let (id, size) = (short(&module.module).to_owned(), module.size.to_string());
        refused.add_row([module.time.clone(), id, size, module.by.clone(), module.reason.clone()]);
    }
    format!("{}{steps}\n{refused}\n", render_modules(page))
}
