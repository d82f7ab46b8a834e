//! The directory's owner: each caller sees what it has caused, and none waits for an owner that has panicked or ended.
//!
//! In: callers that ask at once, and a planted panic. Out: what each of them is answered. It does not know what the
//! directory is used for.

use futures_util::future::join_all;

use super::*;
use crate::ids::ModuleId;
use crate::records::command::SystemCommand;
use crate::system::submit::submit;

/// How many ask at once.
const ASKERS: u8 = 8;

async fn open_alone(folder: &Path) -> Node {
    lend_compiled(folder);
    Node::open(node_options(folder.to_owned(), NodeId(1))).await.expect("a new folder")
}

/// Has `system` record something, and asks for the directory.
async fn causes_and_sees(node: &Node, number: u8) {
    let cluster = node.cluster();
    let (system, _) = cluster.directory_now(soon()).await.expect("`system` is open");
    let module = ModuleId::of(&[number]);
    let refusal =
        SystemCommand::RefuseModule { machine: MACHINE.to_owned(), module, size: 1, reason: "it is none".to_owned() };
    submit(&system, &refusal, soon()).await.expect("it is recorded");
    let (_, directory) = cluster.directory_now(soon()).await.expect("`system` is open");
    assert!(directory.refused.iter().any(|refused| refused.is_of(MACHINE, module.0)), "asker {number} sees it");
    let published = node.context.directory();
    assert!(published.refused.iter().any(|refused| refused.is_of(MACHINE, module.0)), "and so do all others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_ask_at_once_see_what_they_have_caused_also_after_a_panic() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let node = open_alone(folder.path()).await;
    join_all((0..ASKERS).map(|number| causes_and_sees(&node, number))).await;

    node.context.directory_requests.plant_panic().await;
    let reasons = || node.router().is_ready().err().unwrap_or_default();
    let is_said = || reasons().iter().any(|reason| reason.contains("`directory` panicked"));
    eventually("the node says that its task has failed", || is_said().then_some(())).await;
    // These requests wait in the queue until the owner is started again.
    join_all((ASKERS..2 * ASKERS).map(|number| causes_and_sees(&node, number))).await;

    let requests = node.context.directory_requests.clone();
    node.close().await.expect("it stops");
    let asked = requests.reach(BTreeMap::new(), soon()).await;
    assert!(matches!(asked, Err(NodeError::Stopping | NodeError::Unanswered)), "nobody waits for it: {asked:?}");
}
