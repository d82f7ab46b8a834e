//! The rights that a compiling child gives up: memory, time, files, network, other processes.
//!
//! In: how much the child may use. Out: what this kernel could not take away. It lasts until the process ends, and is
//! done before a byte of the module is read. It knows nothing of modules.

use std::collections::BTreeMap;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use crate::guest::allowance::Allowance;
use crate::limits;

/// System calls that compiling needs: memory, threads of its own, and the pipes that are open.
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

/// Confines this process for good; returns as text what was not possible here.
pub(super) fn confine(allowance: Allowance) -> Result<Vec<String>, String> {
    // The parent kills this process after its deadline; if the parent dies, the kernel does it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| format!("its parent's death: {error}"))?;
    limit(Resource::Data, allowance.memory(), 0)?;
    // The signal of the soft limit identifies it; that of the hard limit is an ordinary SIGKILL.
    limit(Resource::Cpu, allowance.cpu().as_secs(), 1)?;
    // Neither a core dump nor a file may be written.
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Fsize, 0, 0)?;
    let mut missing = Vec::new();
    missing.extend(without_inherited().err().map(|error| format!("inherited files stay open ({error})")));
    missing.extend(nice(limits::COMPILE_NICE).err().map(|error| format!("no lower priority ({error})")));
    missing.extend(without_files().err().map(|error| format!("no landlock ({error})")));
    missing.extend(without_calls().err().map(|error| format!("no seccomp ({error})")));
    Ok(missing)
}

/// Limits a resource to `wanted`, or to the previous maximum if that is lower. The hard limit is `more` above the soft
/// one.
fn limit(resource: Resource, wanted: u64, more: u64) -> Result<(), String> {
    let before = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let (current, maximum) = (wanted.min(before.saturating_sub(more)), wanted.saturating_add(more).min(before));
    let limited = setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) });
    limited.map_err(|error| format!("limit of {resource:?}: {error}"))
}

/// Closes inherited files. This program passes none on, but the process that started its parent may have.
fn without_inherited() -> std::io::Result<()> {
    // SAFETY: it closes only what nothing in this process has opened: everything it uses is memory and the three pipes
    // below.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Forbids opening files and addresses, and reaching processes outside. What the kernel does not know yet is not
/// forbidden.
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

/// Makes every other system call fail. New threads are allowed, new processes are not.
fn without_calls() -> Result<(), String> {
    for filter in filters().map_err(|error| error.to_string())? {
        apply_filter(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn filters() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = || std::env::consts::ARCH.try_into();
    let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    // The arguments of `clone3` are in memory, which a filter cannot read. Without it the C library falls back to
    // `clone`, whose flags are in a register.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = SeccompFilter::new(unknown, SeccompAction::Allow, errno(libc::ENOSYS), arch()?)?;
    let when = |argument, operator, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
    };
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    let is_thread = when(0, SeccompCmpOp::MaskedEq(thread), thread)?;
    // Machine code is produced here, but executed elsewhere.
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
