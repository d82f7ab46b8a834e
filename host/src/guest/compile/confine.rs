//! What a child that compiles takes from itself: memory, time, files, network, other processes.
//!
//! In: how much it may have. Out: what the kernel could not take. It lasts until the process ends, and is done before a byte of the module is
//! read. It knows nothing of modules.

use std::collections::BTreeMap;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use crate::guest::allowance::Allowance;
use crate::limits;

/// Calls that compiling takes: memory, threads of its own, and the pipes that are open.
const CALLS: [i64; 31] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getrusage,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_restart_syscall,
    libc::SYS_clone3,
    libc::SYS_prctl,
];

/// Confines this process for good; returns what was not possible here, in words.
pub(super) fn confine(allowance: Allowance) -> Result<Vec<String>, String> {
    // The process that asked kills this one when it has waited long enough; here it is, should that one die.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| format!("its parent's death: {error}"))?;
    limit(Resource::Data, allowance.memory(), 0)?;
    // The signal of the first limit says what it is, that of the second is no other than anybody's.
    limit(Resource::Cpu, allowance.cpu().as_secs(), 1)?;
    // Neither a dump of its memory nor a file.
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Fsize, 0, 0)?;
    let mut missing = Vec::new();
    missing.extend(without_inherited().err().map(|error| format!("whatever its parent was started with ({error})")));
    missing.extend(nice(limits::COMPILE_NICE).err().map(|error| format!("no lower priority ({error})")));
    missing.extend(without_files().err().map(|error| format!("no landlock ({error})")));
    missing.extend(without_calls().err().map(|error| format!("no seccomp ({error})")));
    Ok(missing)
}

/// No more than this, or than there was before; the second limit is that much above the first.
fn limit(resource: Resource, wanted: u64, more: u64) -> Result<(), String> {
    let before = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let (current, maximum) = (wanted.min(before.saturating_sub(more)), wanted.saturating_add(more).min(before));
    let limited = setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) });
    limited.map_err(|error| format!("limit of {resource:?}: {error}"))
}

/// What this program opens it does not hand on, but whoever started its parent may have.
fn without_inherited() -> std::io::Result<()> {
    // SAFETY: it closes what nothing in this process has opened: whatever it works with is memory and the three pipes below.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// No file and no address may be opened, and no process outside be reached; what the kernel does not know yet it does not forbid.
fn without_files() -> Result<(), String> {
    const KNOWN: ABI = ABI::V6;
    let restrict = || {
        let rules = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?;
        let rules = rules.handle_access(AccessNet::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?;
        rules.create()?.restrict_self()
    };
    let restricted: Result<_, RulesetError> = restrict();
    match restricted.map_err(|error| error.to_string())?.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel has none".to_owned()),
        RulesetStatus::PartiallyEnforced => Err("the kernel has a part of it".to_owned()),
        RulesetStatus::FullyEnforced => Ok(()),
    }
}

/// Every other call fails. New threads are allowed, new processes are not.
fn without_calls() -> Result<(), String> {
    for filter in filters().map_err(|error| error.to_string())? {
        apply_filter(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn filters() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = || std::env::consts::ARCH.try_into();
    let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    // What it would do lies in memory, where a filter does not look: the C library falls back to `clone`, whose flags are in a register.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = SeccompFilter::new(unknown, SeccompAction::Allow, errno(libc::ENOSYS), arch()?)?;
    let when = |argument, operator, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
    };
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    let is_thread = when(0, SeccompCmpOp::MaskedEq(thread), thread)?;
    // Machine code is made here and run elsewhere.
    let is_data = || when(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC.unsigned_abs().into()), 0);
    let is_own = when(0, SeccompCmpOp::Eq, std::process::id().into())?;
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    calls.insert(libc::SYS_clone, vec![is_thread]);
    calls.insert(libc::SYS_mmap, vec![is_data()?]);
    calls.insert(libc::SYS_mprotect, vec![is_data()?]);
    calls.insert(libc::SYS_tgkill, vec![is_own]);
    let calls = SeccompFilter::new(calls, errno(libc::EPERM), SeccompAction::Allow, arch()?)?;
    Ok([unknown.try_into()?, calls.try_into()?])
}
