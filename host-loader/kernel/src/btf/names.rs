//! Types by name.

use std::cell::OnceCell;

use crate::symbol_table::hash;

/// Hashes of names and numbers of types.
#[derive(Debug, Default)]
pub(super) struct Names {
    index: OnceCell<Vec<(u32, u32)>>,
}

impl Names {
    /// The numbers of the types that may have a name, in their order.
    pub(super) fn candidates<'a>(
        &self,
        name: &str,
        all: impl Iterator<Item = (&'a str, u32)>,
    ) -> impl Iterator<Item = u32> {
        let index = self.index.get_or_init(|| {
            let named = all.filter(|(name, _)| !name.is_empty());
            let mut index: Vec<_> = named.map(|(name, number)| (hash(name), number)).collect();
            index.sort_unstable();
            index
        });
        let wanted = hash(name);
        let from = index.partition_point(|(hash, _)| *hash < wanted);
        let equal = index.get(from..).unwrap_or_default().iter();
        equal
            .take_while(move |(hash, _)| *hash == wanted)
            .map(|(_, number)| *number)
    }
}
