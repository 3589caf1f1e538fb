//! BTF of any bytes.

use kdraw_kernel::btf::{Btf, Types};

/// The input is vmlinux's blob; what is behind its end a module's. Everything that can be asked
/// of a type is asked of all.
pub(crate) fn btf(data: &[u8]) {
    let Ok(vmlinux) = Btf::vmlinux(data.to_vec()) else {
        return;
    };
    let types = Types::new(vmlinux);
    let _ = Btf::split(data.to_vec(), types.vmlinux());
    for id in types.all() {
        let ty = types.get(id);
        let members = types.members(&ty).count();
        assert!(members <= data.len() / 12, "more members than bytes");
        assert!(types.values(&ty).count() <= data.len() / 8);
        let _ = (types.size(id), types.c_name(id), types.stripped(id));
        let _ = types.field(id, "a.b[1].c");
        if let Some(found) = types.find(ty.name).filter(|_| !ty.name.contains(' ')) {
            assert_eq!(types.get(found).name, ty.name);
        }
        let _ = types.variable(ty.name, ty.name);
    }
}
