//! The kernel's log in any memory.

use std::sync::OnceLock;

use kdraw_linux::printk::PrintkLog;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::{Input, VA, image};

/// Kernels whose structures differ.
const KERNELS: [&str; 2] = [
    include_str!("../corpus/vmcoreinfo/debian-6.1"),
    include_str!("../corpus/vmcoreinfo/debian-7.2"),
];

/// How many records are looked at one by one.
const RECORDS: u64 = 1000;

/// The input's first byte says which kernel, the rest is the image, which begins with the ring
/// buffer.
pub(crate) fn printk(data: &[u8]) {
    static INFOS: [OnceLock<String>; 2] = [const { OnceLock::new() }; 2];
    let mut input = Input(data);
    let kernel = usize::from(input.u8()) % KERNELS.len();
    let info = INFOS[kernel].get_or_init(|| {
        let lines = KERNELS[kernel].lines();
        let lines = lines.filter(|line| !line.starts_with("SYMBOL(prb)"));
        let own = format!("SYMBOL(prb)={VA:x}");
        let lines = lines.chain([own.as_str()]);
        lines.map(|line| format!("{line}\n")).collect()
    });
    let virt = image(input.0);
    let Ok(log) = PrintkLog::open(&virt, &Vmcoreinfo::new(info.as_bytes())) else {
        return;
    };
    let mut len = 0;
    let written = log.write(&mut |piece| len += piece.len());
    assert!(written.records <= log.ids(), "more records than ids");
    log.write_tail(4096, &mut |_| {});
    for number in log.ids().saturating_sub(RECORDS)..log.ids() {
        if let Ok(Some(details)) = log.details(number) {
            assert!(details.level < 8, "{details:?}");
        }
        log.write_record(number, &mut |_| {});
    }
}
