//! Any device tree.

use kdraw_boards::guard;
use kdraw_boards::machine::MAX_CPUS;
use kdraw_boards::{Controller, Error, Machine};

/// The device tree's guard; what it lets through, the parser reads.
pub(crate) fn device_tree(data: &[u8]) {
    let checked = guard::check(data);
    let machine = Machine::from_dtb(data);
    assert!(checked.is_ok() || machine.is_err(), "past the guard");
    let Ok(machine) = machine else {
        return;
    };
    let _ = (machine.model(), machine.family(), machine.console());
    let ranges = [machine.crash_region(), machine.elfcorehdr()];
    for range in ranges
        .into_iter()
        .flatten()
        .chain(machine.initrd().ok().flatten())
        .chain(machine.memory())
    {
        assert!(!range.is_empty());
    }
    assert!(machine.cpus().count() <= MAX_CPUS);
    assert_ne!(machine.psci(), Err(Error::Parser));
    for path in [
        "/virtio_mmio@a000000",
        "/soc/virtio_mmio@2000",
        "/pcie@10000000",
    ] {
        match machine.controller(path) {
            Ok(Controller::PciHost(host)) => {
                let buses = u64::from(host.bus_end - host.bus_start) + 1;
                assert!(host.ecam.len() >= buses << 20);
            }
            Ok(Controller::VirtioMmio { registers, .. }) => assert!(!registers.is_empty()),
            Ok(Controller::Sd(host)) => assert!(!host.registers.is_empty()),
            Err(error) => assert_ne!(error, Error::Parser),
        }
    }
}
