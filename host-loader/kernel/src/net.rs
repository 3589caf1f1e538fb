//! Network devices of the first network namespace, and their addresses.
//!
//! `init_net` heads the list of devices. A kernel whose kallsyms has no data does not tell where
//! it is; the first task's `nsproxy` does.
//!
//! Source: `include/net/net_namespace.h`, `include/linux/netdevice.h`,
//! `include/linux/inetdevice.h`, `include/net/if_inet6.h`, `include/uapi/linux/if.h`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Kernel;
use crate::object::{Error, Object};

/// The most devices, and the most addresses of one.
const MAX_DEVICES: usize = 1 << 16;
const MAX_ADDRESSES: usize = 1 << 12;
/// The longest hardware address (`MAX_ADDR_LEN`).
const MAX_HARDWARE: u64 = 32;
/// `IFF_UP`.
const UP: u64 = 1;
/// `IF_OPER_*`, as ip(8) shows them.
const STATES: [&str; 7] = [
    "unknown",
    "notpresent",
    "down",
    "lowerlayerdown",
    "testing",
    "dormant",
    "up",
];

/// A network device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its `struct net_device`.
    pub device: u64,
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u64,
    /// Whether somebody set it up.
    pub is_up: bool,
    /// Its operational state (RFC 2863): `up`, `down`, … or `unknown` if its driver does not say.
    pub state: &'static str,
    /// Bytes of the largest packet.
    pub mtu: u64,
    /// Its hardware address; empty if it has none.
    pub hardware: Vec<u8>,
    /// Its addresses, each with the bits of its network.
    pub addresses: Vec<(IpAddr, u64)>,
}

/// Reads the devices; where they cannot be read there are errors.
///
/// # Errors
/// [`Error`] if the kernel does not tell where they are.
pub fn read<'k>(kernel: &'k Kernel<'k>) -> Result<Vec<Result<Device, Error>>, Error> {
    let lost = || Error::NoSymbol("the network namespace".into());
    let namespace = match kernel.symbol("init_net") {
        Some(at) => kernel.object("struct net", at)?,
        None => {
            let proxy = kernel.init_task()?.follow("nsproxy")?;
            proxy.ok_or_else(lost)?.follow("net_ns")?.ok_or_else(lost)?
        }
    };
    let devices = namespace.field("dev_base_head")?;
    let devices = devices.list("struct net_device", "dev_list")?;
    Ok(devices
        .take(MAX_DEVICES)
        .map(|device| device.and_then(|device| one(&device)))
        .collect())
}

fn one(device: &Object<'_>) -> Result<Device, Error> {
    let state = device.get("operstate")?;
    let state = usize::try_from(state).ok().and_then(|at| STATES.get(at));
    let mut addresses = ipv4(device)?;
    // A kernel may have no IPv6, or have its types in a module.
    addresses.extend(ipv6(device).unwrap_or_default());
    Ok(Device {
        device: device.address,
        name: device.field("name")?.text()?,
        index: device.get("ifindex")?,
        is_up: device.get("flags")? & UP != 0,
        state: state.copied().unwrap_or("unknown"),
        mtu: device.get("mtu")?,
        hardware: hardware(device)?,
        addresses,
    })
}

fn hardware(device: &Object<'_>) -> Result<Vec<u8>, Error> {
    let len = device.get("addr_len")?.min(MAX_HARDWARE);
    let address = device.field("dev_addr")?;
    // Before 5.17 (adeef3e32146) it may be an array.
    let at = match address.count() {
        0 => address.number()?,
        _ => address.address,
    };
    let mut bytes = vec![0; len as usize];
    device.kernel().read(at, &mut bytes)?;
    bytes.retain(|_| at != 0);
    match bytes.iter().all(|byte| *byte == 0) {
        true => Ok(Vec::new()),
        false => Ok(bytes),
    }
}

fn ipv4(device: &Object<'_>) -> Result<Vec<(IpAddr, u64)>, Error> {
    let (mut addresses, mut seen) = (Vec::new(), BTreeSet::new());
    let mut next = match device.follow("ip_ptr")? {
        Some(own) => own.follow("ifa_list")?,
        None => None,
    };
    while let Some(address) = next {
        if addresses.len() >= MAX_ADDRESSES || !seen.insert(address.address) {
            return Err(Error::Endless(device.address));
        }
        let mut bytes = [0; 4];
        let kernel = address.kernel();
        kernel.read(address.field("ifa_local")?.address, &mut bytes)?;
        let own = IpAddr::V4(Ipv4Addr::from(bytes));
        addresses.push((own, address.get("ifa_prefixlen")?));
        next = address.follow("ifa_next")?;
    }
    Ok(addresses)
}

fn ipv6(device: &Object<'_>) -> Result<Vec<(IpAddr, u64)>, Error> {
    let Some(own) = device.follow("ip6_ptr")? else {
        return Ok(Vec::new());
    };
    let list = own.field("addr_list")?;
    let list = list.list("struct inet6_ifaddr", "if_list")?;
    let own = |address: Object<'_>| -> Result<(IpAddr, u64), Error> {
        let mut bytes = [0; 16];
        let kernel = address.kernel();
        kernel.read(address.field("addr")?.address, &mut bytes)?;
        Ok((
            IpAddr::V6(Ipv6Addr::from(bytes)),
            address.get("prefix_len")?,
        ))
    };
    list.take(MAX_ADDRESSES)
        .map(|address| address.and_then(own))
        .collect()
}
