//! Small device trees made with rust-vmm's writer, for what QEMU's tree does not have.

use vm_fdt::FdtWriter;

/// Writes a tree; `body` writes what is in the root.
pub fn tree(body: impl FnOnce(&mut FdtWriter)) -> Vec<u8> {
    let mut writer = FdtWriter::new().unwrap();
    node(&mut writer, "", body);
    writer.finish().unwrap()
}

/// Writes a node; `body` writes what is in it.
pub fn node(writer: &mut FdtWriter, name: &str, body: impl FnOnce(&mut FdtWriter)) {
    let open = writer.begin_node(name).unwrap();
    body(writer);
    writer.end_node(open).unwrap();
}

/// Writes a property of cells.
pub fn cells(writer: &mut FdtWriter, name: &str, values: &[u32]) {
    writer.property_array_u32(name, values).unwrap();
}

/// Writes the cell counts of a bus.
pub fn counts(writer: &mut FdtWriter, address: u32, size: u32) {
    cells(writer, "#address-cells", &[address]);
    cells(writer, "#size-cells", &[size]);
}

/// Writes a property that is a string.
pub fn text(writer: &mut FdtWriter, name: &str, value: &str) {
    writer.property_string(name, value).unwrap();
}

/// Writes a device with one piece of registers.
pub fn device(writer: &mut FdtWriter, name: &str, compatible: &str, reg: &[u32]) {
    node(writer, name, |writer| {
        text(writer, "compatible", compatible);
        cells(writer, "reg", reg);
    });
}

/// A board as small as it gets that still has one of everything, most of it behind two buses:
/// 1-cell addresses on the inner bus, which lies at 0x100000 of the outer, 2-cell one, which
/// lies at 0x10_0000_0000 for the CPU.
pub fn small_board() -> Vec<u8> {
    tree(|root| {
        counts(root, 2, 2);
        text(root, "model", "Small Board");
        text(root, "compatible", "acme,small");
        node(root, "aliases", |aliases| {
            text(aliases, "serial0", "/outer@0/inner/uart@2000")
        });
        node(root, "chosen", |chosen| {
            text(chosen, "stdout-path", "serial0:115200n8");
            cells(
                chosen,
                "linux,usable-memory-range",
                &[0, 0x7000_0000, 0, 0x80_0000],
            );
            cells(chosen, "linux,elfcorehdr", &[0, 0x707f_0000, 0, 0x1000]);
            cells(chosen, "linux,initrd-start", &[0x7010_0000]);
            cells(chosen, "linux,initrd-end", &[0, 0x7010_1000]);
        });
        node(root, "memory@40000000", |memory| {
            text(memory, "device_type", "memory");
            // The second is empty, the third wraps around.
            let twice = [0, 0x4000_0000, 0, 0x4000_0000, 0, 0, 0, 0];
            let wrapping = [u32::MAX, 0, 1, 0, 8, 0, 1, 0];
            cells(memory, "reg", &[twice, wrapping].concat());
        });
        node(root, "cpus", |cpus| {
            // No #size-cells: the specification's default is no 0, but CPUs have no size.
            cells(cpus, "#address-cells", &[2]);
            let methods = ["", "psci", "spin-table", "acme,magic", "psci"];
            let ids = [0_u32, 0x100, 0x101, 0x102, 0x103];
            for (id, method) in ids.into_iter().zip(methods) {
                node(cpus, &format!("cpu@{id:x}"), |cpu| {
                    text(cpu, "device_type", "cpu");
                    cells(cpu, "reg", &[1, id]);
                    if !method.is_empty() {
                        text(cpu, "enable-method", method);
                    }
                    match id {
                        0x100 => text(cpu, "status", "disabled"),
                        0x103 => text(cpu, "status", "fail-parity"),
                        _ => {}
                    }
                });
            }
            node(cpus, "cpu-map", |_| {});
        });
        node(root, "psci", |psci| {
            text(psci, "compatible", "arm,psci");
            text(psci, "method", "smc");
            cells(psci, "cpu_on", &[0x95c1_ba60]);
        });
        node(root, "outer@0", |outer| {
            counts(outer, 2, 1);
            cells(outer, "ranges", &[0, 0, 0x10, 0, 0x20_0000]);
            node(outer, "inner", |inner| {
                counts(inner, 1, 1);
                cells(inner, "ranges", &[0, 0, 0x10_0000, 0x1_0000]);
                node(inner, "uart@2000", |uart| {
                    let names = ["acme,pl011", "arm,pl011"].map(String::from).to_vec();
                    uart.property_string_list("compatible", names).unwrap();
                    cells(uart, "reg", &[0x2000, 0x1000]);
                });
                device(inner, "disk@3000", "virtio,mmio", &[0x3000, 0x200]);
                device(inner, "across@ff00", "virtio,mmio", &[0xff00, 0x101]);
            });
            node(outer, "off@4000", |off| {
                text(off, "compatible", "virtio,mmio");
                text(off, "status", "disabled");
                cells(off, "reg", &[0, 0x4000, 0x200]);
            });
            node(outer, "pcie@100000", |pcie| {
                text(pcie, "compatible", "pci-host-ecam-generic");
                counts(pcie, 3, 2);
                cells(pcie, "reg", &[0, 0, 0x20_0000]);
                cells(pcie, "bus-range", &[0x20, 0x2f]);
                let mapped = [0x4200_0000, 0, 0xc000_0000, 0, 0x1000, 0, 0x2000];
                let unmapped = [0x0200_0000, 0, 0xd000_0000, 9, 0, 0, 0x2000];
                cells(pcie, "ranges", &[mapped, unmapped].concat());
            });
        });
        node(root, "flat", |flat| {
            counts(flat, 2, 2);
            flat.property_null("ranges").unwrap();
            flat.property_null("dma-coherent").unwrap();
            device(flat, "disk@5000", "virtio,mmio", &[1, 0x5000, 0, 0x200]);
            device(flat, "empty@6000", "virtio,mmio", &[0, 0x6000, 0, 0]);
            device(
                flat,
                "high@0",
                "virtio,mmio",
                &[u32::MAX, u32::MAX, 0, 0x200],
            );
            device(flat, "odd@7000", "virtio,mmio", &[0, 0x7000, 0]);
        });
        node(root, "island", |island| {
            counts(island, 1, 1);
            device(island, "disk@8000", "virtio,mmio", &[0x8000, 0x200]);
        });
        node(root, "sleeping", |bus| {
            counts(bus, 1, 1);
            text(bus, "status", "reserved");
            bus.property_null("ranges").unwrap();
            device(bus, "disk@9000", "virtio,mmio", &[0x9000, 0x200]);
        });
        node(root, "other@a000", |other| {
            text(other, "compatible", "acme,other")
        });
    })
}
