//! Swap, and how much memory was promised.
//!
//! A kernel whose kallsyms has no data does not name the variables. Then they are those that
//! `vm_commit_limit()`, `si_swapinfo()`, `vm_memory_committed()` and `vmalloc_nr_pages()` read
//! ([`operands`](crate::operands)), told apart by how many bytes are read and by what else is
//! known.
//!
//! Source: `mm/util.c`, `mm/swapfile.c`, `mm/vmalloc.c`,
//! Documentation/mm/overcommit-accounting.rst.

use serde::Serialize;

use crate::Kernel;
use crate::object::Error;
use crate::operands::{self, Operand, loads, only};

/// Room for pages that are not in RAM, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Swap {
    /// What there is.
    pub total: u64,
    /// What was not used.
    pub free: u64,
}

/// Where the variables are, those that can be found.
pub(crate) struct Variables<'k> {
    kernel: &'k Kernel<'k>,
    total_swap_pages: Option<u64>,
    nr_swap_pages: Option<u64>,
    overcommit_kbytes: Option<u64>,
    overcommit_ratio: Option<u64>,
    committed: Option<u64>,
    vmalloc: Option<u64>,
}

impl<'k> Variables<'k> {
    /// Finds them. `total` are the pages of all RAM, which one of them holds.
    pub(crate) fn find(kernel: &'k Kernel<'k>, total: u64) -> Self {
        let limit = operands::of(kernel, "vm_commit_limit");
        let info = loads(&operands::of(kernel, "si_swapinfo"), 8);
        let swap = only(loads(&limit, 8).into_iter().filter(|at| info.contains(at)));
        let free = || only(info.iter().copied().filter(|at| Some(*at) != swap));
        let kbytes = || {
            let others = loads(&limit, 8).into_iter();
            only(others.filter(|at| Some(*at) != swap && kernel.read_u64(*at) != Ok(total)))
        };
        let named =
            |name: &str, found: &dyn Fn() -> Option<u64>| kernel.symbol(name).or_else(found);
        Self {
            kernel,
            total_swap_pages: named("total_swap_pages", &|| swap),
            nr_swap_pages: named("nr_swap_pages", &|| swap.and_then(|_| free())),
            overcommit_kbytes: named("sysctl_overcommit_kbytes", &|| swap.and_then(|_| kbytes())),
            overcommit_ratio: named("sysctl_overcommit_ratio", &|| only(loads(&limit, 4))),
            committed: named("vm_committed_as", &|| committed(kernel)),
            vmalloc: named("nr_vmalloc_pages", &|| {
                only(loads(&operands::of(kernel, "vmalloc_nr_pages"), 8))
            }),
        }
    }

    fn word(&self, at: Option<u64>) -> Option<u64> {
        self.kernel.read_u64(at?).ok()
    }

    /// Swap, in pages: total and free.
    pub(crate) fn swap(&self) -> Option<(u64, u64)> {
        let total = self.word(self.total_swap_pages)?;
        let free = self.word(self.nr_swap_pages)?;
        (free <= total).then_some((total, free))
    }

    /// How many pages may be promised if promises are kept (`vm_commit_limit()`), of so many
    /// in RAM that are no huge pages.
    pub(crate) fn limit(&self, pages: u64, page: u64) -> Option<u64> {
        let swap = self.word(self.total_swap_pages)?;
        let allowed = match self.word(self.overcommit_kbytes)? {
            0 => {
                let ratio = self.kernel.read_number(self.overcommit_ratio?, 4).ok()?;
                pages.saturating_mul(ratio) / 100
            }
            kbytes => kbytes.checked_div(page / 1024)?,
        };
        Some(allowed.saturating_add(swap))
    }

    /// How many pages were promised (`vm_memory_committed()`).
    pub(crate) fn committed(&self) -> Option<u64> {
        self.kernel.percpu_counter(self.committed?).ok().flatten()
    }

    /// Pages that vmalloc() has.
    pub(crate) fn vmalloc(&self) -> Option<u64> {
        self.word(self.vmalloc)
    }
}

/// `vm_committed_as`: the only counter whose address `vm_memory_committed()` makes.
fn committed(kernel: &Kernel<'_>) -> Option<u64> {
    let counter = kernel.object("struct percpu_counter", 0).ok()?;
    let link = counter.field("list").ok()?.address;
    // All counters are on a list.
    let is_counter = |at: &u64| {
        let link = at.wrapping_add(link);
        let next = kernel.read_u64(link);
        next.is_ok_and(|next| kernel.read_u64(next.wrapping_add(8)) == Ok(link))
    };
    let operands = operands::of(kernel, "vm_memory_committed").into_iter();
    let addresses = operands.filter_map(|operand| match operand {
        Operand::Address(at) => Some(at),
        Operand::Load(..) => None,
    });
    only(addresses.filter(is_counter))
}

impl Kernel<'_> {
    /// A `struct percpu_counter`: its sum, and what each CPU has not added yet; `None` if
    /// nothing tells where the CPUs have that. Below zero it is 0.
    fn percpu_counter(&self, at: u64) -> Result<Option<u64>, Error> {
        let counter = self.object("struct percpu_counter", at)?;
        let mut sum = counter.get("count")?.cast_signed();
        let own = counter.get("counters")?;
        let Some(offsets) = self.per_cpu_offsets() else {
            return Ok(None);
        };
        for offset in offsets {
            let part = self.read_number(own.wrapping_add(offset), 4)?;
            sum = sum.saturating_add(i64::from(part as i32));
        }
        Ok(Some(sum.max(0).cast_unsigned()))
    }
}
