//! Modules as data.

use kdraw_kernel::modules::Module;
use serde::Serialize;

/// Letters of taint bits, from bit 0 on (`kernel/panic.c`, `taint_flags`).
const TAINTS: &str = "PFSRMBUDAWCIOELKXTN";

/// A module.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its `struct module`.
    pub module: u64,
    /// First byte of its text.
    pub base: u64,
    /// Bytes of all its memory.
    pub size: u64,
    /// References to it; `None` if that cannot be told.
    pub references: Option<i64>,
    /// The modules that use it.
    pub users: Vec<String>,
    /// `live`, `coming`, `going` or `unformed`.
    pub state: &'static str,
    /// Letters, as /proc/modules has them.
    pub taints: String,
    /// How many symbols it has.
    pub symbols: usize,
}

impl Line {
    /// The name, with the taints in parentheses if there are any.
    pub fn name_and_taints(&self) -> String {
        match self.taints.as_str() {
            "" => self.name.clone(),
            taints => format!("{} ({taints})", self.name),
        }
    }

    /// Of a module.
    pub fn new(module: &Module) -> Self {
        let bits = TAINTS.chars().zip(0u32..);
        let set = |bit: &u32| module.taints.checked_shr(*bit).unwrap_or(0) & 1 != 0;
        Self {
            name: module.name.clone(),
            module: module.address,
            base: module.regions.first().map_or(0, |(base, _)| *base),
            size: module.size(),
            references: module.references,
            users: module.users.clone(),
            state: module.state,
            taints: bits.filter(|(_, bit)| set(bit)).map(|(c, _)| c).collect(),
            symbols: module.symbols.len(),
        }
    }
}
