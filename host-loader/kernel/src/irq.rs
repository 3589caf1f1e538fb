//! Interrupts: who handles them, and how often each CPU did.
//!
//! Descriptors are in a maple tree, `sparse_irqs` (6.5, 721255b9826b), before in a radix tree,
//! `irq_desc_tree`. A kernel whose kallsyms has no data tells neither. Then the image's data is
//! searched for a tree whose first node points back to it, and whose first entry is a descriptor
//! that says of itself where it is and what number it has.
//!
//! Source: `kernel/irq/irqdesc.c`, `include/linux/irqdesc.h`, `include/linux/irq.h`,
//! `lib/radix-tree.c` (`radix_tree_node_alloc`), `lib/maple_tree.c` (`ma_is_root`).

use std::collections::BTreeSet;

use kdraw_linux::bytes::u64_at;
use serde::Serialize;

use crate::object::{Error, Object};
use crate::{Kernel, xarray};

/// The most descriptors (`IRQ_BITMAP_BITS` of the largest kernels).
const MAX_IRQS: usize = 1 << 20;
/// The most handlers that share an interrupt.
const MAX_ACTIONS: usize = 1024;
/// Bits of a maple tree's node's address that tell of its type.
const MAPLE_TAG: u64 = 0xff;

/// An interrupt.
#[derive(Clone, Debug, Serialize)]
pub struct Irq {
    /// Linux's number.
    #[serde(rename = "irq")]
    pub number: u64,
    /// Its `struct irq_desc`.
    pub desc: u64,
    /// The controller's name; that of its variable if it gives itself none, as the GIC does.
    pub chip: Option<String>,
    /// The number that the controller has for it.
    pub hwirq: u64,
    /// The domain in which that is its number.
    pub domain: Option<String>,
    /// The function that takes it from the controller: `handle_fasteoi_irq`, …
    pub flow: Option<String>,
    /// Who handles it.
    pub actions: Vec<Action>,
    /// How often each CPU took it, in the CPUs' order; `None` where that is not known.
    pub counts: Vec<Option<u64>>,
    /// The CPUs that it may go to; `None` if that is not known.
    pub affinity: Option<Vec<u32>>,
}

/// Who handles an interrupt.
#[derive(Clone, Debug, Serialize)]
pub struct Action {
    /// Its `struct irqaction`.
    pub action: u64,
    /// The device's or driver's name; empty if it gave none.
    pub name: String,
    /// The function, if its name is known.
    pub handler: Option<String>,
    /// The function that goes on in a thread.
    pub thread: Option<String>,
}

/// Reads all interrupts, by their numbers; where they cannot be read there are errors.
///
/// # Errors
/// [`Error`] if the kernel does not tell where they are.
pub fn read<'k>(kernel: &'k Kernel<'k>) -> Result<Vec<Result<Irq, Error>>, Error> {
    let template = kernel.object("struct irq_desc", 0)?;
    let entries = match (kernel.symbol("sparse_irqs"), kernel.symbol("irq_desc_tree")) {
        (Some(at), _) => maple(kernel, at)?,
        (None, Some(at)) => radix(kernel, at)?,
        (None, None) => {
            let found = search(kernel, &template)?;
            found.ok_or_else(|| Error::NoSymbol("the tree of interrupts".into()))?
        }
    };
    let cpus = kernel.cpus().unwrap_or_default();
    let offsets = kernel.per_cpu_offsets();
    let offsets: Option<Vec<u64>> = offsets.map(Iterator::collect);
    let own = |entry: (u64, u64)| one(&template.moved(entry.1), &cpus, offsets.as_deref());
    Ok(entries
        .take(MAX_IRQS)
        .map(|entry| entry.and_then(own))
        .collect())
}

/// Numbers and descriptors.
type Entries<'k> = Box<dyn Iterator<Item = Result<(u64, u64), Error>> + 'k>;

fn maple<'k>(kernel: &'k Kernel<'k>, at: u64) -> Result<Entries<'k>, Error> {
    let entries = kernel.object("struct maple_tree", at)?.maple_tree()?;
    let number = |(first, _, entry)| (first, entry);
    Ok(Box::new(entries.map(move |entry| entry.map(number))))
}

fn radix<'k>(kernel: &'k Kernel<'k>, at: u64) -> Result<Entries<'k>, Error> {
    Ok(Box::new(kernel.object("struct xarray", at)?.xarray()?))
}

/// Searches the image's data for the tree.
fn search<'k>(kernel: &'k Kernel<'k>, template: &Object<'k>) -> Result<Option<Entries<'k>>, Error> {
    let (number, own) = (
        template.field("irq_data.irq")?,
        template.field("irq_data.common")?,
    );
    let common = template.field("irq_common_data")?.address;
    let is_first = |mut entries: Entries<'k>| {
        let Some(Ok((index, desc))) = entries.next() else {
            return false;
        };
        let at = |field: &Object<'_>| desc.wrapping_add(field.address);
        kernel.read_u64(at(&own)) == Ok(desc.wrapping_add(common))
            && kernel.read_number(at(&number), 4) == Ok(index)
    };
    let head = kernel.object("struct xarray", 0)?.field("xa_head")?.address;
    let back = kernel.object("struct xa_node", 0)?.field("array")?.address;
    // Kernels before 6.1 have no maple trees.
    let root = kernel.object("struct maple_tree", 0);
    let root = root.and_then(|tree| tree.field("ma_root"));
    let root = root.ok().map(|field| field.address);
    Ok(kernel.search_image(8, |at, words| {
        let node = xarray::node(u64_at(words, 0)?)?;
        let tree = at.wrapping_sub(head);
        if kernel.read_u64(node.wrapping_add(back)) == Ok(tree)
            && is_first(radix(kernel, tree).ok()?)
        {
            return radix(kernel, tree).ok();
        }
        let tree = at.wrapping_sub(root?);
        // A root's parent is the tree, with the lowest bit set.
        let is_root = kernel.read_u64(node & !MAPLE_TAG) == Ok(tree | 1);
        let entries = maple(kernel, tree).ok().filter(|_| is_root)?;
        is_first(entries).then(|| maple(kernel, tree).ok())?
    }))
}

fn one(desc: &Object<'_>, cpus: &[u32], offsets: Option<&[u64]>) -> Result<Irq, Error> {
    let data = desc.field("irq_data")?;
    let name = |of: &str| -> Option<String> {
        let name = data.follow(of).ok()??.field("name").ok()?;
        (name.number().ok()? != 0).then(|| name.text().ok())?
    };
    Ok(Irq {
        number: data.get("irq")?,
        desc: desc.address,
        chip: name("chip").or_else(|| variable(&data, "chip")),
        hwirq: data.get("hwirq")?,
        domain: name("domain"),
        flow: function(desc, "handle_irq"),
        actions: actions(desc)?,
        counts: match offsets {
            Some(offsets) => {
                let count = |offset: &u64| count(desc, *offset).ok();
                offsets.iter().map(count).collect()
            }
            None => vec![None; cpus.len()],
        },
        affinity: affinity(desc, cpus).ok(),
    })
}

/// The name of the variable that a member points to.
fn variable(of: &Object<'_>, member: &str) -> Option<String> {
    let place = of.kernel().place(of.get(member).ok()?)?;
    // Where only functions have names, the place is far from one.
    (place.offset == 0).then(|| place.symbol.name.to_owned())
}

/// The name of the function in a member.
fn function(of: &Object<'_>, member: &str) -> Option<String> {
    let at = of.get(member).ok().filter(|at| *at != 0)?;
    let place = of.kernel().place(at)?;
    Some(match place.module {
        Some(module) => format!("{} [{module}]", place.symbol.name),
        None => place.symbol.name.to_owned(),
    })
}

fn actions(desc: &Object<'_>) -> Result<Vec<Action>, Error> {
    let (mut actions, mut seen) = (Vec::new(), BTreeSet::new());
    let mut next = desc.follow("action")?;
    while let Some(action) = next {
        if actions.len() >= MAX_ACTIONS || !seen.insert(action.address) {
            return Err(Error::Endless(desc.address));
        }
        let name = action.field("name")?;
        actions.push(Action {
            action: action.address,
            name: match name.number()? {
                0 => String::new(),
                _ => name.text()?,
            },
            handler: function(&action, "handler"),
            thread: function(&action, "thread_fn"),
        });
        next = action.follow("next")?;
    }
    Ok(actions)
}

/// How often a CPU took it: a number, or since 6.10 (86d2a2f51fba) the first of some.
fn count(desc: &Object<'_>, offset: u64) -> Result<u64, Error> {
    let counts = desc.follow("kstat_irqs")?;
    let counts = counts.ok_or_else(|| Error::NoSymbol("an interrupt's counts".into()))?;
    let own = counts.moved(counts.address.wrapping_add(offset));
    match own.has("cnt") {
        true => own.get("cnt"),
        false => own.number(),
    }
}

fn affinity(desc: &Object<'_>, cpus: &[u32]) -> Result<Vec<u32>, Error> {
    let mask = desc.field("irq_common_data.affinity")?;
    // `cpumask_var_t` is a mask, or a pointer to one (`CONFIG_CPUMASK_OFFSTACK`).
    let mask = match mask.count() {
        0 => mask.pointee()?,
        _ => Some(mask.index(0)?),
    };
    let mask = mask.ok_or_else(|| Error::NoSymbol("an interrupt's affinity".into()))?;
    let bits = mask.field("bits")?;
    let mut may = Vec::new();
    for cpu in cpus {
        let word = bits.index(u64::from(cpu / 64))?.number()?;
        if word.checked_shr(cpu % 64).unwrap_or(0) & 1 == 1 {
            may.push(*cpu);
        }
    }
    Ok(may)
}
