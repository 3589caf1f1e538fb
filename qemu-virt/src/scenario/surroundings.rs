//! What kdraw says of a kernel's mounts, network devices and interrupts, beside what drgn says.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::inside::asked;
use super::memory_use::{lines, same_lines};
use crate::dist::Dist;

/// Compares all three.
pub fn same(dist: &Dist, vmcore: &Path, drgn: &str) -> Result<String> {
    let mounts = lines(&asked(dist, &["mounts"], vmcore, &[])?, "mounts", |mount| {
        let [at, superblock] = ["mount", "superblock"].map(|key| &mount[key]);
        let words = ["type", "device", "directory"].map(|key| text(&mount[key]));
        Ok(format!("mount {at} {superblock} {}", words.join(" ")))
    })?;
    let devices = lines(&asked(dist, &["net"], vmcore, &[])?, "devices", |device| {
        let [at, index, mtu] = ["device", "index", "mtu"].map(|key| &device[key]);
        // drgn does not tell of the networks.
        let addresses = device["addresses"].as_array().into_iter().flatten();
        let addresses = addresses.filter_map(|address| text(address).split('/').next());
        let addresses: String = addresses.map(|address| format!(" {address}")).collect();
        let name = text(&device["name"]);
        Ok(format!("device {at} {index} {name} {mtu}{addresses}"))
    })?;
    let all = asked(dist, &["irq", "--all"], vmcore, &[])?;
    let interrupts = lines(&all, "interrupts", |irq| {
        let [number, desc, hwirq] = ["irq", "desc", "hwirq"].map(|key| &irq[key]);
        let counts = irq["counts"].as_array().into_iter().flatten();
        let counts: String = counts.map(|count| format!(" {count}")).collect();
        let actions = irq["actions"].as_array().into_iter().flatten();
        let names = actions.map(|action| text(&action["name"]));
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        let names = names.join(",");
        Ok(format!("irq {number} {desc} {hwirq}{counts} {names}"))
    })?;
    same_lines("mount ", drgn, &mounts)?;
    same_lines("device ", drgn, &devices)?;
    same_lines("irq ", drgn, &interrupts)?;
    let (mounts, devices, interrupts) = (mounts.len(), devices.len(), interrupts.len());
    Ok(format!(
        "{mounts} mounts, {devices} network devices and {interrupts} interrupts as drgn"
    ))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
