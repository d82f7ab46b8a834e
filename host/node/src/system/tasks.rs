//! Background tasks of a node. A task that panics is started again; until it has run for a while, the node is not ready
//! and names the task.
//!
//! In: a name, and how to begin. Out: a task that runs until the node stops. It does not know what a task does. Each
//! begins anew from the state of the node, as it does after a restart of the process.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::limits::{TASK_AGAIN, TASK_SETTLED};
use crate::system::context::NodeContext;

/// Runs a task until the node stops, or until the task has nothing more to do.
pub fn keep<F>(
    context: &Arc<NodeContext>,
    name: &'static str,
    begin: impl Fn(Arc<NodeContext>) -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (context, given) = (context.clone(), context.clone());
    tokio::spawn(async move {
        let say = |trouble| context.router.set_trouble(name, trouble);
        supervise(name, &context.stopping, say, move || begin(given.clone())).await;
    })
}

/// Runs a task that cannot begin twice: after a panic the node is no longer ready.
pub fn run_once(context: &Arc<NodeContext>, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let context = context.clone();
    tokio::spawn(async move {
        if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
            let text = report(name, &*panic);
            context
                .router
                .set_trouble(name, Some(format!("its task `{name}` panicked ({text}): start the node again")));
        }
    });
}

async fn supervise<F: Future<Output = ()>>(
    name: &'static str,
    stopping: &CancellationToken,
    say: impl Fn(Option<String>),
    begin: impl Fn() -> F,
) {
    let mut is_again = false;
    loop {
        let mut running = std::pin::pin!(AssertUnwindSafe(begin()).catch_unwind());
        let mut ended = None;
        if is_again {
            ended = tokio::time::timeout(TASK_SETTLED, &mut running).await.ok();
            if !matches!(ended, Some(Err(_))) {
                say(None);
            }
        }
        let ended = match ended {
            Some(ended) => ended,
            None => running.await,
        };
        let Err(panic) = ended else { return };
        let text = report(name, &*panic);
        say(Some(format!("its background task `{name}` panicked ({text}) and is started again")));
        is_again = true;
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(TASK_AGAIN) => {}
        }
    }
}

/// Reports a panic. Its place is in the log already.
fn report(name: &'static str, panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned());
    tracing::error!(task = name, text, "a background task panicked");
    metrics::counter!("statehouse_task_panics_total", "task" => name).increment(1);
    text
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_and_the_node_says_which_one() {
        let (stopping, begun) = (CancellationToken::new(), Cell::new(0));
        let said: RefCell<Vec<Option<String>>> = RefCell::default();
        let work = || {
            begun.set(begun.get() + 1);
            let (count, stopping) = (begun.get(), stopping.clone());
            async move {
                assert!(2 < count, "planted {count}");
                stopping.cancelled().await;
            }
        };
        let supervising = supervise("vigil", &stopping, |trouble| said.borrow_mut().push(trouble), work);
        let watching = async {
            while said.borrow().last() != Some(&None) {
                tokio::time::advance(TASK_AGAIN).await;
            }
            stopping.cancel();
        };
        tokio::join!(supervising, watching);
        assert_eq!(begun.get(), 3);
        let panicked =
            |count| Some(format!("its background task `vigil` panicked (planted {count}) and is started again"));
        assert_eq!(*said.borrow(), [panicked(1), panicked(2), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stops_starts_nothing_again() {
        let (stopping, begun) = (CancellationToken::new(), Cell::new(0));
        let work = || {
            begun.set(begun.get() + 1);
            stopping.cancel();
            async { panic!("planted") }
        };
        supervise("steward", &stopping, |_| (), work).await;
        assert_eq!(begun.get(), 1);
    }
}
