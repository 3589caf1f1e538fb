//! VMCOREINFO of any text.

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_linux::classify::Classifier;
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::printk::PrintkLog;
use kdraw_linux::translate::VirtMem;
use kdraw_linux::uname::Uname;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;
use kdraw_tests::kernel::RAM;

use crate::Echo;
use crate::classifier::check_spans;

/// VMCOREINFO of the input, with all that is made of it: the layout, the log, the classifier. The
/// memory is the input too.
pub(crate) fn vmcoreinfo(data: &[u8]) {
    let info = Vmcoreinfo::new(data);
    assert!(info.text().len() <= data.len());
    assert!(info.symbols().count() <= data.len());
    assert!(info.build_id().is_none_or(|id| id.len() == 40));
    let _ = (
        info.kernel_offset(),
        info.crash_time(),
        info.key("OSRELEASE"),
    );
    let Ok(layout) = KernelLayout::from_vmcoreinfo(&info) else {
        return;
    };
    assert!(matches!(layout.page_shift, 12 | 14 | 16));
    let virt = VirtMem::new(Echo(data), layout);
    let _ = (virt.walk(layout.stext), Uname::read(&virt, &info));
    if let Ok(log) = PrintkLog::open(&virt, &info) {
        log.write(&mut |_| {});
        log.write_tail(4096, &mut |_| {});
    }
    let range = PhysRange {
        start: PhysAddr(RAM),
        end: PhysAddr(RAM + (4 << 20)),
    };
    if let Ok(classifier) = Classifier::new(&virt, &info) {
        check_spans(&classifier, &virt, range);
    }
}
